"""Compute what matters: an encoder that sees a share of the patches alone, chosen by the gate or by chance.

Nothing is hidden in order to be predicted here: the patches that are not chosen are never encoded, which saves their
share of the work, and more of it with a model of video, whose attention goes over all tubelets of a clip. What chooses
must cost less than it saves: the gate is a small network on patch embeddings, chance and the centre cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mae.mask_learners.gate import Gate
from mae.masks.masking import center_prior, top_order
from mae.models.vit import MaskedAutoencoder
from mae.precision import unrounded

CHOOSERS = ("gate", "random", "center")


class KeptEncoder:
    """Features of images from ``keep`` (0 < keep ≤ 1) of their patches, always the same for the same image.

    With a model of video, they are features of clips from their tubelets, each of which is chosen for itself.

    ``by`` is one of CHOOSERS: the patches of highest score by the ``gate``, by noise that follows from the image's own
    pixels, or the central ones. ValueError for settings that can't be.
    """

    def __init__(self, model: MaskedAutoencoder, keep: float, by: str = "gate", gate: Gate | None = None) -> None:
        if not 0 < keep <= 1:
            raise ValueError(f"keep {keep:g} must be above 0 and at most 1")
        if by not in CHOOSERS:
            raise ValueError(f"keep by {by!r} is not one of: {', '.join(CHOOSERS)}")
        if by == "gate" and gate is None:
            raise ValueError("this model has no gate to keep patches by: it was not pretrained with --masking gate")
        self.model, self.keep, self.gate = model, keep, gate
        scores: dict[str, Callable[[Tensor, tuple[int, ...]], Tensor]] = {
            "gate": self._by_gate,
            "random": self._by_noise,
            "center": self._by_place,
        }
        self._scores = scores[by]

    @property
    def count(self) -> int:
        """How many patches of an image are encoded, at least one."""
        return self._count(self.model.grid)

    def kept(self, images: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """The patches that are encoded of normalised images [B, C, H, W], int64 [B, K], in image order.

        ``grid`` is that of the images' patches, if they have another size than the model's own.
        """
        grid = grid or self.model.grid
        with unrounded(images.device):  # what ranks patches
            scores = self._scores(images, grid)
        order = top_order(scores, torch.zeros_like(scores))
        return order[:, : self._count(grid)].sort(dim=1).values

    @torch.no_grad()
    def features(self, images: Tensor, pool: str = "mean") -> Tensor:
        """One vector per image, [B, D], as ``MaskedAutoencoder.features``; with keep 1 it is that."""
        if self.keep == 1:
            return self.model.features(images, pool)
        tokens = self.model.encode_visible(images, self.kept(images))
        return self.model.pooled(tokens, pool)

    def _count(self, grid: tuple[int, ...]) -> int:
        return max(1, round(self.keep * math.prod(grid)))

    def _by_gate(self, images: Tensor, grid: tuple[int, ...]) -> Tensor:
        assert self.gate is not None
        return self.gate.scores(self.model, images, grid)

    def _by_noise(self, images: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Noise [B, N] that an image has whatever batch it is in."""
        seeds = (images.flatten(1).double().sum(1) * 2**10).round().long().tolist()
        count = math.prod(grid)
        rows = [torch.rand(count, generator=torch.Generator().manual_seed(seed & (2**63 - 1))) for seed in seeds]
        return torch.stack(rows).to(images.device)

    def _by_place(self, images: Tensor, grid: tuple[int, ...]) -> Tensor:
        return center_prior(grid, images.device).expand(images.shape[0], -1)
