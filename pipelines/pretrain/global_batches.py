"""The batches of a step as all processes hold them: what each one read, made one, and each one's part of it.

A batch has one place for every image that was asked for, whichever process read it. Noise belongs to the places, and
the loss is the mean over the images that could be read, so a run does not depend on how many processes do it, nor an
image on whether another one could be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae.distributed import World
from mae.masks.masking import Part
from mae.training.training import Batch
from pipelines.views.image_views import ViewBatch


@dataclass(frozen=True)
class GlobalBatch:
    """What this process read of a batch, and the index of every image of it, [size, B / size], −1 for unreadable."""

    views: ViewBatch
    places: NDArray[np.int64]

    @property
    def indices(self) -> NDArray[np.int64]:
        """The images that could be read, by index, in order."""
        return self.places[self.places >= 0]

    @property
    def is_whole(self) -> bool:
        """Whether this process has every image, and every image could be read."""
        return len(self.views.indices) == self.places.size


def gather_batches(views: Sequence[ViewBatch], size: int, world: World) -> list[GlobalBatch]:
    """The batches of a step, of which every process has read ``size`` images at a time."""
    here = np.full((len(views), size), -1, np.int64)
    for row, batch in zip(here, views, strict=True):
        row[batch.places] = batch.indices
    places = world.gather_array(here).swapaxes(0, 1)
    return [GlobalBatch(batch, of_all) for batch, of_all in zip(views, places, strict=True)]


def gather_unreadable(batches: Sequence[GlobalBatch], world: World) -> dict[int, str]:
    """The images of a step that no process could read: index → reason."""
    if all((batch.places >= 0).all() for batch in batches):
        return {}
    here = {item.index: item.reason for batch in batches for item in batch.views.unreadable}
    return {index: reason for found in world.gather(here) for index, reason in found.items()}


def to_batch(batch: GlobalBatch, saliency: Tensor | None, world: World, *, shuffled: bool) -> Batch:
    """This process's part of a batch to train on; ``saliency`` [B, N] is on its own views."""
    if batch.is_whole:
        return Batch(batch.views.images, saliency)
    before = _map_before(batch, saliency, world) if shuffled and saliency is not None else None
    rows = torch.from_numpy(batch.views.places) + world.part(batch.places.size).start
    return Batch(batch.views.images, saliency, Part(rows, batch.places.size, before), len(batch.indices))


def _map_before(batch: GlobalBatch, saliency: Tensor, world: World) -> Tensor:
    """The map [N] of the image before this process's first one; the last one's for the first of all."""
    last = saliency[-1] if len(saliency) else saliency.new_zeros(saliency.shape[1:])
    lasts = world.gather_tensor(last)
    ranks = [(world.rank - back) % world.size for back in range(1, world.size + 1)]
    return lasts[next(rank for rank in ranks if (batch.places[rank] >= 0).any())]
