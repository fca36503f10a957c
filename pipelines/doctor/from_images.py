"""What the newest weights of a run do with some images, against what needs no learning: means, and random weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae.evaluation.health import health as health_of
from mae.evaluation.health import layer_features
from mae.evaluation.intervals import share_interval
from mae.evaluation.probes import knn_predict
from mae.masks.masking import Masking
from mae.models.mask import Mask
from mae.models.vit import MaskedAutoencoder
from mae.pixels import normalise
from pipelines.doctor.findings import Finding
from pipelines.sources.source import Source

_BATCH = 64
_LEARNED = 0.02
"""Part of the mean's loss that has to be gone before anything is learned."""
_COLLAPSED, _NARROWED = 0.02, 0.1
"""Spread of the features below which they are the same for all images; and against that of random weights."""
_FEW_RANKS = 2.0
_NO_GRADIENT = 1e-5
_PICTURES = "That is expected, and --no-norm-pix gives pictures; features are a little better with normalised patches."


def look_at_images(
    config: Mapping[str, Any], model: MaskedAutoencoder, untrained: MaskedAutoencoder, source: Source, images: Tensor
) -> list[Finding]:
    """All findings by images uint8 [n, 3, H, W], or clips, of the ``source``, n ≥ 2."""
    pixels = normalise(images)
    findings = [_loss(config, model, pixels), _gradients(config, model, pixels)]
    trained, fresh = layer_features(model, pixels), layer_features(untrained, pixels)
    findings.append(_collapse(trained, fresh))
    findings.append(_features(trained[-1], fresh[-1], source))
    if model.norm_pix:
        findings.append(_pictures(model, pixels))
    return findings


def _masks(config: Mapping[str, Any], model: MaskedAutoencoder, count: int, start: int) -> Mask:
    """Random masks at the run's mask ratio."""
    strategy = "random" if len(model.grid) == 2 else "tube"
    masking = Masking(strategy, mask_ratio=float(config["masking"]["mask_ratio"]))
    device = model.pos_embed.device
    return masking(count, model.grid, generator=torch.Generator().manual_seed(start), device=device)


@torch.no_grad()
def _loss(config: Mapping[str, Any], model: MaskedAutoencoder, pixels: Tensor) -> Finding:
    """The loss on hidden patches, and that of predicting each one's own mean, which normalised ones have as 0."""
    lost = meant = 0.0
    for start in range(0, len(pixels), _BATCH):
        part = pixels[start : start + _BATCH].to(model.pos_embed.device)
        mask = _masks(config, model, len(part), start)
        lost += float(model(part, mask)) * len(part)
        target = model._target(model.patchify(part))
        error = target.var(-1, unbiased=False)  # of a prediction that is the patch's mean
        meant += float(error[mask.hidden].mean()) * len(part)
    loss, mean = lost / len(pixels), meant / len(pixels)
    gain = 1 - loss / mean if mean > 0 else 0.0
    numbers = {"loss": loss, "loss_of_the_mean": mean, "gain": gain}
    sentence = (
        f"With random masks the loss is {loss:.3f}; predicting every patch's mean gives {mean:.3f}, so the model "
        + (f"explains {gain:.1%} of what the mean leaves." if gain >= 0 else "is worse than the mean.")
    )
    if gain < _LEARNED:
        return Finding(
            "loss", "bad", sentence, numbers,
            "Nothing has been learned yet: train longer, and check the learning rate and the images.",
        )  # fmt: skip
    return Finding("loss", "good", sentence, numbers)


