"""An image seen through windows: the whole of it, and with tiles also overlapping parts, blended into one map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from saliency.maps import FULL, Box, fit_grid
from saliency.methods import saliency_maps
from saliency.towers import Tower


def windows(tiles: int) -> list[Box]:
    """The windows of an image for ``tiles`` tiles a side, the whole image first."""
    if tiles != 1:
        raise ValueError(f"--tiles is {tiles}; only 1 is supported")
    return [FULL]


def squash_windows(tower: Tower, image: Image.Image, box: Box, tiles: int) -> NDArray[np.uint8]:
    """The windows of the part ``box`` of an RGB image at the model's square size, uint8 [T, 3, S, S]."""
    x0, y0, x1, y1 = box
    parts: list[Box] = [
        (x0 + a * (x1 - x0), y0 + b * (y1 - y0), x0 + c * (x1 - x0), y0 + d * (y1 - y0))
        for a, b, c, d in windows(tiles)
    ]
    return np.stack([tower.squash(image, part) for part in parts])


def map_windows(
    tower: Tower, pixels: Tensor, texts: Tensor, *, method: str, tiles: int, grid: int
) -> tuple[Tensor, Tensor]:
    """Raw maps of B pairs whose images are given as windows.

    pixels: uint8 [B, T, 3, S, S] as ``squash_windows`` gives them; texts: unit-length float32 [B, D].
    Returns maps float32 [B, G, G] ≥ 0 and scores float32 [B], cos(whole image, caption).
    """
    maps, scores = saliency_maps(
        tower, pixels.flatten(0, 1), texts.repeat_interleave(pixels.shape[1], 0), method=method
    )
    return fit_grid(maps, grid), scores
