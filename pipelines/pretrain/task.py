"""What a pretraining does at a step and to which batches, plain or of three levels; all else they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Sampler

from mae.distributed import World
from mae.models.vit import MaskedAutoencoder
from mae.training.any_training import Trained
from pipelines.pretrain.global_batches import GlobalBatch
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.settings import PretrainSettings
from pipelines.run_folder import RunFolder
from pipelines.sources.source import Source
from pipelines.views.image_views import Crops
from pipelines.views.joined_maps import ViewMaps


class Task(Protocol):
    """:class:`pipelines.pretrain.plain.PlainTask` and :class:`pipelines.pretrain.multilevel.task.MultilevelTask`."""

    @property
    def source(self) -> Source:
        """What is trained on."""

    @property
    def maps(self) -> ViewMaps | None:
        """The maps of the source, where steps need them."""

    @property
    def training(self) -> Trained:
        """What learns."""

    @property
    def crops(self) -> Crops | None:
        """How much of an image a view shows in an epoch, where that is not as usual."""

    @property
    def batches_per_step(self) -> int:
        """How many batches a step takes."""

    @property
    def images_per_step(self) -> int:
        """How many images the autoencoder learns from at a step, in all processes."""

    def batches(self) -> Sampler[list[tuple[int, int]]]:
        """Batches of (epoch, index) from the coming step to the end of training, this process's part of each."""

    def readable(self, batches: Sequence[GlobalBatch]) -> list[GlobalBatch]:
        """Those of a step's batches that it can be made of, though images are missing; none if it can't be made."""

    def step(self, batches: Sequence[GlobalBatch]) -> tuple[Tensor, dict[str, Tensor]]:
        """One step; its loss, and further scalars for the log, on the device."""

    def facts(self) -> dict[str, Any]:
        """What ``config.json`` is to hold beside what it holds of every run."""

    def saved(self, run: RunFolder) -> None:
        """A checkpoint was written, by the main process, which calls this: write what goes with it."""

    def draw(self, run: RunFolder, model: MaskedAutoencoder) -> None:
        """The pictures of a finished run, ``plots/``, with its whole model; the main process calls this."""


class TaskModule(Protocol):
    """The module of a task: opens its data, then makes the task."""

    def open_data(self, options: PretrainOptions, settings: PretrainSettings) -> Any:
        """Everything the task reads. UserError."""

    def new_task(
        self,
        options: PretrainOptions,
        settings: PretrainSettings,
        data: Any,
        model: MaskedAutoencoder,
        device: torch.device,
        world: World,
    ) -> Task:
        """The task before its first step, in all processes of ``world``. ValueError, UserError."""
