"""The picture of ``diff``: pairs whose maps agree least, with both maps over the image if that is at hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.diff.options import DiffOptions
from pipelines.errors import user_errors
from pipelines.inspect.map_scores import source_of_maps
from pipelines.plots import Picture, contact_sheet, overlay
from pipelines.sources.images import BadImage, decode_rgb
from pipelines.sources.source import Source
from saliency.quality import as_box, lay_on_image
from saliency.table.table import SaliencyTable

DRAWN = 24
"""Pairs of the picture, at most."""

_SIDE = 256  # pixels of a picture's longer side, at most


def draw_worst(
    path: Path,
    options: DiffOptions,
    before: SaliencyTable,
    after: SaliencyTable,
    rows: NDArray[np.int64],
    words: Sequence[str],
) -> None:
    """Draw pairs, one a line: ``rows`` int [n, 2] are their rows in both tables, ``words`` what to say of each.

    Images come from ``options.source``, or from where the maps of ``after`` say that they were. UserError if the
    source that was named can't be opened.
    """
    with user_errors():
        source = source_of_maps(after, options.source, allow_outside=options.allow_outside)
    places = np.full(len(rows), -1)
    if source is not None:
        theirs = after.join(source.keys, source.captions)
        for number, row in enumerate(rows[:, 1]):
            places[number] = next(iter(np.flatnonzero(theirs == row)), -1)
    columns: dict[str, list[Any]] = defaultdict(list)
    for (one, other), place, said in zip(rows, places.tolist(), words, strict=True):
        image = None if source is None or place < 0 else _image(source, place)
        if source is not None:
            columns["image"].append("not at hand" if image is None else image)
        columns["caption"].append(after.captions[int(other)].as_py())
        for name, table, row in (("before", before, one), ("after", after, other)):
            columns[name].append(_drawn(table, row, image))
        columns["agreement"].append(said)
    contact_sheet(path, columns, title="maps that agree least")


def _drawn(table: SaliencyTable, row: np.int64, image: NDArray[np.uint8] | None) -> Picture:
    """A map over its image, or alone."""
    values: NDArray[np.float32] = table.raw_maps(np.array([row]))[0]
    if image is None:
        return values
    box = as_box(table.boxes(np.array([row]))[0])
    return overlay(image, lay_on_image(values, (image.shape[0], image.shape[1]), box))


def _image(source: Source, place: int) -> NDArray[np.uint8] | None:
    try:
        image = decode_rgb(source.read_image(place), draft=_SIDE)
    except (BadImage, OSError):
        return None
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image)
