"""Pixels as models see them: colours 0..255 less ImageNet's mean, in units of its deviation, and back."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of colours in 0..1, as the published MAE checkpoints expect."""


def normalise(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W], or clips [B, 3, T, H, W], → float32 by ImageNet's mean and deviation."""
    mean, std = _statistics(images.device, images.ndim)
    return torch.addcmul(-mean / std, images.float(), 1 / (255 * std))


def denormalise(images: Tensor) -> Tensor:
    """The inverse of :func:`normalise`, clipped to what a picture can show, uint8."""
    mean, std = _statistics(images.device, images.ndim)
    return ((images.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


@functools.cache
def _statistics(device: torch.device, dimensions: int) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and deviation, [1, 3, 1, 1, …]; made once, for a copy to a GPU would stop it at every step."""
    shape = (1, 3, *[1] * (dimensions - 2))
    mean, std = (torch.tensor(values, device=device).view(shape) for values in (IMAGE_MEAN, IMAGE_STD))
    return mean, std
