"""What the gate learns by: two views of an image, regions pooled from embeddings that get no gradient, no labels.

Notation: p = sigmoid(logit), the importance of a patch; z its embedding; the important region's vector is
f = Σ p z / Σ p, the background's b = Σ (1 − p) z / Σ (1 − p); a prime marks the other view of the same image. Of the
sum of four terms each stands in its function's docstring: background cohesion, contrast, area, and a teacher's map.

The contrast does not know which of the two regions is the important one: exchange p and 1 − p, and f and b change
places. Left alone it ends at the background, which is the larger, more constant part of an image and so tells images
apart best. What breaks the symmetry is that the background has to agree patch by patch with its own mean, while
important patches need not be alike, and that the area stays below half: the important is what the rest of the image
does not explain.

Shapes: B images in two views, stacked as [2B, …] (the first views, then the second); N patches; D the embeddings' width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-6


@dataclass(frozen=True)
class GateObjective:
    """The weights of the terms and the range of the area. ValueError for a setting that can't be."""

    area: tuple[float, float] = (0.05, 0.3)
    """The least and the greatest share of an image that is important; the greatest must be below half."""
    contrast: float = 0.1
    """Weight of the contrast beside the background's cohesion, whose weight is 1."""
    area_weight: float = 20.0
    temperature: float = 0.2
    """Of the contrast's cosines."""
    teacher: float = 1.0
    """Weight of the teacher's maps at the start of training; 0 at the end of the warm start."""

    def __post_init__(self) -> None:
        low, high = self.area
        if not 0 <= low < high < 0.5:
            raise ValueError(f"the area {low:g} to {high:g} must lie between 0 and 0.5, the least below the greatest")
        if min(self.contrast, self.area_weight, self.teacher) < 0 or self.temperature <= 0:
            raise ValueError("weights of the gate's terms must be at least 0 and the temperature above 0")


class GateLoss(NamedTuple):
    """The terms, float32 scalars: ``total`` is weighted, the others are not."""

    total: Tensor
    background: Tensor
    contrast: Tensor
    area: Tensor


def gate_loss(logits: Tensor, embeddings: Tensor, objective: GateObjective) -> GateLoss:
    """The label-free terms for two views, logits [2B, N] and embeddings [2B, N, D]; gradients reach the logits alone."""
    importance = torch.sigmoid(logits.float())
    z = embeddings.detach().float()
    important, background = pool_regions(importance, z)
    others = background.roll(len(background) // 2, dims=0)  # each view is judged by the other one's background
    cohesion = background_cohesion(importance, z, others)
    centre = z.mean((0, 1))
    contrast = region_contrast(important - centre, background - centre, objective.temperature)
    area = area_penalty(importance, objective.area)
    total = cohesion + objective.contrast * contrast + objective.area_weight * area
    return GateLoss(total, cohesion, contrast, area)


def pool_regions(importance: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors f and b, each [B, D], of the important region and the background; importance [B, N] in 0..1."""
    return _weighted_mean(importance, embeddings), _weighted_mean(1 - importance, embeddings)


def background_cohesion(importance: Tensor, embeddings: Tensor, backgrounds: Tensor) -> Tensor:
    """How badly ``backgrounds`` [B, D] explain the patches called background: mean of (1 − p_n) · d_n / d̄, a scalar.

    d_n = ‖z_n − b′‖², d̄ its mean over the image's N patches without gradient: every image counts alike, and the value
    is 1 for a gate that calls nothing important. It falls most by calling those patches important that the background
    explains worst, and asks nothing of how these relate to one another.
    """
    distance = (embeddings - backgrounds[:, None]).square().sum(-1)  # [B, N]
    distance = distance / (distance.mean(1, keepdim=True).detach() + _TINY)
    return ((1 - importance) * distance).mean()


def region_contrast(important: Tensor, background: Tensor, temperature: float) -> Tensor:
    """InfoNCE (arXiv 1807.03748) of the important regions of two views, a scalar; f and b are [2B, D], centred.

    −log of exp(f·f′/τ) over itself + Σ_j exp(f·f′_j/τ) of the other images + Σ_j exp(f·b_j/τ) of the backgrounds of all
    images in both views, its own among them; products of unit vectors; the mean over images and both directions.
    """
    f, b = F.normalize(important, dim=-1), F.normalize(background, dim=-1)
    count = len(f) // 2
    to_backgrounds = f @ b.T / temperature  # [2B, 2B]
    between = f[:count] @ f[count:].T / temperature  # [B, B]
    similar = torch.cat([between, between.T])  # [2B, B]
    positive = torch.cat([between.diagonal(), between.diagonal()])
    return (torch.cat([similar, to_backgrounds], dim=1).logsumexp(1) - positive).mean()


def area_penalty(importance: Tensor, area: tuple[float, float]) -> Tensor:
    """Mean over images of (a − greatest)₊² + (least − a)₊² for the share a = mean p of each image, a scalar."""
    low, high = area
    share = importance.mean(1)
    return ((share - high).clamp_min(0).square() + (low - share).clamp_min(0).square()).mean()


def teacher_loss(logits: Tensor, saliency: Tensor) -> Tensor:
    """Cross-entropy of the map over the patches, a scalar: −Σ_n t_n log softmax(logits)_n, t = saliency / Σ saliency.

    ``saliency`` [B, N] ≥ 0 of any scale, on the same views. It is the order and the proportions that are taught: the
    logits' level, and so the area, is left to the area term. An all-zero map teaches nothing.
    """
    saliency = saliency.float()
    target = saliency / saliency.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return -(target * logits.float().log_softmax(1)).sum(1).mean()


def _weighted_mean(weights: Tensor, embeddings: Tensor) -> Tensor:
    return torch.einsum("bn,bnd->bd", weights, embeddings) / (weights.sum(1, keepdim=True) + _TINY)
