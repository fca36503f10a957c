"""Pictures of which patches masks hide: a view, its map, and each mask on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mae.masks.strategies import SALIENT_OF
from pipelines.inspect.galleries import Row, draw_pages
from pipelines.inspect.hidden_patches import Look
from pipelines.inspect.hidden_verdict import RANDOM
from pipelines.plots import grey_out, overlay
from pipelines.sources.images import decode_rgb
from pipelines.sources.source import Source
from pipelines.views.geometry import View, view_image
from saliency.quality import as_box

_FORCED = (220, 0, 150)  # magenta, which photos hardly have


def draw_hidden(path: Path, source: Source, look: Look, size: tuple[int, int]) -> list[Path]:
    """Draw the pairs of ``look.drawn`` in their first view of ``size`` (height, width), a dozen to a page.

    Returns the files. Raises UserError if no image can be read.
    """
    sample, drawn = look.sample, look.drawn
    pairs = sample.pairs[drawn.positions]

    def cells(pair: int) -> Row:
        place = int(np.flatnonzero(pairs == pair)[0])
        position = drawn.positions[place]
        view = View(as_box(sample.boxes[position, 0].numpy()), bool(sample.flips[position, 0]))
        image = _seen(decode_rgb(source.read_image(pair)), view, size)
        row: Row = {"image": image}
        if source.has_captions:
            row["caption"] = source.caption(pair) or ""
        row["map"] = overlay(image, drawn.saliency[place])
        if source.has_masks:
            row["true mask"] = _true_mask(source, pair, view, size)
        for name in (*(name for name in SALIENT_OF if name in drawn.hidden), RANDOM):
            masked = grey_out(image, drawn.hidden[name][place])
            if name in drawn.forced:
                masked = grey_out(masked, drawn.forced[name][place], _FORCED)
            row[f"of {name}" if name in SALIENT_OF else name] = masked
        return row

    found = look.found
    title = (
        f"salient ratio {found.asked['salient_ratio']:g}, {found.hidden} of {found.grid[0] * found.grid[1]} patches "
        "hidden: magenta because they are salient, grey at random"
    )
    return draw_pages(path, pairs, cells, title)


def _true_mask(source: Source, pair: int, view: View, size: tuple[int, int]) -> Any:
    mask = source.read_mask(pair)
    if mask is None or not mask.any():
        return "none"
    return _seen(Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB"), view, size)


def _seen(image: Image.Image, view: View, size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(view_image(image, view, size).transpose(1, 2, 0))
