"""How to train: the settings of a pretraining that its masks and its model do not decide."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mae.masks.decoded import DECODER_MASKINGS
from mae.training.weighted_loss import SCHEDULES, WEIGHT_BY

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class TrainingSettings:
    """How to train. ``batch_size`` images at a time, in all processes together; ``accumulate`` times to a step."""

    epochs: int = 100
    batch_size: int = 256
    accumulate: int = 1
    blr: float = 1.5e-4
    weight_decay: float = 0.05
    warmup_epochs: float | None = None
    """Default: a tenth of the epochs (the paper: 40 of 400 and of 800)."""
    seed: int = 0
    precision: str = "auto"
    """``auto`` is bf16 on a GPU that has it, else fp32."""
    decode_ratio: float = 1.0
    """Share of the hidden patches that is decoded, 0 < ratio ≤ 1; see :mod:`mae.masks.decoded`."""
    decoder_masking: str = "random"
    """Which they are: one of DECODER_MASKINGS; ``running-cell`` is for video."""
    saliency_weight: float = 0.0
    """λ in 0..1: a decoded patch's error counts (1 − λ) + λ · saliency / the mean saliency of its image's decoded
    patches, 1 where the map has nothing at these. 0 is the plain mean."""
    weight_by: str = "maps"
    """What says how salient a patch is: one of WEIGHT_BY, maps or the mask learner's ``importance``."""
    saliency_weight_schedule: str = "constant"
    """How λ moves over the training: one of SCHEDULES."""
    visible_weight: float = 0.0
    """μ ≥ 0: μ times the mean error of the visible patches, each divided by the root of its distance to the nearest
    hidden one, is added to the loss."""
    compile: bool = False
    """Compile the model's forward and backward pass, for batches of ``batch_size`` images."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        if not (math.isfinite(self.blr) and self.blr > 0):
            raise ValueError(f"--blr is {self.blr}; it must be a positive number")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"--weight-decay is {self.weight_decay}; it must be a number from 0 on")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}; it must be at least 0")
        if self.warmup_epochs is not None and not 0 <= self.warmup_epochs <= self.epochs:
            raise ValueError(
                f"--warmup-epochs is {self.warmup_epochs:g}; it must lie between 0 and --epochs {self.epochs}"
            )
        if not 0 < self.decode_ratio <= 1:
            raise ValueError(f"--decode-ratio is {self.decode_ratio:g}; it must be above 0 and at most 1")
        if self.decoder_masking not in DECODER_MASKINGS:
            raise ValueError(f"--decoder-masking {self.decoder_masking!r} is not one of: {', '.join(DECODER_MASKINGS)}")
        if not 0 <= self.saliency_weight <= 1:
            raise ValueError(f"--saliency-weight is {self.saliency_weight:g}; it must be between 0 and 1")
        if self.weight_by not in WEIGHT_BY:
            raise ValueError(f"--weight-by {self.weight_by!r} is not one of: {', '.join(WEIGHT_BY)}")
        if self.saliency_weight_schedule not in SCHEDULES:
            choices = ", ".join(SCHEDULES)
            raise ValueError(f"--saliency-weight-schedule {self.saliency_weight_schedule!r} is not one of: {choices}")
        if not (math.isfinite(self.visible_weight) and self.visible_weight >= 0):
            raise ValueError(f"--visible-weight is {self.visible_weight:g}; it must be a number from 0 on")
        if self.precision not in PRECISIONS:
            raise ValueError(f"--precision {self.precision!r} is not one of: {', '.join(PRECISIONS)}")

    @property
    def peak_learning_rate(self) -> float:
        """blr · effective batch / 256."""
        return self.blr * self.batch_size * self.accumulate / 256
