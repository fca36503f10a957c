"""Pictures of a pair: its image, its maps, the mask that a training would draw, and what models fill in.

What is looked at is a :class:`Subject`: a pair by its number, or an image that somebody brought, and the map that
masks follow, one of a table's or that of a caption which was typed.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import RLock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mae.masks.strategies import STRATEGIES
from mae.models.mask import Mask
from mae.models.video import VideoMaskedAutoencoder
from mae.pixels import denormalise, normalise
from pipelines.api.heatmap import Heatmap, heatmap, overlay
from pipelines.api.maps import Maps
from pipelines.api.masks import mask as masks_of
from pipelines.api.model import Model
from pipelines.errors import UserError, user_errors
from pipelines.explore.images import Images
from pipelines.explore.opened import Opened
from pipelines.explore.requests import OF_ONE_IMAGE, TYPED, Asked, Subject
from pipelines.sources.images import BadImage, decode_rgb
from pipelines.views.geometry import View, central_box, view_image, view_maps
from saliency.maps import FULL
from saliency.table.imported import without_clip

_SIDE, _PATCH = 224, 16
"""Of the view that masks are drawn on where no model says another."""
_KEPT = 64


@dataclass(frozen=True)
class Drawn:
    """A mask on the view of a model: bool [h, w] what is ``hidden``, and what of that is ``forced`` by its saliency."""

    mask: Mask
    hidden: NDArray[np.bool_]
    forced: NDArray[np.bool_]
    mass: float
    """The share of the map's sum that is hidden; NaN without a map."""


