"""The mask learner that a pretraining asks for, made for its model."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mae.masks.attention import AttentionMasks
from mae.masks.gate import Gate
from mae.masks.gate_training import GateTraining
from mae.masks.hard import HardMasks
from mae.masks.learner import MaskLearner
from mae.models.vit import MaskedAutoencoder
from mae.training.checkpoints import load_model, load_state
from pipelines.pretrain.settings import PretrainOptions


def new_learner(options: PretrainOptions, model: MaskedAutoencoder, device: torch.device) -> MaskLearner | None:
    """The learner of ``--masking``, untrained, on the device; None where the masks follow from noise and maps alone.

    ValueError for settings that do not fit.
    """
    make = _LEARNERS.get(options.masking_name)
    return make(options, model, device) if make else None


def trained_learner(options: PretrainOptions) -> MaskLearner | None:
    """The learner of a run as its newest checkpoint has it, on the CPU; None where the run has none. ValueError."""
    if options.masking_name not in _LEARNERS:
        return None
    learner = new_learner(options, load_model(options.out), torch.device("cpu"))
    if learner is not None:
        learner.load_state(load_state(options.out)["learner"])
    return learner


def _gate(options: PretrainOptions, model: MaskedAutoencoder, device: torch.device) -> MaskLearner:
    gate = Gate(model.pos_embed.shape[-1], positions=options.gate_positions)
    return GateTraining(gate, model.to(device).embed, options.gate(), device, teacher=options.gate_teacher is not None)


def _attention(options: PretrainOptions, model: MaskedAutoencoder, device: torch.device) -> MaskLearner:
    return AttentionMasks(model.to(device), options.attention())


def _hard(options: PretrainOptions, model: MaskedAutoencoder, device: torch.device) -> MaskLearner:
    return HardMasks(Gate(model.pos_embed.shape[-1]), model.to(device).embed, options.hard(), device)


_LEARNERS: dict[str, Callable[[PretrainOptions, MaskedAutoencoder, torch.device], MaskLearner]] = {
    "gate": _gate,
    "attention-high": _attention,
    "attention-hint": _attention,
    "hard": _hard,
}
"""By the names in ``pipelines.pretrain.settings.LEARNED``, but for ``mlo``, which is another training altogether."""
