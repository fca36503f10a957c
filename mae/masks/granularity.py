"""Masks of blocks: g×g patches are hidden or shown together, as in Pixio (Yang et al. 2025, arXiv 2512.15715).

A mask is drawn on the grid of blocks, as if a block were a patch, and then given to the patches. A video's block is one
time slot deep. A block's saliency or score is the mean of its patches'.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mae.models.mask import Mask, inverse


def block_grid(grid: tuple[int, ...], side: int) -> tuple[int, ...]:
    """The grid of blocks of ``side``×``side`` patches, and the same time slots. ValueError if it does not divide."""
    *slots, rows, columns = grid
    if rows % side or columns % side:
        divisors = [str(n) for n in range(1, math.gcd(rows, columns) + 1) if math.gcd(rows, columns) % n == 0]
        raise ValueError(
            f"--mask-granularity {side} does not divide the grid of {rows}×{columns} patches; here it can be "
            f"{' or '.join(filter(None, [', '.join(divisors[:-1]), divisors[-1]]))}"
        )
    return (*slots, rows // side, columns // side)


def block_means(values: Tensor, grid: tuple[int, ...], side: int) -> Tensor:
    """The mean of each block's patches, [..., N / side²] of [..., N], or of one time slot's patches alone."""
    if side == 1:
        return values
    rows, columns = (each // side for each in grid[-2:])
    cells: Tensor = values.reshape(*values.shape[:-1], -1, rows, side, columns, side)
    return cells.mean((-3, -1)).flatten(-3)


def to_patches(values: Tensor, grid: tuple[int, ...], side: int) -> Tensor:
    """The value of each patch's block, [..., N] of [..., N / side²]."""
    if side == 1:
        return values
    lines = values.reshape(*values.shape[:-1], -1, 1, grid[-1] // side, 1)  # slots and rows of blocks are one axis
    return lines.expand(*lines.shape[:-3], side, -1, side).flatten(-4)


def block_mask(mask: Mask, grid: tuple[int, ...], side: int) -> Mask:
    """A mask of blocks, [B, N / side²], as one of the patches of ``grid``, [B, N]."""
    if side == 1:
        return mask
    order = _members(grid, side, mask.hidden.device)[inverse(mask.ids_restore)].flatten(1)
    keep = mask.ids_keep.shape[1] * side**2
    ids_restore = inverse(order)
    return Mask(order[:, :keep], ids_restore, ids_restore >= keep)


def _members(grid: tuple[int, ...], side: int, device: torch.device) -> Tensor:
    """The patches of each block, int64 [N / side², side²]."""
    _, rows, columns = (1, *grid)[-3:]
    patches = torch.arange(math.prod(grid), device=device).view(-1, rows // side, side, columns // side, side)
    return patches.transpose(2, 3).reshape(-1, side**2)
