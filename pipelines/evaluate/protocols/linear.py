"""``evaluate --protocol linear``: MAE's linear probe on any encoder, a sweep of learning rates in one pass.

Every epoch the frozen encoder sees new random crops, and all heads of :class:`~mae.evaluation.linear_probe.LinearSweep`
learn from the same features. The head that is tested is the one that was right most often on a tenth of the *training*
part, which no head has learned from (where every class has one image, there is nothing to hold out, and the training
part itself decides); the test part is only ever predicted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.devices import copy_to
from mae.evaluation.linear_probe import RATES, LinearSweep
from mae.randomness import seed_of
from pipelines.errors import UserError
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.features import compute_features
from pipelines.evaluate.protocol import Classification
from pipelines.evaluate.results.outcome import Outcome, Scored
from pipelines.evaluate.supervised import BatchPlan, TrainingBatch, TrainingViews, labels_of, plan_batches, train_epochs
from pipelines.progress import progress_bar
from pipelines.views.geometry import random_view, view_image
from pipelines.views.labelled import Labelled

_HELD_OUT = 0.1


class LinearProbe(Classification):
    """MAE's linear probe."""

    name, epochs = "linear", "linear_epochs"
    usual_batch: ClassVar[int] = 16384

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
        train, options = self.parts.part(seed), self.options
        fitted, held = train.divide(_HELD_OUT, seed)
        plan = plan_batches(
            len(fitted),
            usual=self.usual_batch,
            asked=options.linear_batch_size,
            at_a_time=fitted.at_once(options.batch_size),
        )
        sweep = self._sweep(encoder, plan, seed)
        views = TrainingViews(fitted, partial(random_crop, size=encoder.size), seed)

        def update(batches: Sequence[TrainingBatch]) -> Tensor:
            return self._update(sweep, encoder, fitted, batches).nan_to_num(math.inf).min()

        with progress_bar(name=f"{encoder.name}: {self.name}", unit="steps", part=True, quiet=self.quiet) as progress:
            unreadable = train_epochs(
                sweep, update, views, plan, epochs=options.linear_epochs, workers=options.workers,
                device=encoder.device, checkpoint=checkpoint, progress=progress,
            )  # fmt: skip
        judged = held if len(held) else train
        chosen, right = _choose(sweep, encoder, self._logits(sweep, encoder, judged), judged)
        said = [self._logits(sweep, encoder, part, number) for number, part in enumerate(self.parts.tests)]
        scored = Scored.mean([replace(each, scores=each.scores[chosen]) for each in said])
        facts = {
            "blr": sweep.rates[chosen],
            "held_out_images": len(held),
            "held_out_accuracy": right,
            "epochs": options.linear_epochs,
            "batch_size": plan.images_per_step,
        }
        scored = replace(scored, unreadable=unreadable | scored.unreadable)
        return Outcome.of(scored, self.parts.test.labels, facts=facts)

    def _sweep(self, encoder: Encoder, plan: BatchPlan, seed: int) -> LinearSweep:
        """The heads, untrained."""
        width = self.parts.test_features(encoder)[0].values.shape[1]
        return LinearSweep(width, len(self.parts.names), **self._recipe(encoder, plan, seed))

    def _recipe(self, encoder: Encoder, plan: BatchPlan, seed: int) -> dict[str, Any]:
        """How a sweep is trained."""
        epochs = self.options.linear_epochs
        return {
            "rates": sorted(self.options.linear_blr or RATES),
            "batch_size": plan.images_per_step,
            "total_steps": plan.steps_per_epoch * epochs,
            "warmup_steps": min(10.0, epochs / 9) * plan.steps_per_epoch,  # the paper's 10 epochs of 90
            "seed": seed,
            "device": encoder.device,
        }

    def _update(self, sweep: Any, encoder: Encoder, part: Labelled, batches: Sequence[TrainingBatch]) -> Tensor:
        """One step of the heads; their losses, [S]."""
        features = torch.cat([encoder.features(batch.images) for batch in batches])
        labels = copy_to(torch.cat([labels_of(part, batch) for batch in batches]), features.device)
        return torch.as_tensor(sweep.update(features, labels))

    def _logits(self, sweep: Any, encoder: Encoder, part: Labelled, number: int | None = None) -> Scored:
        """What every head says of a part, [S, m, classes]; ``number`` if it is one of the test parts."""
        if number is None:
            at_once, workers = self.options.batch_size, self.options.workers
            features = compute_features(encoder, part, batch_size=at_once, workers=workers, quiet=True)
        else:
            features = self.parts.test_features(encoder)[number]
        return Scored(sweep.logits(features.values), features.indices, features.unreadable)

    @classmethod
    def remarks(cls, result: Mapping[str, Any]) -> list[str]:
        """The learning rates that were chosen, and what any classification says."""
        runs = result["rows"][0][f"{cls.name}_runs"]
        rates = ", ".join(dict.fromkeys(f"{run['blr']:g}" for run in runs))
        images = runs[0]["held_out_images"]
        where = f"{images} held-out training images" if images else "the training images, since too few to hold any out"
        return [f"{cls.name}: base rate {rates}, chosen on {where}", *super().remarks(result)]


def random_crop(picture: Image.Image, key: tuple[int, int, int], size: tuple[int, int]) -> Tensor:
    """A random crop of 8 % to all of the picture, mirrored or not, as the paper's probe trains with; uint8."""
    rng = np.random.default_rng(seed_of(*key))
    view = random_view(rng, *picture.size, scale=(0.08, 1.0))
    return torch.from_numpy(view_image(picture, view, size))


def _choose(sweep: Any, encoder: Encoder, found: Scored, held: Labelled) -> tuple[int, dict[str, float]]:
    """The head that is right most often on ``held``, the lower rate of equals; and how often each of them is."""
    logits, labels = found.scores, torch.from_numpy(held.labels[found.indices]).to(found.scores.device)
    right = (logits.argmax(2) == labels).double().mean(1)
    right[~logits.isfinite().all(2).all(1)] = -1.0
    if float(right.max()) < 0:
        raise UserError(f"{encoder.name}: every head of the probe diverged; give a lower --linear-blr")
    shares = {f"{rate:g}": float(share) for rate, share in zip(sweep.rates, right, strict=True) if share >= 0}
    return int(right.argmax()), shares
