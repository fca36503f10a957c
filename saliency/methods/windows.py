"""An image seen through windows: the whole of it, and with tiles also overlapping parts, blended into one map.

With n tiles a side, n × n windows of 2 / (n + 1) of the side stand beside the whole image, each sharing half its side
with the next and each resized to the model's square, so the model sees details it could not see and its patches cover
(2 / (n + 1))² of the area they covered before. The blend is half the whole image's map, half the windows':

* within the windows' half, a window's map is weighted by a hat, 1 at its centre and 0 where the next window has its
  centre (outside the outermost centres the outermost window counts alone). The hats add up to 1 everywhere, and are
  integrated exactly over every cell, so maps of the same constant blend to that constant.
* raw values say how strongly a window answers to the caption, not whether it holds what is named: a window on bare
  background has a map too. So a window's map counts by the model's own odds that the caption belongs to this window
  and not to another, softmax(logit scale · cos(window, caption)) over the windows, times their number.

Both choices were made on validation data; ``docs/guide/finer-maps.md`` says by how much, and what windows buy.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from saliency.maps import FULL, Box
from saliency.methods.methods import saliency_maps
from saliency.resample import fit_grid
from saliency.towers.tower import Tower

LARGEST_GRID = 256
"""Cells a side of a stored map, at most."""

_MOST_TILES = 16  # 257 forward passes an image


def windows(tiles: int) -> list[Box]:
    """The windows of an image for ``tiles`` tiles a side: the whole image, then if there are several the tiles by rows.

    ``tiles`` tiles a side are 1 + tiles² windows, but for one, which is the whole image: 1. ValueError out of 1..16.
    """
    if not 1 <= tiles <= _MOST_TILES:
        raise ValueError(f"--tiles is {tiles}; it must be between 1 and {_MOST_TILES}")
    if tiles == 1:
        return [FULL]
    spans = [(i / (tiles + 1), (i + 2) / (tiles + 1)) for i in range(tiles)]
    return [FULL, *((left, top, right, bottom) for top, bottom in spans for left, right in spans)]


def finest_grid(side: int, tiles: int) -> int:
    """Cells a side at which a cell is as large as one of a window's map of ``side`` cells, 256 at most."""
    return min((side * (tiles + 1) + 1) // 2, LARGEST_GRID)


def squash_windows(tower: Tower, image: Image.Image, box: Box, tiles: int) -> NDArray[np.uint8]:
    """The windows of the part ``box`` of an RGB image at the model's square size, uint8 [T, 3, S, S]."""
    return np.stack([tower.squash(image, _within(box, part)) for part in windows(tiles)])


def map_windows(
    tower: Tower, pixels: Tensor, texts: Tensor, *, method: str, tiles: int, grid: int, at_once: int | None = None
) -> tuple[Tensor, Tensor]:
    """Raw maps of B images given as windows, each with one caption or with K.

    pixels: uint8 [B, T, 3, S, S] as ``squash_windows`` gives them; texts: unit-length float32 [B, D] or [K, B, D].
    Returns maps float32 [B, G, G] or [K, B, G, G], ≥ 0, and scores float32 [B] or [K, B], cos(whole image, caption).
    The model sees ``at_once`` windows at a time (B if not given), so that T forward passes need the memory of one.
    """
    images, count = pixels.shape[:2]
    if count != len(windows(tiles)):
        raise ValueError(f"{count} windows an image, but --tiles {tiles} makes {len(windows(tiles))}")
    if texts.ndim == 2:
        maps, scores = map_windows(tower, pixels, texts[None], method=method, tiles=tiles, grid=grid, at_once=at_once)
        return maps[0], scores[0]
    looks, captions = pixels.flatten(0, 1), texts.repeat_interleave(count, dim=1)
    step = at_once or images
    chunks = [slice(start, start + step) for start in range(0, len(looks), step)]
    seen = [saliency_maps(tower, looks[chunk], captions[:, chunk], method=method) for chunk in chunks]
    maps = torch.cat([part for part, _ in seen], dim=1)
    scores = torch.cat([part for _, part in seen], dim=1)
    if tiles > 1:
        maps, scores = _blended(tower, maps.view(-1, count, *tower.grid), scores.view(-1, count), tiles, grid)
    pairs = texts.shape[:2]
    return fit_grid(maps.view(-1, *maps.shape[-2:]), grid).view(*pairs, grid, grid), scores.view(pairs)


def _blended(tower: Tower, maps: Tensor, scores: Tensor, tiles: int, grid: int) -> tuple[Tensor, Tensor]:
    """The windows' maps [P, T, H, W] and scores [P, T] of P pairs → a map [P, G', G'] and a score [P] for each."""
    fine = min(grid, finest_grid(max(maps.shape[2:]), tiles))
    weighted = maps[:, 1:] * window_weights(tower, scores[:, 1:])[..., None, None]
    return (fit_grid(maps[:, 0], fine) + blend(weighted, tiles, fine)) / 2, scores[:, 0]


def window_weights(tower: Tower, scores: Tensor) -> Tensor:
    """How much each of an image's windows counts, from cos(window, caption) [B, n²]: float32 [B, n²], on average 1."""
    model: Any = tower.model
    scale: Tensor = model.logit_scale.detach().exp()
    return (scores.float() * scale).softmax(dim=1) * scores.shape[1]


def blend(maps: Tensor, tiles: int, grid: int) -> Tensor:
    """The maps of an image's tiles [B, tiles², H, W], by rows as ``windows`` has them → one map float32 [B, G, G].

    A cell holds the mean over its area of Σ_k w_k · map_k, with w_k the hats and Σ_k w_k = 1.
    """
    rows, columns = (_hats_on(tiles, grid, cells, maps.device) for cells in maps.shape[2:])
    batch, _, height, width = maps.shape
    return torch.einsum("ygh,byxhw,xfw->bgf", rows, maps.reshape(batch, tiles, tiles, height, width), columns)


def _within(box: Box, part: Box) -> Box:
    """The part of a box, in fractions of it, as a box of the image; never a rounding error beyond the box's edges."""
    x0, y0, x1, y1 = box
    a, b, c, d = part
    return (x0 * (1 - a) + x1 * a, y0 * (1 - b) + y1 * b, x0 * (1 - c) + x1 * c, y0 * (1 - d) + y1 * d)


@lru_cache(maxsize=16)
def _hats_on(tiles: int, grid: int, cells: int, device: torch.device) -> Tensor:
    """The hats on a device, once: a copy from the host would wait for all work that is queued there."""
    return _hat_integrals(tiles, grid, cells).to(device)


def _hat_integrals(tiles: int, grid: int, cells: int) -> Tensor:
    """Along one side, the mean over each output cell of each tile's hat within each cell of its map, [n, G, cells].

    The windows and their hats are products of such a side with itself, and so is the blend.
    """
    edges = np.arange(grid + 1) / grid
    integrals = np.empty((tiles, grid, cells))
    for tile in range(tiles):
        map_edges = (tile + 2 * np.arange(cells + 1) / cells) / (tiles + 1)
        lower = np.maximum(edges[:-1, None], map_edges[None, :-1])
        upper = np.maximum(np.minimum(edges[1:, None], map_edges[None, 1:]), lower)
        integrals[tile] = _hat_area(upper, tile, tiles) - _hat_area(lower, tile, tiles)
    return torch.from_numpy(integrals * grid).float()


def _hat_area(x: NDArray[np.float64], tile: int, tiles: int) -> NDArray[np.float64]:
    """The integral of a tile's hat from its window's start to x."""
    u = np.clip(x * (tiles + 1) - (tile + 1), -1, 1)  # -1, 0 and 1 at the window's start, centre and end
    rising = np.where(u < 0, u + 1, 1) if tile == 0 else np.where(u < 0, (u + 1) ** 2 / 2, 0.5)
    falling = np.maximum(u, 0) if tile == tiles - 1 else np.where(u > 0, u - u**2 / 2, 0)
    return np.asarray((rising + falling) / (tiles + 1))
