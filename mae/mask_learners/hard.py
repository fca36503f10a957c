"""Masks that hide what will be hard to fill in: after Hard Patches Mining (Wang et al. 2023, arXiv 2304.05919).

A network predicts which of an image's patches will have the higher reconstruction error. It learns from the errors
that the autoencoder makes on the patches it decodes: for every two of them, which one is larger (the paper's relative
objective, for exact values change all the time). A share of the mask, growing over the training from nothing, goes to
the patches of the highest predicted error; the rest is random.

The paper predicts with a second decoder behind the autoencoder's encoder, and takes the masks from a moving average of
all that, which has to see the whole image. Here a gate's small network (``gate``) reads the patch embeddings:
it costs a few percent of that, and knows neither what the encoder makes of a patch nor where it lies.

Shapes: B images, N patches, M' of them decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mae.mask_learners.gate import Gate
from mae.mask_learners.learner import Look
from mae.mask_learners.network_learner import NetworkLearner
from mae.masks.masking import forced_priorities, mask_from_priorities, top_ranks
from mae.models.mask import Mask, hidden_count
from mae.models.vit import MaskedAutoencoder


@dataclass(frozen=True)
class HardSettings:
    """How much of the mask is for the hard patches, and how the predictor learns. ValueError names a wrong option."""

    final: float = 0.5
    """Share of the mask that goes to the patches of highest predicted error at the end, 0..1, growing linearly from 0:
    the paper's choice; all of it was worse there than none."""
    learning_rate: float = 2e-3
    """The peak; it follows the autoencoder's warm-up and cosine."""
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.final <= 1:
            raise ValueError(f"--hard-final is {self.final:g}; it must lie between 0 and 1")
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError("the predictor's learning rate must be above 0, its decay at least 0")

    def count(self, hidden: int, progress: float) -> int:
        """How many of the ``hidden`` patches are chosen by their predicted error at training ``progress`` 0..1."""
        return round(hidden * self.final * min(max(progress, 0.0), 1.0))


def relative_loss(predicted: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """How badly ``predicted`` [B, M'] orders each image's ``errors`` [B, M'], and how much it orders rightly: scalars.

    The first is the mean of −log σ(± (p_i − p_j)), + where e_i > e_j, over all pairs of an image whose errors differ,
    then over images: HPM's equation 4. The second is the share of these pairs that have the same order in both.
    """
    apart = predicted[:, :, None] - predicted[:, None, :]  # [B, M', M']
    order = (errors[:, :, None] - errors[:, None, :]).sign()
    pairs = order.abs().sum((1, 2)).clamp_min(1)  # each is there twice, as (i, j) and (j, i)
    loss = (F.softplus(-order * apart) * order.abs()).sum((1, 2)) / pairs
    right = (apart * order > 0).float().sum((1, 2)) / pairs
    return loss.mean(), right.mean()


class HardMasks(NetworkLearner):
    """Masks by predicted errors: a :class:`mae.mask_learners.learner.MaskLearner`.

    ``embed`` makes of normalised images [B, 3, H, W] the patch embeddings [B, N, D] that ``predictor`` reads, without
    positions (``MaskedAutoencoder.embed``); it is called without gradients.
    """

    name = "hard"
    needs_saliency = False
    needs_errors = True
    figure_names = ("hard_loss", "hard_order")
    """The loss, and the share of pairs of patches that the prediction ordered rightly."""

    def __init__(
        self,
        predictor: Gate,
        embed: Callable[[Tensor], Tensor],
        settings: HardSettings,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(predictor, settings.learning_rate, settings.weight_decay, device)
        self.embed, self.settings = embed, settings
        self._predicted: Tensor | None = None

    def masks(self, look: Look) -> Mask:
        """Masks of a batch; the prediction waits for the errors, which ``hear`` is told before the next batch."""
        uniform, ties = look.noise(
            2, math.prod(look.mask_grid)
        )  # first of all: without a share they are random masking's
        self._predicted = self._predict(look)
        return self._choose(self._predicted.detach(), look, uniform, ties)

    @torch.no_grad()
    def draw(self, look: Look) -> Mask:
        """Masks of a batch, with nothing learnt from it."""
        uniform, ties = look.noise(2, math.prod(look.mask_grid))
        return self._choose(self._predict(look), look, uniform, ties)

    def _predict(self, look: Look) -> Tensor:
        with torch.no_grad():
            tokens = self.embed(look.images).float()
        with torch.autocast(self.device.type, enabled=False):  # so small that half precision gains nothing
            predicted: Tensor = self.network(tokens, look.grid)
        return predicted

    def _choose(self, predicted: Tensor, look: Look, uniform: Tensor, ties: Tensor) -> Mask:
        scores = look.on_mask_grid(predicted)
        count = self.settings.count(hidden_count(scores.shape[1], look.mask_ratio), look.progress)
        priorities = forced_priorities(top_ranks(scores, ties), count, uniform)
        return look.to_patches(mask_from_priorities(priorities, look.mask_ratio))

    def hear(self, look: Look, decoded: Tensor, errors: Tensor) -> None:
        """Learn the order of the ``errors`` [B, M'] of the patches ``decoded``; gradients add up until ``apply``."""
        if self._predicted is None:
            raise ValueError("errors of a batch that no masks were asked for")
        loss, right = relative_loss(self._predicted.gather(1, decoded), errors.float())
        (look.share * loss).backward()  # type: ignore[no-untyped-call]
        self._predicted = None
        self.loss += look.share * loss.detach()
        self.terms += look.share * torch.stack([loss.detach(), right.detach()])


def settings_from(asked: Mapping[str, Any]) -> HardSettings:
    """The settings of masks of hard patches. ValueError."""
    return HardSettings(final=asked["hard_final"])


def new_learner(asked: Mapping[str, Any], model: MaskedAutoencoder, device: torch.device) -> HardMasks:
    """Masks by a predictor that reads the model's patch embeddings."""
    return HardMasks(Gate(model.pos_embed.shape[-1]), model.to(device).embed, settings_from(asked), device)
