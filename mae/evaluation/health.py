"""How healthy features are, without labels: how many directions they use, and how far images differ at all.

RankMe (Garrido et al. 2023, arXiv 2210.02885) is exp of the entropy of the singular values of the features as they are,
p_k = σ_k / Σσ + ε. The effective rank (Roy & Vetterli 2007, EUSIPCO) is the same without ε, here of the features less
their mean: an offset that all images share counts in RankMe as a direction, and here not. Both lie between 1 and min(n,
D), so figures of different n are not comparable. The spread is the deviation of the normalised features, 1 where they
point everywhere alike and 0 where all images have the same (Chen & He 2021, arXiv 2011.10566).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae.models.vit import MaskedAutoencoder

_EPSILON = 1e-7
_BATCH = 64


@dataclass(frozen=True)
class Health:
    """Of the features of one layer."""

    rankme: float
    """1 … min(n, D)."""
    effective_rank: float
    """1 … min(n − 1, D); 0 where all features are equal."""
    spread: float
    """0 … 1."""


def rankme(features: Tensor) -> float:
    """RankMe of features [n, D], n ≥ 1."""
    values = torch.linalg.svdvals(features.double())
    share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + _EPSILON
    return float(torch.exp(-(share * share.log()).sum()))


def effective_rank(matrix: Tensor) -> float:
    """exp of the entropy of the singular values of a matrix [n, D] over their sum; 0 for a matrix of zeros."""
    values = torch.linalg.svdvals(matrix.double())
    if float(values.sum()) == 0:
        return 0.0
    return float(torch.exp(torch.special.entr(values / values.sum()).sum()))


def health(features: Tensor) -> Health:
    """Of features [n, D], n ≥ 2."""
    features = features.double()
    centred = features - features.mean(0)
    # what rounding alone leaves of equal features is no direction
    noise = 1e-6 * float(features.norm()) * torch.ones(())
    centred = centred if float(centred.norm()) > float(noise) else torch.zeros_like(centred)
    normed = F.normalize(features, dim=1)
    spread = float(normed.std(0, unbiased=False).square().sum().sqrt())
    return Health(rankme(features), effective_rank(centred), spread)


@torch.no_grad()
def layer_features(model: MaskedAutoencoder, images: Tensor, batch: int = _BATCH) -> list[Tensor]:
    """The mean of the patch tokens after every block and after the last norm, [n, D] each, on the CPU.

    ``images`` are normalised, [n, 3, H, W], or clips, on any device; nothing is hidden. Weights and mode stay.
    """
    device = model.pos_embed.device
    layers: list[list[Tensor]] = [[] for _ in range(len(model.blocks) + 1)]
    with _watched([*model.blocks, model.norm]) as seen:
        for part in torch.split(images, batch):
            model.encode(part.to(device))
            for found, tokens in zip(layers, seen, strict=True):
                found.append(tokens[:, model.class_tokens :].float().mean(1).cpu())
            seen.clear()
    return [torch.cat(found) for found in layers]


def layers_health(model: MaskedAutoencoder, images: Tensor) -> list[Health]:
    """The health after every block and after the last norm, by :func:`layer_features`; two images or more."""
    return [health(features) for features in layer_features(model, images)]


@contextmanager
def _watched(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The outputs of modules, in the order in which they are called."""
    seen: list[Tensor] = []

    def note(_: nn.Module, __: Any, output: Tensor) -> None:
        seen.append(output.detach())

    handles = [module.register_forward_hook(note) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
