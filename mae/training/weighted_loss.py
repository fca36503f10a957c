"""Losses that count some patches more than others: hidden ones by their saliency, visible ones by how near hidden ones
are.

The loss on visible patches is that of V-JEPA 2.1 (Mur-Labadia et al. 2026, arXiv 2603.14482), there of predicted
features, here of predicted pixels. Weighing the reconstruction by what is important, with a weight that moves along
half a cosine, is AttG's (Sick et al. 2024, arXiv 2402.15172), which weighs by exp(map / τ) and moves τ.

Shapes: B images, M' decoded patches, K visible ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mae.models.mask import Mask

SCHEDULES = ("constant", "rise", "fall")
WEIGHT_BY = ("maps", "gate")
"""What says how salient a patch is."""


def scheduled(weight: float, schedule: str, progress: float) -> float:
    """A weight at training ``progress`` 0..1: as it is, or along half a cosine from 0 to it or from it to 0."""
    if schedule == "constant":
        return weight
    left = (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2
    return weight * (left if schedule == "fall" else 1 - left)


def by_saliency(errors: Tensor, saliency: Tensor, weight: float) -> Tensor:
    """The mean of errors [B, M'], each times (1 - weight) + weight · its ``saliency`` [B, M'] / the image's mean, [].

    The weights of an image have mean 1, and are all 1 where its map is flat or has nothing at these patches.
    """
    mean = saliency.mean(1, keepdim=True)
    relative = torch.where(mean > 0, saliency / mean.clamp_min(torch.finfo(torch.float32).tiny), 1.0)
    return (errors * (1 - weight + weight * relative)).mean()


def by_distance(errors: Tensor, mask: Mask, grid: tuple[int, ...]) -> Tensor:
    """The mean of errors [B, K] of visible patches, each divided by the root of its distance to a hidden one, []."""
    return (errors * hidden_distance(mask, grid).rsqrt()).mean()


def hidden_distance(mask: Mask, grid: tuple[int, ...]) -> Tensor:
    """How far each visible patch is from the nearest hidden one, float32 [B, K], in the order of ``ids_keep``.

    Between the middles of patches, in patches, and a video's time slots are one apart.
    """
    axes = [torch.arange(side, dtype=torch.float32, device=mask.hidden.device) for side in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)  # [N, axes]
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(places[mask.ids_keep], places[mask.ids_hidden], compute_mode=exact).amin(2)
