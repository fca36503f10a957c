"""What a training is to those who save it and write its log: plain pretraining, or one of three levels."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from mae.distributed import World
from mae.mask_learners.learner import MaskLearner
from mae.masks.masking import Masking
from mae.models.vit import MaskedAutoencoder
from mae.training.flops import Peak, training_flops
from mae.training.guard import NonFinite
from mae.training.resolution_schedule import ResolutionSchedule
from mae.training.settings import TrainingSettings
from mae.training.spread import Whole


class Trained(Protocol):
    """:class:`mae.training.training.Training` and
    :class:`mae.multilevel.mlo_training.MultilevelTraining`, as far as they are alike."""

    model: MaskedAutoencoder
    device: torch.device
    step: int
    steps_per_epoch: int
    total_steps: int
    masking: Masking
    settings: TrainingSettings
    precision: str
    world: World
    spread: Whole
    resolutions: ResolutionSchedule | None
    learner: MaskLearner | None

    @property
    def peak(self) -> Peak | None:
        """What the device can do in this precision, None where that is not known."""

    def schedules(self) -> dict[str, Any]:
        """What follows a schedule, by name, as it is at the coming step; plain values, for the log."""

    def state(self) -> dict[str, Any]:
        """Everything beside the weights that the next step depends on; tensors and plain values only."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Undoes :meth:`state`."""

    def image_size(self, step: int | None = None) -> tuple[int, int]:
        """Height and width of the images that follow after ``step`` steps."""

    def flops_per_image(self, step: int | None = None) -> int:
        """FLOPs of the passes of an image that follows after ``step`` steps."""

    def mfu(self, flops_per_second: float) -> float | None:
        """The share of the peak of all processes' devices that so much work takes, None where that is not known."""

    def non_finite(self) -> NonFinite | None:
        """The first step that was not finite, None if there is none; waits for the device."""

    def non_finite_weight(self) -> str | None:
        """The name of the first weight that is infinite or NaN, None if there is none; waits for the device."""


def training_facts(training: Trained) -> dict[str, Any]:
    """What a run notes of its training before it begins, in plain values: sizes, steps, peak rate, FLOPs."""
    model, settings = training.model, training.settings
    hidden = training.masking.hidden(model.grid)
    return {
        "grid": list(model.grid),
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps_per_epoch": training.steps_per_epoch,
        "steps": training.total_steps,
        "peak_learning_rate": settings.peak_learning_rate,
        "precision": training.precision,
        "flops_per_image": training_flops(
            model,
            training.masking.mask_ratio,
            settings.decode_ratio,
            hidden=hidden,
            predict_visible=settings.visible_weight > 0,
        ),
        "peak_flops": training.peak._asdict() if training.peak else None,
    }
