"""How weights move: the learning rate's schedule, what decays, and the step that a training gone wrong does not take.

Warm-up and half a cosine, no decay for biases, norms and tokens, as in He et al. 2021 (arXiv 2111.06377, appendix A.1).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def learning_rate(step: int, total: int, warmup: float, peak: float) -> float:
    """Linear from 0 over ``warmup`` steps, then half a cosine from ``peak`` to 0 at ``total``."""
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices and kernels decay; biases, norms and tokens (fewer than two real dimensions) do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if _dimensions(p) >= 2]
    others = [p for p in trained if _dimensions(p) < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def guarded_step(optimizer: torch.optim.Optimizer, stop: Tensor) -> None:
    """A step of the optimiser, or none where ``stop``, float32 [] on its device, is 1; fused ones never wait."""
    if optimizer.defaults.get("fused"):
        optimizer.found_inf = stop  # type: ignore[attr-defined] # as GradScaler tells it
        optimizer.step()
    elif not stop:  # AdamW that is not fused asks nobody: here the host has to wait
        optimizer.step()


def _dimensions(parameter: Tensor) -> int:
    """How many dimensions have more than one place; a split tensor can't be squeezed to see."""
    return sum(side > 1 for side in parameter.shape)
