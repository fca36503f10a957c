"""The motion of clips in the place of maps: what a codec's vectors or differences of frames say of every tubelet."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mae.devices import copy_to
from pipelines.views.image_views import ViewBatch
from pipelines.views.joined_maps import slots_on_views


@dataclass(frozen=True)
class ClipMotion:
    """The motion of the clips of a batch, by a ``method`` of :mod:`pipelines.sources.video.motion`."""

    method: str

    @property
    def moving(self) -> bool:
        """Whether clips have to be read with the motion of their frames."""
        return self.method == "motion"

    def on_views(self, batch: ViewBatch, grid: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
        """The motion of every tubelet of every clip, float32 [B, N]; ``grid`` is (slots, rows, columns)."""
        place = torch.device(device)
        if not len(batch.indices):  # none could be read
            return torch.zeros(0, math.prod(grid), device=place)
        if self.moving:
            assert batch.motion is not None
            return slots_on_views(batch.motion, batch, grid, place)
        return differences(copy_to(batch.images, place), grid)


def differences(clips: Tensor, grid: tuple[int, ...]) -> Tensor:
    """How much every tubelet of clips uint8 [B, 3, T, H, W] differs from the frame before, 0..1, float32 [B, N].

    The first frame of a clip is compared with the second.
    """
    slots, rows, columns = grid
    frames = clips.float()
    changed = (frames[:, :, 1:] - frames[:, :, :-1]).abs().mean(1) / 255
    changed = torch.cat([changed[:, :1], changed], dim=1) if changed.shape[1] else torch.zeros_like(frames[:, 0])
    count, times, height, width = changed.shape
    cells = changed.reshape(count, slots, times // slots, rows, height // rows, columns, width // columns)
    return cells.mean(dim=(2, 4, 6)).flatten(1)
