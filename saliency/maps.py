"""The map as an array: quantised for storage, resampled by area onto any grid.

A raw map is float32 ≥ 0. Stored, it is uint8 with 255 at its peak, beside ``vmin`` and ``scale`` so that its strength
survives: raw = vmin + scale · stored / 255.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as fractions of the image."""

FULL: Box = (0.0, 0.0, 1.0, 1.0)


def quantise(maps: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Raw maps [B, H, W] → (stored uint8 [B, H, W], vmin float32 [B], scale float32 [B]). A flat map stores zeros."""
    low, high = maps.min(axis=(1, 2)), maps.max(axis=(1, 2))
    scale = (high - low).astype(np.float32)
    step = np.where(scale > 0, scale, 1)[:, None, None]
    stored = np.rint((maps - low[:, None, None]) / step * 255).astype(np.uint8)
    return stored, low.astype(np.float32), scale


def dequantise(stored: NDArray[np.uint8], vmin: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inverse of :func:`quantise`, to within scale / 510."""
    return (vmin[:, None, None] + scale[:, None, None] * stored.astype(np.float32) / 255).astype(np.float32)


def area_resample(
    maps: Tensor,
    grid: tuple[int, int],
    *,
    boxes: Tensor | None = None,
    covered: Tensor | None = None,
    flips: Tensor | None = None,
) -> Tensor:
    """The mean of each map over every cell of a grid laid on a box of its image, float32 [B, H', W'].

    maps: [B, H, W], constant within a cell. boxes: [B, 4], the part of the image the new grid covers (default: all of
    it). covered: [B, 4], the part of the image the map itself covers (default: all); what lies outside counts as 0.
    flips: bool [B], mirror left to right after cropping. Boxes are x0, y0, x1, y1 in fractions of the image. Exact:
    cells are weighted by the area they share.
    """
    batch, height, width = maps.shape
    boxes = _full_boxes(batch, maps.device) if boxes is None else boxes.to(maps.device, torch.float32)
    covered = _full_boxes(batch, maps.device) if covered is None else covered.to(maps.device, torch.float32)
    rows = _overlap(boxes[:, 1], boxes[:, 3], grid[0], covered[:, 1], covered[:, 3], height)  # [B, H', H]
    columns = _overlap(boxes[:, 0], boxes[:, 2], grid[1], covered[:, 0], covered[:, 2], width)  # [B, W', W]
    if flips is not None:
        columns = torch.where(flips.to(maps.device)[:, None, None], columns.flip(1), columns)
    return rows @ maps.float() @ columns.transpose(1, 2)


def _full_boxes(count: int, device: torch.device) -> Tensor:
    """FULL for every map, [B, 4], made on the device: a copy from the host would wait for what is queued there."""
    return torch.cat([torch.zeros(count, 2, device=device), torch.ones(count, 2, device=device)], dim=1)


def _overlap(low: Tensor, high: Tensor, cells: int, map_low: Tensor, map_high: Tensor, map_cells: int) -> Tensor:
    """Share of each of ``cells`` intervals of [low, high] that lies in each map cell, [B, cells, map_cells]."""
    steps = torch.arange(cells + 1, device=low.device) / cells
    map_steps = torch.arange(map_cells + 1, device=low.device) / map_cells
    edges = low[:, None] + (high - low)[:, None] * steps
    map_edges = map_low[:, None] + (map_high - map_low)[:, None] * map_steps
    upper = torch.minimum(edges[:, 1:, None], map_edges[:, None, 1:])
    lower = torch.maximum(edges[:, :-1, None], map_edges[:, None, :-1])
    return (upper - lower).clamp(min=0) / ((high - low) / cells)[:, None, None]


def fit_grid(maps: Tensor, grid: int) -> Tensor:
    """Raw maps [B, H, W] on a stored grid [B, G, G]: by area when coarser, bilinear when finer than the model's own."""
    if maps.shape[1:] == (grid, grid):
        return maps
    if grid < min(maps.shape[1:]):
        return area_resample(maps, (grid, grid))
    return torch.nn.functional.interpolate(maps[:, None], size=(grid, grid), mode="bilinear")[:, 0]
