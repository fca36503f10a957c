"""A second view of images: a random crop of each, and where its patches lie in the first.

Shapes: B images, or clips whose frames share the crop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_CROP_AREA = (0.4, 1.0)
"""Bounds of the second view's share of the first one's area: large enough that most objects stay in sight."""


def random_crops(noise: Tensor) -> Tensor:
    """Crops of 40 to 100 % of the area, half of them mirrored, by ``noise`` in [0, 1), [4, B]; float32 [B, 2, 3].

    Each is the affine map from places in the second view to those in the first, both in −1..1.
    """
    area, x, y, flip = noise
    low, high = _CROP_AREA
    side = (low + (high - low) * area).sqrt()
    crops = noise.new_zeros(noise.shape[1], 2, 3)
    crops[:, 0, 0] = torch.where(flip < 0.5, -side, side)
    crops[:, 1, 1] = side
    crops[:, 0, 2] = (2 * x - 1) * (1 - side)
    crops[:, 1, 2] = (2 * y - 1) * (1 - side)
    return crops


def second_view(images: Tensor, crops: Tensor) -> Tensor:
    """Each image's crop (:func:`random_crops`), resized to the same shape, bilinear, on their device.

    images: float [B, C, H, W], or video [B, C, T, H, W].
    """
    flat = images.flatten(1, -3)
    return _sample(flat, crops).view_as(images)


def align(values: Tensor, crops: Tensor, grid: Sequence[int]) -> Tensor:
    """What lies at the patches of the second views, from values [B, N, C] at the patches of the first; [B, N, C].

    ``grid`` is (rows, columns) or (T, rows, columns) of the N patches. Bilinear.
    """
    rows, columns = grid[-2:]
    count, patches, channels = values.shape
    cells = values.view(count, -1, rows, columns, channels).permute(0, 1, 4, 2, 3)  # [B, slots, C, h, w]
    taken = _sample(cells.flatten(1, 2), crops).view_as(cells)
    return taken.permute(0, 1, 3, 4, 2).reshape(count, patches, channels)


def _sample(cells: Tensor, crops: Tensor) -> Tensor:
    places = F.affine_grid(crops.to(cells.dtype), list(cells.shape), align_corners=False)
    return F.grid_sample(cells, places, padding_mode="border", align_corners=False)
