"""What the gate learns by: two views of an image, embeddings that get no gradient, no labels.

Notation: p = sigmoid(logit), the importance of a patch; z its embedding; the important region's vector is
f = Σ p z / Σ p, the background's b = Σ (1 − p) z / Σ (1 − p); a prime marks the other view of the same image. Each of
the terms stands in its function's docstring: background, contrast, area, and a teacher's map.

The contrast does not know which of the two regions is the important one: exchange p and 1 − p, and f and b change
places. Left alone it ends at the background, which is the larger and more constant part of an image and tells images
apart best. What breaks the symmetry is stated here: (1) the background is what is like the picture's frame, its
outermost patches (the boundary prior of Wei et al. 2012, ECCV); (2) every background patch must resemble some of it,
while important patches need not be alike; (3) the important area is bounded below half.

Shapes: B images in two views, stacked as [2B, …]: all first views, then all second; N patches; D the embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mae.mask_learners.gate_exchange import Exchange

_TINY = 1e-6
_SHARPNESS = 0.03


@dataclass(frozen=True)
class GateObjective:
    """The weights of the terms and the range of the area. ValueError for a setting that can't be."""

    area: tuple[float, float] = (0.05, 0.4)
    """The least and the greatest share of an image that is important; the greatest must be below half."""
    cost: float = 1.5
    """What it costs to call a patch important, in units of the image's mean distance from its background."""
    entropy: float = 1.0
    """How much indecision is worth: a patch's best logit is (distance − cost) / entropy. At 0 the scores saturate and
    lose their order."""
    frame_is_background: bool = False
    """Whether a patch of the frame is at distance 0 from the background, for being part of it. A prior on places, of
    use to a gate with positions only; without it a frame patch too is judged by its likeness to the others."""
    contrast: float = 0.02
    """Weight of the contrast beside the background term, whose weight is 1. From 0.1 on it costs accuracy, see
    docs/guide/gate.md."""
    slots: float = 1.0
    """Weight of the terms of slots (``mae.mask_learners.gate_slots``), for a gate that has some."""
    area_weight: float = 20.0
    temperature: float = 0.2
    """Of the contrast's cosines."""
    teacher: float = 1.0
    """Weight of the teacher's maps at the start of a warm start."""

    def __post_init__(self) -> None:
        low, high = self.area
        if not 0 <= low < high < 0.5:
            raise ValueError(f"the area {low:g} to {high:g} must lie between 0 and 0.5, the least below the greatest")
        weights = (self.cost, self.entropy, self.contrast, self.slots, self.area_weight, self.teacher)
        if min(weights) < 0 or self.temperature <= 0:
            raise ValueError("the weights of the gate's terms must be at least 0, its temperature above 0")


class GateLoss(NamedTuple):
    """The terms, float32 scalars: ``total`` is weighted, the others are not."""

    total: Tensor
    background: Tensor
    contrast: Tensor
    area: Tensor


def gate_loss(
    logits: Tensor,
    embeddings: Tensor,
    grid: Sequence[int],
    objective: GateObjective,
    exchange: Exchange | None = None,
    places: Tensor | None = None,
) -> GateLoss:
    """The label-free terms for two views, logits [2B, N], embeddings [2B, N, D]; gradients reach the logits alone.

    ``grid`` is (rows, columns) or (T, rows, columns) of the N patches, or of those whose ``places``, int64 [N], these
    are. With an ``exchange`` the contrast is that of the whole batch, of which these images are a part; the other terms
    are means over the images here.
    """
    importance = torch.sigmoid(logits.float())
    z = embeddings.detach().float()
    frame = frame_of(grid, z.device) if places is None else frame_of(grid, z.device)[places]
    distance = background_distance(importance.detach(), z, frame, with_itself=objective.frame_is_background)
    background = background_loss(logits, distance, objective.cost, objective.entropy)
    important, rest = pool_regions(importance, z)
    if exchange is None:
        centre, counted = z.mean((0, 1)), None
    else:
        centre, counted = exchange.mean(z), exchange.counted(z)
        important, rest = exchange.gather(important), exchange.gather(rest)
    contrast = region_contrast(important - centre, rest - centre, objective.temperature, counted)
    area = area_penalty(importance, objective.area)
    total = background + objective.contrast * contrast + objective.area_weight * area
    return GateLoss(total, background, contrast, area)