def _gradients(config: Mapping[str, Any], model: MaskedAutoencoder, pixels: Tensor) -> Finding:
    """The norm of a batch's gradient: none is left where units have died."""
    part = pixels[:_BATCH].to(model.pos_embed.device)
    model.zero_grad(set_to_none=True)
    with torch.enable_grad():
        model(part, _masks(config, model, len(part), 0)).backward()
    squares = [p.grad.double().square().sum() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    norm = float(torch.stack(squares).sum().sqrt())
    sentence = f"The gradient of a batch of {len(part)} images has norm {norm:.2g}."
    if not math.isfinite(norm) or norm < _NO_GRADIENT:
        advice = "The weights no longer learn: start again with a lower --blr."
        return Finding("gradients", "bad", sentence, {"norm": norm}, advice)
    return Finding("gradients", "good", sentence, {"norm": norm})


def _collapse(trained: list[Tensor], fresh: list[Tensor]) -> Finding:
    """Of the encoder's output."""
    now, before = health_of(trained[-1]), health_of(fresh[-1])
    least = min(trained[-1].shape)
    numbers = {
        "rankme": now.rankme, "effective_rank": now.effective_rank, "spread": now.spread,
        "untrained_rankme": before.rankme, "untrained_spread": before.spread, "largest_rank": least,
    }  # fmt: skip
    sentence = (
        f"The features of {len(trained[-1])} images have RankMe {now.rankme:.1f} and effective rank "
        f"{now.effective_rank:.1f} of at most {least}, and a spread of {now.spread:.3f} (random weights: RankMe "
        f"{before.rankme:.1f}, spread {before.spread:.3f})."
    )
    if now.spread < min(_COLLAPSED, _NARROWED * before.spread) or min(now.rankme, now.effective_rank) < _FEW_RANKS:
        return Finding(
            "collapse", "bad", sentence, numbers,
            "All images look nearly the same to the encoder: lower --blr and start again.",
        )  # fmt: skip
    return Finding("collapse", "good", sentence, numbers)


def _features(trained: Tensor, fresh: Tensor, source: Source) -> Finding:
    """k-NN by half of the labelled images on the other half, against random weights."""
    labels = np.full(len(trained), -1, np.int64) if source.labels is None else source.labels
    known = np.flatnonzero(labels >= 0)
    if len(known) < 40 or len(np.unique(labels[known])) < 2:
        change = float(torch.nn.functional.cosine_similarity(_alike(trained), _alike(fresh), dim=0))
        sentence = (
            f"Which images the features call alike agrees with random weights by a correlation of {change:.2f}; "
            "whether they are better can't be said without labels."
        )
        return Finding("features", "note", sentence, {"agreement": change}, "Give labelled images with --source.")
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(known))
    truth, half = torch.from_numpy(np.unique(labels, return_inverse=True)[1]), len(known) // 2
    train, test = shuffled[:half], shuffled[half:]
    right = [
        float((knn_predict(each[train], truth[train], each[test]) == truth[test]).double().mean())
        for each in (trained, fresh)
    ]
    width = math.hypot(*(share_interval(share, len(test)) for share in right))
    gain = right[0] - right[1]
    numbers = {"knn": right[0], "untrained_knn": right[1], "interval": width, "test_images": len(test)}
    sentence = (
        f"k-NN by {half} labelled images gets {right[0]:.1%} of {len(test)} others right, against {right[1]:.1%} with "
        f"random weights, a difference of {100 * gain:+.1f} ± {100 * width:.1f} points."
    ).replace("-", "−").replace("k−NN", "k-NN")  # fmt: skip
    if gain < -width:
        return Finding(
            "features", "bad", sentence, numbers,
            "Pretraining made the features worse: check the loss, train longer, or lower --blr.",
        )  # fmt: skip
    if gain < width:
        advice = "No gain is shown yet: look at more images with --limit, or train longer."
        return Finding("features", "note", sentence, numbers, advice)
    return Finding("features", "good", sentence, numbers)


def _alike(features: Tensor) -> Tensor:
    """The similarities of all pairs of images less their mean, flat."""
    normed = torch.nn.functional.normalize(features.double() - features.double().mean(0), dim=1)
    pairs = torch.triu_indices(len(normed), len(normed), 1)
    similar = (normed @ normed.T)[pairs[0], pairs[1]]
    return similar - similar.mean()


def _pictures(model: MaskedAutoencoder, pixels: Tensor) -> Finding:
    """How much of the pixels' variance lies in what normalised patches do not have."""
    patches = model.patchify(pixels[:_BATCH].to(model.pos_embed.device)).double()
    within = float(patches.var(-1, unbiased=False).mean())
    whole = float(patches.var(unbiased=False))
    share = 1 - within / whole if whole > 0 else 0.0
    sentence = (
        f"The model predicts patches without their mean and contrast. The means alone hold {share:.0%} of the pixels' "
        "variance, so its raw predictions look like noise."
    )
    return Finding("pictures", "note", sentence, {"variance_of_means": share}, _PICTURES)
