"""Tokens by their places: fixed positions of patches, and rows of a table picked by index."""

from __future__ import annotations

import torch
from torch import Tensor


def sincos_positions(grid: tuple[int, ...], width: int, laid_on: tuple[int, ...] | None = None) -> Tensor:
    """Fixed positions [1, 1+N, width]: zeros for the class token, then sines and cosines of column and row.

    The column takes the first half of the width: the published checkpoints were trained so. ``laid_on`` is a grid of
    the same image in whose rows and columns the places are counted.
    """
    counted = zip(grid, laid_on or grid, strict=True)
    places = [(torch.arange(n, dtype=torch.float64) + 0.5) * (m / n) - 0.5 for n, m in counted]
    rows, columns = torch.meshgrid(*places, indexing="ij")
    frequencies = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = [axis.flatten()[:, None] * frequencies for axis in (columns, rows)]  # 2 × [N, width/4]
    patches = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return torch.cat([torch.zeros(1, width), patches.float()])[None]


def take(tokens: Tensor, ids: Tensor) -> Tensor:
    """The tokens [B, n, D] at ``ids`` [B, k], [B, k, D]."""
    first = torch.arange(tokens.shape[0], device=ids.device)[:, None] * tokens.shape[1]
    return rows_of(tokens.flatten(0, 1), ids + first)


def rows_of(table: Tensor, ids: Tensor) -> Tensor:
    """The rows [..., D] at ``ids`` [...] of a table [n, D]; a gather would look up every number by its own index."""
    return table.index_select(0, ids.flatten()).view(*ids.shape, table.shape[-1])
