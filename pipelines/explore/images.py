"""The images of pairs, and those that somebody brought."""

from __future__ import annotations

import io
from collections import OrderedDict
from threading import Lock

import numpy as np
from PIL import Image

from pipelines.errors import UserError
from pipelines.explore.opened import Opened
from pipelines.plots import overlay
from pipelines.sources.images import BadImage, decode_rgb
from saliency.quality import as_box, lay_on_image

OWN = "own-"
"""How the name of an image begins that somebody brought."""

_LARGEST = 4096
"""Pixels of its longer side; a larger one is made smaller."""
_KEPT = 8


class Images:
    """Opens images by the number of their pair, or by the name of one that was brought."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self._lock = Lock()
        self._count = 0
        self._brought: OrderedDict[str, bytes] = OrderedDict()

    def bring(self, data: bytes) -> str:
        """Take an image that somebody brought, and name it. UserError if it is none."""
        try:
            image = decode_rgb(data, draft=_LARGEST)
        except BadImage as error:
            raise UserError(f"this is no image that can be read: {error}") from error
        image.thumbnail((_LARGEST, _LARGEST))
        kept = io.BytesIO()
        image.save(kept, "PNG")
        with self._lock:
            self._count += 1
            name = f"{OWN}{self._count}"
            self._brought[name] = kept.getvalue()
            if len(self._brought) > _KEPT:
                self._brought.popitem(last=False)
        return name

    def open(self, row: str, *, side: int | None = None) -> Image.Image:
        """The image of a pair, its longer side at most ``side`` pixels. BadImage, OSError, UserError."""
        if row.startswith(OWN):
            kept = self._brought.get(row)
            if kept is None:
                raise UserError("this image is not kept any more: bring it again")
            data = kept
        else:
            number = self.number(row)
            source = self.opened.source
            place = self.opened.find_image(number)
            assert source is not None
            data = source.read_image(place)
        image = decode_rgb(data, draft=side)
        if side is not None:
            image.thumbnail((side, side), Image.Resampling.BICUBIC)
        return image

    def number(self, row: str) -> int:
        """A pair's number. UserError."""
        if not row.isdecimal() or not int(row) < len(self.opened.pairs):
            raise UserError(f"there is no pair {row!r}: they go from 0 to {len(self.opened.pairs) - 1}")
        return int(row)

    def true_mask(self, row: str, side: int) -> Image.Image | None:
        """The true mask of a pair, white on the object; None where it is not known."""
        source = self.opened.source
        if row.startswith(OWN) or source is None or not source.has_masks:
            return None
        mask = source.read_mask(self.opened.find_image(self.number(row)))
        if mask is None or not mask.any():
            return None
        shown = Image.fromarray(mask.astype(np.uint8) * 255)
        shown.thumbnail((side, side), Image.Resampling.NEAREST)
        return shown

    def map_picture(self, row: str, name: str, side: int) -> Image.Image | None:
        """The map that a table has of a pair, laid over its image, or alone where that is not there; None without."""
        found = None if row.startswith(OWN) else self.opened.row_of(self.number(row), name)
        if found is None:
            return None
        table, rows = self.opened.tables[name], np.asarray([found])
        try:
            pixels = np.asarray(self.open(row, side=side))
        except (BadImage, OSError):
            pixels = np.full((side, side, 3), 255, np.uint8)
        laid = lay_on_image(table.raw_maps(rows)[0], (pixels.shape[0], pixels.shape[1]), as_box(table.boxes(rows)[0]))
        return Image.fromarray(overlay(pixels, laid))
