"""How much of a segmentation lies in frozen patch features: a linear classifier of patches, judged pixel by pixel.

A patch's target is the share of its pixels that is of each class. The classifier is a logistic regression on
standardised features; its penalty is the one with the least cross-entropy on a fifth of the *images*, and it is then
fitted to all of them. Its scores are interpolated bilinearly to the pixels, which for a linear classifier is the same
as interpolating the features; a pixel is of the class of the highest score.

Shapes: n patches of D features, C classes, the first of which is the background.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mae.evaluation.probes import PENALTIES, Logistic, fit_weights, standardised

_FALLBACK = 1e-2  # for fewer than five images, of which none can be held out


def fit_patches(features: Tensor, targets: Tensor, images: Tensor, *, seed: int = 0) -> Logistic:
    """The classifier of patches [n, D] with targets float32 [n, C] that sum to 1; ``images`` int64 [n] says whose."""
    known, mean, scale = standardised(features)
    held = _held_out(images, seed)
    start = torch.zeros(features.shape[1] + 1, targets.shape[1], device=features.device)
    best = (float("inf"), _FALLBACK, start)
    for penalty in PENALTIES if held.any() else ():
        start = fit_weights(known[~held], targets[~held], penalty, start)
        loss = float(F.cross_entropy(known[held] @ start[:-1] + start[-1], targets[held]))
        if loss < best[0]:
            best = (loss, penalty, start)
    return Logistic(mean, scale, fit_weights(known, targets, best[1], best[2]), best[1])


def segment(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of every pixel, int64 [H, W], from the scores [C, h, w] of patches that cover the same picture."""
    return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)


def overlaps(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """The pixels of each class in both int64 [..., H, W], then in either, [2 · classes]; the host does not wait."""
    pairs = (truth * classes + predicted).flatten()
    counts = torch.zeros(classes**2, dtype=torch.int64, device=pairs.device)
    counts = counts.scatter_add(0, pairs, torch.ones_like(pairs)).view(classes, classes)
    both = counts.diagonal()
    return torch.cat([both, counts.sum(0) + counts.sum(1) - both])


def class_ious(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union [..., C] of summed :func:`overlaps` [..., 2 · C]; NaN for a class that is nowhere."""
    both, either = np.split(np.asarray(sums, np.float64), 2, axis=-1)
    return np.divide(both, either, out=np.full_like(both, np.nan), where=either > 0)


def mean_iou(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over classes, those that are nowhere left out, of summed :func:`overlaps` [..., 2 · C]."""
    ious = class_ious(sums)
    there = np.isfinite(ious)
    return np.asarray(np.where(there, ious, 0).sum(-1) / np.maximum(there.sum(-1), 1))


def _held_out(images: Tensor, seed: int) -> Tensor:
    """True for the patches of a fifth of the images."""
    found = torch.unique(images)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).to(images.device)
    return torch.isin(images, found[order[: len(found) // 5]])