def frame_of(grid: Sequence[int], device: torch.device | str | None = None) -> Tensor:
    """Bool [N]: the outermost rows and columns of a grid, (rows, columns) or, in every frame, (T, rows, columns)."""
    *times, rows, columns = grid
    outer = torch.ones(rows, columns, dtype=torch.bool, device=device)
    outer[1:-1, 1:-1] = False
    return outer.expand(*times, rows, columns).flatten()


def pool_regions(importance: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors f and b, each [B, D], of the important region and the background; importance [B, N] in 0..1."""
    return _weighted_mean(importance, embeddings), _weighted_mean(1 - importance, embeddings)


def background_distance(importance: Tensor, embeddings: Tensor, frame: Tensor, *, with_itself: bool = False) -> Tensor:
    """How unlike the background each patch is, float32 [B, N] ≥ 0 with mean 1 in every image.

    d_n = −τ log (Σ_m w_m exp(−‖z_n − z_m‖² / τδ) / Σ_m w_m) over m ≠ n (over all m ``with_itself``), then less the
    image's least and divided by its mean; δ is the mean squared distance of the image's patches, τ = 0.03: nearly the
    distance to the nearest patch of the background, so that this may have many parts. w_m = 1 − p_m on the ``frame``
    (bool [N]) and 0 inside; an object that the gate calls important is no background, though it touches the frame.
    """
    squared = torch.cdist(embeddings, embeddings).square()  # [B, N, N]
    squared = squared / (squared.mean((1, 2), keepdim=True) + _TINY)
    weights = ((1 - importance) * frame + _TINY).log()[:, None, :].expand_as(squared)
    if not with_itself:
        itself = torch.eye(squared.shape[1], dtype=torch.bool, device=squared.device)
        weights = weights.masked_fill(itself, -torch.inf)
    distance = _SHARPNESS * (weights.logsumexp(2) - (weights - squared / _SHARPNESS).logsumexp(2))
    distance = distance - distance.amin(1, keepdim=True)
    return distance / (distance.mean(1, keepdim=True) + _TINY)


def background_loss(logits: Tensor, distance: Tensor, cost: float, entropy: float) -> Tensor:
    """Mean of (1 − p_n) d_n + cost · p_n − entropy · H(p_n), a scalar; d [B, N] is :func:`background_distance`.

    H(p) = −p log p − (1 − p) log(1 − p). Its least value has every logit at (d_n − cost) / entropy: the important are
    those further than ``cost`` from the background, and the scores keep the order of the distances.
    """
    logits = logits.float()
    p, log_p, log_rest = logits.sigmoid(), F.logsigmoid(logits), F.logsigmoid(-logits)
    indecision = -p * log_p - (1 - p) * log_rest
    return ((1 - p) * distance + cost * p - entropy * indecision).mean()


def region_contrast(important: Tensor, background: Tensor, temperature: float, counted: Tensor | None = None) -> Tensor:
    """InfoNCE (arXiv 1807.03748) of the important regions of two views, a scalar; f and b are [2B, D], centred.

    −log of exp(f·f′/τ) over itself + Σ_j exp(f·f′_j/τ) of the other images + Σ_j exp(f·b_j/τ) of the backgrounds of all
    images in both views, its own among them; products of unit vectors; the mean over images and both directions.
    ``counted`` [B], 1 or 0, leaves images out.
    """
    f, b = F.normalize(important, dim=-1), F.normalize(background, dim=-1)
    count = len(f) // 2
    to_backgrounds = f @ b.T / temperature  # [2B, 2B]
    between = f[:count] @ f[count:].T / temperature  # [B, B]
    similar = torch.cat([between, between.T])  # [2B, B]
    positive = torch.cat([between.diagonal(), between.diagonal()])
    products = torch.cat([similar, to_backgrounds], dim=1)  # [2B, 3B]
    if counted is None:
        return (products.logsumexp(1) - positive).mean()
    products = products.masked_fill(counted.repeat(3) == 0, -torch.inf)
    return ((products.logsumexp(1) - positive) * counted.repeat(2)).sum() / (2 * counted.sum())


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
