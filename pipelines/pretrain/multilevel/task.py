"""``pretrain --masking mlo``: masks that learn from labels, by MLO-MAE's three levels (``mae.multilevel.mlo``).

The run folder is that of any pretraining, with the losses of all levels in ``metrics.jsonl``, the masking network's
scores among the pictures, and ``cost.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae.distributed import World
from mae.masks.masking import Part
from mae.models.vit import MaskedAutoencoder
from mae.multilevel.mlo import LEVELS
from mae.multilevel.mlo_training import LabelledImages, MultilevelTraining
from mae.pixels import normalise
from pipelines.errors import UserError
from pipelines.plots import contact_sheet, loss_curve, overlay
from pipelines.pretrain.global_batches import GlobalBatch
from pipelines.pretrain.multilevel.cost import write_cost
from pipelines.pretrain.multilevel.data import LevelData, StepBatches, gentle_crops, open_levels
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.record.reconstructions import reconstruction_sheet
from pipelines.pretrain.settings import PretrainSettings
from pipelines.run_folder import RunFolder
from pipelines.sources.source import Source
from pipelines.views.image_views import Crops
from pipelines.views.joined_maps import JoinedMaps
from pipelines.views.loaders import first_views

_PICTURED = 8
_AVERAGED = 256


@dataclass(frozen=True)
class MultilevelTask:
    """Each step takes batches of all three levels: a :class:`pipelines.pretrain.task.Task`."""

    data: LevelData
    training: MultilevelTraining

    @property
    def maps(self) -> JoinedMaps | None:
        """Where T reads them."""
        return self.data.maps

    @property
    def crops(self) -> Crops | None:
        """Gentle ones for levels 2 and 3, or the usual ones."""
        return gentle_crops if self.training.multilevel.crops == "gentle" else None

    @property
    def source(self) -> Source:
        """The labelled images of both splits."""
        return self.data.images.source

    @property
    def batches_per_step(self) -> int:
        """Batches of all levels."""
        return sum(self.training.batches_per_step.values())

    @property
    def images_per_step(self) -> int:
        """Images of level 1."""
        return self.training.batches_per_step["mae"] * self.training.settings.batch_size

    def batches(self) -> StepBatches:
        """Of every step those of level 1, then of level 2, then of level 3."""
        training, batch_size = self.training, self.training.settings.batch_size
        return StepBatches(
            self.data.rows(),
            training.batches_per_step,
            batch_size,
            training.total_steps,
            seed=training.settings.seed,
            start=training.step,
            part=training.world.part(batch_size),
        )

    def readable(self, batches: Sequence[GlobalBatch]) -> list[GlobalBatch]:
        """All batches, or none where one of them has no image: every level needs its own."""
        return list(batches) if all(len(batch.indices) for batch in batches) else []

    def step(self, batches: Sequence[GlobalBatch]) -> tuple[Tensor, dict[str, Tensor]]:
        """One outer step; the loss is that of level 1."""
        remaining = iter(batches)
        by_level = {
            name: [self._labelled(next(remaining), maps=name == "mae") for _ in range(count)]
            for name, count in self.training.batches_per_step.items()
        }
        losses = self.training.update(by_level)
        upper = {f"{name}_loss": losses[name] for name in LEVELS[1:] if name in losses}
        return losses["mae"], upper | self.training.figures()

    def _labelled(self, batch: GlobalBatch, *, maps: bool) -> LabelledImages:
        """This process's part of a batch, with its labels, and with the ``maps`` of its views where T reads them."""
        views, training = batch.views, self.training
        labels = torch.from_numpy(self.data.images.labels[views.indices])
        saliency = self.maps.on_views(views, training.model.grid, training.device) if maps and self.maps else None
        if batch.is_whole:
            return LabelledImages(views.images, labels, saliency=saliency)
        rows = torch.from_numpy(views.places) + training.world.part(batch.places.size).start
        return LabelledImages(views.images, labels, Part(rows, batch.places.size), len(batch.indices), saliency)

    def facts(self) -> dict[str, Any]:
        """The splits."""
        return {"splits": self.data.facts()}

    def saved(self, run: RunFolder) -> None:
        """``cost.json``."""
        write_cost(run, self.training)

    def draw(self, run: RunFolder, model: MaskedAutoencoder) -> None:
        """``plots/``: the losses of the levels, reconstructions under T's masks, and T's scores."""
        plots, training, metrics = run.folder / "plots", self.training, run.metrics()
        if metrics:
            steps = [line["step"] for line in metrics]
            loss_curve(plots / "loss.png", {"mae": (steps, [line["loss"] for line in metrics])}, title="Level 1")
            upper = {name: _curve(metrics, f"{name}_loss") for name in LEVELS[1:]}
            upper = {name: curve for name, curve in upper.items() if curve[0]}
            loss_curve(plots / "levels.png", upper, title="Levels 2 and 3", unit="cross-entropy")
        sheet = reconstruction_sheet(
            self.source, self.maps, model, lambda images, maps, _: training.draw_masks(images, maps), _PICTURED
        )
        if sheet:
            contact_sheet(plots / "reconstructions.png", sheet)
        self._draw_scores(run)

    def _draw_scores(self, run: RunFolder) -> None:
        """T's scores of images of the mask split; in the last row the mean image and the mean score of each place."""
        training, grid = self.training, self.training.model.grid
        source = self.source.select(self.data.mask[:_AVERAGED])
        batch = first_views(source, training.model.image_size, len(source))
        if not len(batch.images):
            return
        # the maps are those of all images, of which these are some
        here = replace(batch, indices=self.data.mask[batch.indices])
        maps = self.maps.on_views(here, grid) if self.maps else torch.zeros(len(batch.images), grid[0] * grid[1])
        parts = zip(torch.split(batch.images, 32), torch.split(maps, 32), strict=True)
        found = torch.cat([training.probabilities(normalise(part), of_part) for part, of_part in parts])
        scores = found.float().cpu().reshape(-1, *grid).numpy()
        images = [image.permute(1, 2, 0).numpy() for image in batch.images[:_PICTURED]]
        images.append(batch.images.float().mean(0).permute(1, 2, 0).to(torch.uint8).numpy())
        shown = [*scores[:_PICTURED], scores.mean(0)]
        over = [overlay(image, cells - cells.min()) for image, cells in zip(images, shown, strict=True)]
        said = [f"{np.min(cells):.3f} to {np.max(cells):.3f}" for cells in shown]
        said[-1] = f"mean of {len(scores)}: {said[-1]}"
        columns: dict[str, list[Any]] = {"image": images, "score": shown, "over the image": over, "range": said}
        contact_sheet(run.folder / "plots" / "scores.png", columns)


def _curve(metrics: Sequence[Any], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a figure, where it was written down: T has no loss while it waits."""
    lines = [line for line in metrics if name in line]
    return [line["step"] for line in lines], [line[name] for line in lines]


def open_data(options: PretrainOptions, settings: PretrainSettings) -> LevelData:
    """The labelled source, split, with its maps where T reads them. UserError."""
    return open_levels(options, settings.maps)


def new_task(
    options: PretrainOptions,
    settings: PretrainSettings,
    data: LevelData,
    model: MaskedAutoencoder,
    device: torch.device,
    world: World,
) -> MultilevelTask:
    """The task before its first step. ValueError for settings that do not fit, UserError."""
    levels = settings.learner
    a_step = settings.training.batch_size * levels.unroll[0] * levels.unroll[1]
    steps = len(data.training) // a_step
    if not steps:
        raise UserError(
            f"{options.source} has {len(data.training)} images in the training split, fewer than one step takes "
            f"({a_step}: --batch-size times --mlo-unroll): lower either"
        )
    training = MultilevelTraining(
        model,
        len(data.classes),
        settings.masking,
        settings.training,
        levels,
        steps,
        device,
        world=world,
        maps=data.maps is not None,
    )
    return MultilevelTask(data, training)
