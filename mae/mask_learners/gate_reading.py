"""What a gate reads of an image: the patch embeddings of its model, or tokens of a momentum encoder's first blocks.

The second costs a forward pass. To halve it, a gate can read every second patch alone, as on a checkerboard. It then
scores these, and a patch between them gets the mean of its neighbours.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mae.mask_learners.momentum import MomentumEncoder
from mae.models.vit import MaskedAutoencoder

READS = ("patches", "middle", "middle-all")
"""``patches``: embeddings before the first block; ``middle``: tokens after a quarter of a momentum encoder's blocks, of
every second patch; ``middle-all``: of all."""


def middle_blocks(depth: int) -> int:
    """How many blocks of an encoder of ``depth`` blocks ``middle`` reads behind: a quarter, at least one."""
    return max(1, math.ceil(depth / 4))


@functools.lru_cache(maxsize=16)
def checkerboard(grid: tuple[int, ...], device: torch.device) -> Tensor:
    """The patches of a grid whose row, column and time slot add up to an even number, int64 [n], in order."""
    axes = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
    return torch.stack(axes).sum(0).flatten().remainder(2).eq(0).nonzero()[:, 0].to(device)


def spread(values: Tensor, grid: Sequence[int]) -> Tensor:
    """Values of all patches, [B, N] or [B, N, C], from those of the checkerboard, [B, n] or [B, n, C].

    A patch between gets the mean of its neighbours above, below, left and right, in the same time slot. One that has
    none, on a grid of one row and one column, gets the image's mean.
    """
    rows, columns = grid[-2:]
    places, patches = checkerboard(tuple(grid), values.device), math.prod(grid)
    flat = values.flatten(2) if values.ndim > 2 else values[..., None]
    there = flat.new_zeros(1, patches, 1).index_fill(1, places, 1)
    placed = flat.new_zeros(flat.shape[0], patches, flat.shape[2]).index_copy(1, places, flat)
    count = _around(there, rows, columns)
    mean = torch.where(count > 0, _around(placed, rows, columns) / count.clamp_min(1), flat.mean(1, keepdim=True))
    return torch.where(there > 0, placed, mean).reshape(flat.shape[0], patches, *values.shape[2:])


def _around(values: Tensor, rows: int, columns: int) -> Tensor:
    """The sum [B, N, C] of each patch's four neighbours."""
    cells = F.pad(values.view(values.shape[0], -1, rows, columns, values.shape[2]), (0, 0, 1, 1, 1, 1))
    around = cells[:, :, :-2, 1:-1] + cells[:, :, 2:, 1:-1] + cells[:, :, 1:-1, :-2] + cells[:, :, 1:-1, 2:]
    return around.reshape(values.shape)


@torch.no_grad()
def read_middle(
    encoder: MomentumEncoder,
    model: MaskedAutoencoder,
    images: Tensor,
    grid: tuple[int, ...],
    places: Tensor | None = None,
) -> Tensor:
    """The encoder's tokens [B, n, D] of the patches ``places``, or of all, of normalised images [B, C, H, W], or clips.

    The ``model`` that the encoder follows, or followed, tells patches and positions.
    """
    patches, positions = model.patchify(images, grid), model.positions(grid)[0]
    if places is not None:
        first = model.class_tokens
        positions = torch.cat([positions[:, :first], positions[:, first + places]], dim=1)
        patches = patches[:, places]
    tokens: Tensor = encoder(patches, positions)
    return tokens