class Looks:
    """Makes the pictures. One at a time, since they share models; what is expensive is remembered."""

    def __init__(self, opened: Opened, images: Images) -> None:
        self.opened, self._images = opened, images
        self._lock = RLock()
        self._maps = {name: Maps(table.folder) for name, table in opened.tables.items()}
        self._heats: OrderedDict[tuple[str, str], Heatmap] = OrderedDict()

    def heat(self, subject: Subject) -> Heatmap | None:
        """The map of a subject; None where it has none. UserError, BadImage."""
        if subject.map == TYPED:
            return self._typed(subject.row, subject.caption)
        if subject.row.startswith("own-") or not self.opened.tables:
            return None
        name = subject.map or next(iter(self.opened.tables))
        row = self.opened.row_of(self._images.number(subject.row), name)
        return None if row is None else self._maps[name][row]

    def _typed(self, row: str, caption: str) -> Heatmap:
        """What a typed caption finds in an image, by the method and settings of the first maps that CLIP made."""
        if not caption.strip():
            raise UserError("type a caption first")
        with self._lock:
            if (row, caption) not in self._heats:
                clip = self.opened.clip
                known = next((each.metadata for each in self._maps.values() if not without_clip(each.metadata)), {})
                method = known.get("method", "gradcam")
                wanted: dict[str, Any] = {name: known[name] for name in ("tiles", "fit") if name in known}
                if known.get("grid") != clip.grid[0]:
                    wanted |= {"grid": known["grid"]} if "grid" in known else {}
                self._heats[row, caption] = heatmap(clip, self._images.open(row), caption, method, **wanted)
                if len(self._heats) > _KEPT:
                    self._heats.popitem(last=False)
            return self._heats[row, caption]

    def map_picture(self, subject: Subject, side: int) -> Image.Image:
        """The map of a typed caption, laid over its image. BadImage, OSError, UserError."""
        return overlay(self._images.open(subject.row, side=side), self._typed(subject.row, subject.caption))

    def draw(self, subject: Subject, asked: Asked, model: str = "") -> Drawn:
        """The mask that a training with these options draws on the central view of the image. UserError."""
        grid, size = self.grid(model)
        heat = self.heat(subject)
        saliency = None if heat is None else self._on_view(heat, subject.row, grid, size)
        if asked.strategy not in OF_ONE_IMAGE:
            raise UserError(f"masks {asked.strategy!r} can't be drawn here: there are {', '.join(OF_ONE_IMAGE)}")
        ranked, led = STRATEGIES[asked.strategy].ranked, "maps" in STRATEGIES[asked.strategy].needs
        if led and saliency is None:
            raise UserError("this pair has no map: choose masks that need none, or type a caption")
        options: dict[str, Any] = {"mask_ratio": asked.mask_ratio}
        if ranked:
            options |= {name: getattr(asked, name) for name in ("salient_ratio", "salient_of", "salient_pick")}
        settings = masks_of(asked.strategy, **options).settings
        generator = torch.Generator().manual_seed(asked.seed)
        with user_errors():
            draw = settings.draw(1, grid, generator=generator, saliency=saliency if led else None)
            mask = settings.mask(draw)
            forced = settings.forced(draw) if ranked else torch.zeros_like(mask.hidden)
        total = 0.0 if saliency is None else float(saliency.sum())
        mass = float(saliency[mask.hidden].sum()) / total if saliency is not None and total > 0 else math.nan
        shape = grid[-2:]
        return Drawn(mask, mask.hidden.reshape(shape).numpy(), (forced & mask.hidden).reshape(shape).numpy(), mass)

    def filled(self, subject: Subject, asked: Asked, model: str) -> Image.Image:
        """The central view with what is hidden by the mask as a model fills it in. UserError, BadImage, OSError."""
        with self._lock:
            loaded = self._filling(model)
            mask = self.draw(subject, asked, model).mask
            pixels = torch.from_numpy(view_image(*self._view(subject.row, loaded.image_size), loaded.image_size))
            images = normalise(pixels[None].to(loaded.device))
            mask = replace(
                mask, **{name: getattr(mask, name).to(loaded.device) for name in ("ids_keep", "ids_restore", "hidden")}
            )
            with torch.inference_mode():
                completed = denormalise(loaded.network.reconstruct(images, mask))[0]
            return Image.fromarray(completed.permute(1, 2, 0).cpu().numpy())

    def seen(self, row: str, model: str, side: int) -> Image.Image:
        """The central view that a model sees, at ``side`` pixels. BadImage, OSError, UserError."""
        image, view = self._view(row, self.grid(model)[1])
        size = (side, side)
        return Image.fromarray(np.ascontiguousarray(view_image(image, view, size).transpose(1, 2, 0)))

    def recovered(self, row: str, model: str, painted: bytes, side: int) -> Image.Image:
        """The image with what was ``painted`` (a mask, white where it is hidden) filled in by a model."""
        with self._lock:
            image = self._images.open(row, side=side)
            mask = decode_rgb(painted).convert("L").resize(image.size, Image.Resampling.NEAREST)
            hidden = np.asarray(mask) > 127
            if not hidden.any():
                raise UserError("paint over something first")
            return self._filling(model).reconstruct(image, hidden)

    def grid(self, model: str) -> tuple[tuple[int, int], tuple[int, int]]:
        """The grid of patches (rows, columns) and the pixels (height, width) of what a model sees."""
        if not model:
            return (_SIDE // _PATCH, _SIDE // _PATCH), (_SIDE, _SIDE)
        loaded = self.opened.model(model)
        rows, columns = loaded.network.grid[-2:]
        return (rows, columns), loaded.image_size

    def _filling(self, name: str) -> Model:
        loaded = self.opened.model(name)
        if not loaded.has_decoder:
            raise UserError(f"{name} is an encoder alone, which fills nothing in")
        if isinstance(loaded.network, VideoMaskedAutoencoder):
            raise UserError(f"{name} is a model of video; mae-cli reconstruct fills in videos")
        return loaded

    def _view(self, row: str, size: tuple[int, int]) -> tuple[Image.Image, View]:
        image = self._images.open(row)
        return image, View(central_box(*image.size, size[1] / size[0]))

    def _on_view(self, heat: Heatmap, row: str, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """The mean saliency of every patch of the central view, [1, N]; of the whole image where that is not there."""
        try:
            box = self._view(row, size)[1].box
        except (BadImage, OSError):
            box = FULL
        parts = (torch.from_numpy(np.ascontiguousarray(heat.map))[None], torch.tensor([heat.box]), torch.tensor([box]))
        return view_maps(*parts, torch.tensor([False]), grid)
