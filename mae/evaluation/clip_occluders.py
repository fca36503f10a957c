"""Occluders of clips, from those of images: one that stands still in all frames, or one for every frame.

A clip's frames are images, and what hides them is what hides images (:mod:`mae.evaluation.occluders`), with the same
share in every frame. What moves is an occluder whose place in each frame lies on a straight line, at constant speed.

Shapes: B clips of T frames of H×W pixels; a region is bool [B, T, H, W], True = hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mae.evaluation.occluders import Occluder


@dataclass(frozen=True)
class Still:
    """What hides B images, in every one of the ``frames`` frames of B clips."""

    occluder: Occluder
    frames: int

    def region(self, share: float, size: tuple[int, int]) -> Tensor:
        """bool [B, T, H, W], alike in all frames."""
        return self.occluder.region(share, size)[:, None].expand(-1, self.frames, -1, -1)

    def content(self, share: float, size: tuple[int, int]) -> Tensor | None:
        """uint8 [B, 3, T, H, W], alike in all frames; None for what clips are filled with."""
        found = self.occluder.content(share, size)
        return None if found is None else found[:, :, None].expand(-1, -1, self.frames, -1, -1)


@dataclass(frozen=True)
class EveryFrame:
    """What hides B·T images, clip by clip and frame by frame, as B clips of ``frames`` frames."""

    occluder: Occluder
    frames: int

    def region(self, share: float, size: tuple[int, int]) -> Tensor:
        """bool [B, T, H, W]."""
        return self.occluder.region(share, size).reshape(-1, self.frames, *size)

    def content(self, share: float, size: tuple[int, int]) -> Tensor | None:
        """uint8 [B, 3, T, H, W]; None for what clips are filled with."""
        found = self.occluder.content(share, size)
        return None if found is None else found.reshape(-1, self.frames, 3, *size).transpose(1, 2)


def straight_way(starts: Tensor, ends: Tensor, frames: int) -> Tensor:
    """Where B things are that go from ``starts`` to ``ends`` [B, 2] at constant speed, clip by clip, [B·T, 2]."""
    passed = (
        torch.linspace(0, 1, frames, dtype=starts.dtype)[None, :, None] if frames > 1 else starts.new_zeros(1, 1, 1)
    )
    return torch.lerp(starts[:, None], ends[:, None], passed).flatten(0, 1)
