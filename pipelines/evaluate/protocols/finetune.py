"""``evaluate --protocol finetune``: MAE's end-to-end fine-tuning of any encoder that ``evaluate`` opens.

What is reported is the accuracy of the last epoch's weights, which the recipe fixes beforehand: the test part is looked
at once, at the end, and chooses no epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.devices import copy_to
from mae.evaluation.classifier import add_head
from mae.evaluation.finetune import FinetuneRecipe, FineTuning, depth_of, recipe_for, training_transform
from mae.randomness import seed_of, seeded
from pipelines.errors import user_errors
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.features import central_views
from pipelines.evaluate.options import EvaluateOptions
from pipelines.evaluate.protocol import Classification
from pipelines.evaluate.results.outcome import Outcome, Scored, UnreadableImages
from pipelines.evaluate.supervised import TrainingBatch, TrainingViews, labels_of, plan_batches, train_epochs
from pipelines.progress import progress_bar
from pipelines.views.labelled import Labelled

USUAL_BATCH = 1024


@dataclass(frozen=True)
class Augment:
    """timm's augmentation with its random numbers from a key; float32 [3, H, W]."""

    transform: Any

    def __call__(self, picture: Image.Image, key: tuple[int, int, int]) -> Tensor:
        """The picture as it is trained on."""
        with seeded(*key):
            pixels: Tensor = self.transform(picture)
        return pixels


class FineTune(Classification):
    """MAE's end-to-end fine-tuning of a copy of the encoder."""

    name, frozen, epochs = "finetune", False, "finetune_epochs"

    def trained_for(self, encoder: Encoder) -> int:
        """The recipe's epochs for a model of that depth, unless others are asked for."""
        return resolved_recipe(self.options, depth_of(encoder.network(0.0))).epochs

    def settings(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """Seed and recipe; ``at_a_time`` since images are mixed with those that pass through together."""
        options = self.options
        return {
            "seed": seed,
            "epochs": options.finetune_epochs,
            "blr": options.finetune_blr,
            "layer_decay": options.layer_decay,
            "drop_path": options.drop_path,
            "batch_size": options.finetune_batch_size,
            "at_a_time": options.batch_size,
        }

    def measure(self, encoder: Encoder, seed: int, checkpoint: Path | None) -> Outcome:
        """Fine-tune a copy of the encoder and predict the test part by it. Raises UserError."""
        train, classes, options = self.parts.part(seed), len(self.parts.names), self.options
        recipe, training, plan = _begin(encoder, train, classes, options, seed)
        views = TrainingViews(train, Augment(training_transform(encoder.size, encoder.mean, encoder.std)), seed)

        def update(batches: Sequence[TrainingBatch]) -> Tensor:
            return training.update([_even(batch.images, labels_of(train, batch)) for batch in batches])

        with progress_bar(name=f"{encoder.name}: finetune", unit="steps", part=True, quiet=self.quiet) as progress:
            unreadable = train_epochs(
                training, update, views, plan, epochs=recipe.epochs, workers=options.workers,
                device=training.device, checkpoint=checkpoint, progress=progress,
            )  # fmt: skip
        scored = Scored.mean([_scores(training, encoder, part, options, self.quiet) for part in self.parts.tests])
        scored = replace(scored, unreadable=unreadable | scored.unreadable)
        facts = asdict(recipe) | {"batch_size": plan.images_per_step, "precision": training.precision}
        return Outcome.of(scored, self.parts.test.labels, facts=facts)


def resolved_recipe(options: EvaluateOptions, depth: int) -> FinetuneRecipe:
    """The recipe for so many blocks, with what the options say instead."""
    given = {
        "epochs": options.finetune_epochs,
        "blr": options.finetune_blr,
        "layer_decay": options.layer_decay,
        "drop_path": options.drop_path,
    }
    return replace(recipe_for(depth), **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _begin(
    encoder: Encoder, train: Labelled, classes: int, options: EvaluateOptions, seed: int
) -> tuple[FinetuneRecipe, FineTuning, Any]:
    network = encoder.network(0.0)
    recipe = resolved_recipe(options, depth_of(network))
    if recipe.drop_path:
        network = encoder.network(recipe.drop_path)
    with user_errors():
        add_head(network, classes, seed_of(seed, 3))
    at_a_time = train.at_once(options.batch_size)
    plan = plan_batches(len(train), usual=USUAL_BATCH, asked=options.finetune_batch_size, at_a_time=at_a_time)
    training = FineTuning(
        network,
        recipe,
        classes,
        batch_size=plan.images_per_step,
        steps_per_epoch=plan.steps_per_epoch,
        seed=seed,
        device=options.device,
        precision=options.precision,
    )
    return recipe, training, plan


def _even(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """An even number of images, since they are mixed in pairs; one too many is left out."""
    count = len(images) // 2 * 2
    return images[:count], labels[:count]


def _scores(training: FineTuning, encoder: Encoder, test: Labelled, options: EvaluateOptions, quiet: bool) -> Scored:
    """What the network says of the readable test images."""
    shape = (1, 3, *[1] * (2 if encoder.frames is None else 3))
    mean, std = (torch.tensor(each, device=training.device).view(shape) for each in (encoder.mean, encoder.std))
    unreadable: UnreadableImages = {}
    scores, indices = [], []
    for images, places in central_views(
        test, encoder, batch_size=options.batch_size, workers=options.workers, unreadable=unreadable,
        name=f"{encoder.name}: test", quiet=quiet,
    ):  # fmt: skip
        scores.append(training.scores((copy_to(images, training.device).float() / 255 - mean) / std))
        indices.append(places)
    return Scored(torch.cat(scores), np.concatenate(indices), unreadable)
