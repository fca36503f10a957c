"""Encoders that know nothing, to set others beside: the mean colour of each patch, its place, and no motion at all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.evaluate.encoders.encoder import Encoder

COLOUR, PLACE = "colour", "place"

_STEPS = 64


def colour_encoder(like: Encoder) -> Encoder:
    """The mean and deviation of every patch's colours, on the grid of another encoder.

    A constant is added, so that likeness is of colours and not of their hue alone.
    """

    def patches(images: Tensor) -> Tensor:
        grid = grid_of(like, (images.shape[2], images.shape[3]))
        pixels = images.float() / 255 - 0.5
        mean, square = (F.adaptive_avg_pool2d(each, grid) for each in (pixels, pixels**2))
        return torch.cat([mean, (square - mean**2).clamp(min=0).sqrt(), torch.full_like(mean[:, :1], 0.25)], dim=1)

    return _plain(COLOUR, like, patches)


def place_encoder(like: Encoder) -> Encoder:
    """Where a patch is, and nothing of the picture: its row and column on 64 steps each, between two of which it lies.

    A probe of it learns how often each place is of each class; propagated by it, a mask stays where it was.
    """

    def patches(images: Tensor) -> Tensor:
        rows, columns = grid_of(like, (images.shape[2], images.shape[3]))
        down = _steps(rows)[:, :, None].expand(-1, -1, columns)
        across = _steps(columns)[:, None, :].expand(-1, rows, -1)
        return torch.cat([down, across]).expand(len(images), -1, -1, -1)

    return _plain(PLACE, like, patches)


def grid_of(like: Encoder, size: tuple[int, int]) -> tuple[int, int]:
    """The rows and columns of features of an image of this size (height, width)."""
    if like.stride is not None:
        return size[0] // like.stride, size[1] // like.stride
    assert like.patches is not None
    return tuple(like.patches(like.blank(1)).shape[-2:])  # type: ignore[return-value]


def _steps(count: int) -> Tensor:
    """How near each of ``count`` places of a side is to each step, [steps, count]; alike for every grid."""
    places = (torch.arange(count) + 0.5) / count * _STEPS - 0.5
    return (1 - (places - torch.arange(_STEPS)[:, None]).abs()).clamp(min=0)


def _plain(name: str, like: Encoder, patches: object) -> Encoder:
    def nothing(_: Tensor) -> Tensor:
        raise NotImplementedError(f"{name} has no features of whole images")

    def no_network(_: float) -> nn.Module:
        raise NotImplementedError(f"{name} has no weights")

    identity = f"{name}, {like.size}, {like.stride}"
    return Encoder(name, like.size, nothing, no_network, lambda: identity, patches=patches, stride=like.stride)  # type: ignore[arg-type]
