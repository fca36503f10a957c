"""Maps as tensors: resampled by area onto any grid."""

from __future__ import annotations

import torch
from torch import Tensor


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
    if grid[0] == grid[1] and height == width:  # both axes at once: half as many small operations
        columns, rows = _overlap(boxes, covered, grid[0], width).unbind(1)
    else:
        columns = _overlap(boxes[:, 0::2], covered[:, 0::2], grid[1], width)[:, 0]  # [B, W', W]
        rows = _overlap(boxes[:, 1::2], covered[:, 1::2], grid[0], height)[:, 0]  # [B, H', H]
    if flips is not None:
        columns = torch.where(flips.to(maps.device)[:, None, None], columns.flip(1), columns)
    return rows @ maps.float() @ columns.transpose(1, 2)


def _full_boxes(count: int, device: torch.device) -> Tensor:
    """FULL for every map, [B, 4], made on the device: a copy from the host would wait for what is queued there."""
    return torch.cat([torch.zeros(count, 2, device=device), torch.ones(count, 2, device=device)], dim=1)


def _overlap(boxes: Tensor, covered: Tensor, cells: int, map_cells: int) -> Tensor:
    """Share of each of ``cells`` intervals of a box that lies in each cell of a map, [B, axes, cells, map_cells].

    boxes, covered: [B, 2·axes], the low ends of the box and of what the map covers on every axis, then the high ones.
    """
    (low, high), (map_low, map_high) = boxes.chunk(2, 1), covered.chunk(2, 1)
    cells_per_unit = map_cells / (map_high - map_low)
    start, step = (low - map_low) * cells_per_unit, (high - low) * cells_per_unit / cells  # [B, axes], in map cells
    edges = start[:, :, None] + step[:, :, None] * torch.arange(cells + 1, device=boxes.device)
    # how much of a map cell lies before an edge; what lies between two edges is the difference
    before = (edges[..., None] - torch.arange(map_cells, device=boxes.device)).clamp_(0, 1)
    return before.diff(dim=2) / step[:, :, None, None]


def fit_grid(maps: Tensor, grid: int) -> Tensor:
    """Raw maps [B, H, W] on a stored grid [B, G, G]: by area when coarser, bilinear when finer than the model's own."""
    if maps.shape[1:] == (grid, grid):
        return maps
    if grid < min(maps.shape[1:]):
        return area_resample(maps, (grid, grid))
    return torch.nn.functional.interpolate(maps[:, None], size=(grid, grid), mode="bilinear")[:, 0]
