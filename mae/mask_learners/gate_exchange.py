"""The images of a batch that lie in other processes: the gate's contrast is among all of them.

Every process computes the contrast of the whole batch, in which its own images alone carry gradients; summed over the
processes these are the gradients of one process that has all images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mae.devices import copy_to
from mae.distributed import World
from mae.mask_learners.learner import Look


class Exchange:
    """The batch of which ``look`` is this process's part; all processes make the same calls in the same order."""

    def __init__(self, look: Look, world: World) -> None:
        self._world, self._counts, self._images = world, look.share > 0, len(look.images)
        self._slots, self._rows = self._images, torch.arange(self._images)
        if world.size > 1:
            if look.part is None:
                raise ValueError("a batch that several processes share needs its part")
            self._slots = look.part.size // world.size
            if self._counts:
                self._rows = look.part.rows - world.rank * self._slots

    def mean(self, embeddings: Tensor) -> Tensor:
        """The mean embedding [D] of all patches of all images, from those here, [2B, N, D]."""
        if self._world.size == 1:
            return embeddings.mean((0, 1))
        here = torch.cat([embeddings.sum((0, 1)), embeddings.new_full((1,), len(embeddings) * embeddings.shape[1])])
        total = self._world.sum(here * float(self._counts))
        return total[:-1] / total[-1]

    def gather(self, regions: Tensor) -> Tensor:
        """Vectors [2S, D] of all images in two views from those here, [2B, D]; zeros for images that are missing."""
        if self._world.size == 1:
            return regions
        pairs = regions.view(2, self._images, -1)
        rows = copy_to(self._rows, regions.device)
        here = regions.new_zeros(2, self._slots, pairs.shape[2]).index_copy(1, rows, pairs)
        everywhere = list(self._world.gather_tensor(here.detach()))
        everywhere[self._world.rank] = here
        return torch.cat(everywhere, dim=1).flatten(0, 1)

    def counted(self, like: Tensor) -> Tensor | None:
        """Which of the S images there are, float32 [S], 1 or 0; None where it is all."""
        if self._world.size == 1:
            return None
        here = torch.zeros(self._slots)
        here[self._rows] = float(self._counts)
        return self._world.gather_tensor(copy_to(here, like.device)).flatten()
