"""Contact sheets of ``inspect``: maps over their images, or the images of a source, a dozen to a page.

Pairs are spread evenly over the whole, not merely the first ones. Where maps were judged against masks, further sheets
show those whose maps lie best and worst. One page is held in memory at a time.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.errors import UserError
from pipelines.inspect.map_scores import evenly_spaced
from pipelines.inspect.map_verdict import PairScores
from pipelines.plots import contact_sheet, overlay
from pipelines.sources.images import BadImage, decode_rgb
from pipelines.sources.source import Source, Video
from pipelines.sources.video.slots import slot_frames
from saliency.maps import Box
from saliency.quality import as_box, energy_inside, lay_on_image, pointing
from saliency.table.table import SaliencyTable

PAGE = 12
"""Rows of a sheet."""

_SIDE = 256  # pixels of a picture's longer side, at most

Row = dict[str, Any]
"""The cells of one pair by the names of their columns."""


def check_picture(path: Path, option: str = "--gallery") -> None:
    """UserError if a picture can't have this name."""
    if path.suffix.lower() != ".png" or path.is_dir():
        raise UserError(f"{option} {path} is not the name of a PNG file; give one that ends in .png")


def draw_maps(
    path: Path,
    source: Source,
    table: SaliencyTable,
    rows: NDArray[np.int64],
    pairs: NDArray[np.int64],
    *,
    size: int = PAGE,
    scores: PairScores | None = None,
) -> list[Path]:
    """Draw ``size`` of the pairs, evenly spaced: image, caption, map, and with a mask the verdict; returns the files.

    ``rows`` are the pairs' rows of the table. More than a page go to name.png, name-2.png, …; with ``scores`` the best
    and the worst of them go to name-best.png and name-worst.png. Raises UserError if no image can be read.
    """

    def cells(pair: int) -> Row:
        return _map_cells(source, table, rows, pair)

    drawn = draw_pages(path, evenly_spaced(pairs, size), cells, "maps, evenly spaced")
    if scores is None or len(scores.pairs) <= 1:
        return drawn
    ranked = scores.pairs[np.lexsort((scores.energy, scores.pointing))]
    count = min(size, PAGE, (len(ranked) + 1) // 2)
    for name, chosen in (("best", ranked[::-1][:count]), ("worst", ranked[:count])):
        title = f"{name} of {len(ranked)} maps, by pointing, then energy"
        drawn += draw_pages(path.with_stem(f"{path.stem}-{name}"), chosen, cells, title)
    return drawn


def draw_source(path: Path, source: Source, *, size: int = PAGE) -> list[Path]:
    """Draw ``size`` images of a source with their captions, evenly spaced; returns the files. UserError as above."""

    def cells(pair: int) -> Row:
        return {"image": _small(source, pair), "caption": source.caption(pair) or "no caption"}

    return draw_pages(path, evenly_spaced(np.arange(len(source)), size), cells, "")


def draw_pages(path: Path, pairs: NDArray[np.int64], cells: Callable[[int], Row], title: str) -> list[Path]:
    """Draw the pairs, a dozen to a page; returns the files. ``cells`` may raise BadImage or OSError. UserError."""
    drawn: list[Path] = []
    for start in range(0, len(pairs), PAGE):
        columns: dict[str, list[Any]] = collections.defaultdict(list)
        for pair in pairs[start : start + PAGE].tolist():
            try:
                row = cells(pair)
            except (BadImage, OSError):
                continue
            for name, cell in row.items():
                columns[name].append(cell)
        if columns:
            page = path if not drawn else path.with_stem(f"{path.stem}-{len(drawn) + 1}")
            contact_sheet(page, columns, title=title)
            drawn.append(page)
    if not drawn:
        raise UserError("no image of the gallery can be read")
    return drawn


def _map_cells(source: Source, table: SaliencyTable, rows: NDArray[np.int64], pair: int) -> Row:
    pixels, row = _small(source, pair), rows[[pair]]
    values, box = table.raw_maps(row)[0], as_box(table.boxes(row)[0])
    laid = lay_on_image(values, (pixels.shape[0], pixels.shape[1]), box)
    cells: Row = {"image": pixels, "caption": table.captions[int(row[0])].as_py()}
    cells |= {"map over image": overlay(pixels, laid), "map": values}
    if table.slots > 1 and source.videos is not None:
        cells |= _ends(source.open_video(pair), table.raw_slot_maps(row)[0], box)
    if not source.has_masks:
        return cells
    mask = source.read_mask(pair)
    if mask is None or not mask.any():
        return cells | {"true mask": "none", "verdict": "not judged"}
    whole = lay_on_image(values, (mask.shape[0], mask.shape[1]), box)
    verdict = f"{_hit(pointing(whole, mask))}\nenergy {energy_inside(whole, mask):.2f}\n(chance {mask.mean():.2f})"
    return cells | {"true mask": _shrink(mask), "verdict": verdict}


def _ends(video: Video, maps: NDArray[np.float32], box: Box) -> Row:
    """The maps of a clip's first and last slot over the frames in their middle; that of the middle one is shown."""
    frames = slot_frames(video.times, len(maps))
    cells: Row = {}
    for name, slot in (("first slot", 0), ("last slot", len(maps) - 1)):
        (picture,) = video.read([int(frames[slot])], draft=_SIDE)
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        pixels = np.asarray(picture)
        cells[name] = overlay(pixels, lay_on_image(maps[slot], (pixels.shape[0], pixels.shape[1]), box))
    return cells


def _hit(share: float) -> str:
    return {0.0: "MISS", 1.0: "HIT"}.get(share, f"{share:.0%} HIT")


def _small(source: Source, pair: int) -> NDArray[np.uint8]:
    image = decode_rgb(source.read_image(pair), draft=_SIDE)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _shrink(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.NEAREST)
    return np.asarray(image, np.float32)
