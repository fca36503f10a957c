"""The mask learner of a finished run."""

from __future__ import annotations

import torch

from mae.mask_learners.learner import MaskLearner
from mae.training.checkpoints import load_model, load_state
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.settings import new_learner


def trained_learner(options: PretrainOptions) -> MaskLearner | None:
    """The learner of a run as its newest checkpoint has it, on the CPU; None where the run has none. ValueError."""
    if options.strategy is None or not options.strategy.learned:
        return None
    learner = new_learner(options, load_model(options.out), torch.device("cpu"))
    if learner is not None:
        learner.load_state(load_state(options.out)["learner"])
    return learner
