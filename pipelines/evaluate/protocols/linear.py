"""``evaluate --protocol linear``: MAE's linear probe on any encoder, a sweep of learning rates in one pass.

Every epoch the frozen encoder sees new random crops, and all heads of :class:`~mae.evaluation.linear_probe.LinearSweep`
learn from the same features. The head that is tested is the one that was right most often on a tenth of the *training*
part, which no head has learned from (where every class has one image, there is nothing to hold out, and the training
part itself decides); the test part is only ever predicted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.devices import copy_to
from mae.evaluation.linear_probe import RATES, LinearSweep
from mae.randomness import seed_of
from pipelines.errors import UserError
from pipelines.evaluate.encoder import Encoder
from pipelines.evaluate.features import compute_features
from pipelines.evaluate.options import EvaluateOptions
from pipelines.evaluate.outcome import Outcome
from pipelines.evaluate.protocol import Classification
from pipelines.evaluate.supervised import BatchPlan, TrainingBatch, TrainingViews, labels_of, plan_batches, train_epochs
from pipelines.progress import progress_bar
from pipelines.views.geometry import random_view, view_image
from pipelines.views.labelled import Labelled

USUAL_BATCH = 16384
_HELD_OUT = 0.1


class LinearProbe(Classification):
    """MAE's linear probe."""

    name = "linear"

    def settings(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """Pooling, seed and recipe; ``at_a_time`` since batch norm sees what passes through together."""
        options = self.options
        return {
            "pool": options.pool,
            "seed": seed,
            "epochs": options.linear_epochs,
            "rates": sorted(options.linear_blr or RATES),
            "batch_size": options.linear_batch_size,
            "at_a_time": options.batch_size,
        }

    def measure(self, encoder: Encoder, seed: int, checkpoint: Path | None) -> Outcome:
        """Train the heads, and predict the test part by the best of them. Raises UserError."""
        test, train, options = self.parts.test_features(encoder), self.parts.part(seed), self.options
        fitted, held = train.divide(_HELD_OUT, seed)
        plan = plan_batches(
            len(fitted), usual=USUAL_BATCH, asked=options.linear_batch_size, at_a_time=options.batch_size
        )
        sweep = _sweep(test.values, len(self.parts.names), plan, options, seed)
        views = TrainingViews(fitted.source, partial(random_crop, size=encoder.size), seed)

        def update(batches: Sequence[TrainingBatch]) -> Tensor:
            features = torch.cat([encoder.features(batch.images) for batch in batches])
            labels = copy_to(torch.cat([labels_of(fitted, batch) for batch in batches]), features.device)
            return sweep.update(features, labels).nan_to_num(math.inf).min()

        with progress_bar(name=f"{encoder.name}: linear", unit="steps", part=True, quiet=self.quiet) as progress:
            unreadable = train_epochs(
                sweep, update, views, plan, epochs=options.linear_epochs, workers=options.workers,
                device=encoder.device, checkpoint=checkpoint, progress=progress,
            )  # fmt: skip
        chosen, right = _choose(sweep, encoder, held if len(held) else train, options)
        predictions = sweep.logits(test.values)[chosen].argmax(1)
        facts = {
            "blr": sweep.rates[chosen],
            "held_out_images": len(held),
            "held_out_accuracy": right,
            "epochs": options.linear_epochs,
            "batch_size": plan.images_per_step,
        }
        return Outcome.of(
            predictions, test.labels, len(self.parts.names), facts=facts, unreadable=unreadable | test.unreadable
        )

    @classmethod
    def remarks(cls, result: Mapping[str, Any]) -> list[str]:
        """The learning rates that were chosen, and what any classification says."""
        runs = result["rows"][0]["linear_runs"]
        rates = ", ".join(dict.fromkeys(f"{run['blr']:g}" for run in runs))
        images = runs[0]["held_out_images"]
        where = f"{images} held-out training images" if images else "the training images, since too few to hold any out"
        return [f"linear: base rate {rates}, chosen on {where}", *super().remarks(result)]


def random_crop(picture: Image.Image, key: tuple[int, int, int], size: tuple[int, int]) -> Tensor:
    """A random crop of 8 % to all of the picture, mirrored or not, as the paper's probe trains with; uint8."""
    rng = np.random.default_rng(seed_of(*key))
    view = random_view(rng, *picture.size, scale=(0.08, 1.0))
    return torch.from_numpy(view_image(picture, view, size))


def _sweep(features: Tensor, classes: int, plan: BatchPlan, options: EvaluateOptions, seed: int) -> LinearSweep:
    warmup_epochs = min(10.0, options.linear_epochs / 9)  # the paper's 10 of 90
    return LinearSweep(
        features.shape[1],
        classes,
        sorted(options.linear_blr or RATES),
        batch_size=plan.images_per_step,
        total_steps=plan.steps_per_epoch * options.linear_epochs,
        warmup_steps=warmup_epochs * plan.steps_per_epoch,
        seed=seed,
        device=features.device,
    )


def _choose(
    sweep: LinearSweep, encoder: Encoder, held: Labelled, options: EvaluateOptions
) -> tuple[int, dict[str, float]]:
    """The head that is right most often on ``held``, the lower rate of equals; and how often each of them is."""
    features = compute_features(encoder, held, batch_size=options.batch_size, workers=options.workers, quiet=True)
    logits = sweep.logits(features.values)
    right = (logits.argmax(2) == features.labels).double().mean(1)
    right[~logits.isfinite().all(2).all(1)] = -1.0
    if float(right.max()) < 0:
        raise UserError(f"{encoder.name}: every head of the linear probe diverged; give a lower --linear-blr")
    found = {f"{rate:g}": float(share) for rate, share in zip(sweep.rates, right, strict=True) if share >= 0}
    return int(right.argmax()), found
