"""What mask learners with a small network of their own have in common: its optimiser, and the sums of a step.

A subclass looks at batches, adds to ``loss`` and ``terms`` what each contributes, and lets gradients add up in the
network; the rest of :class:`mae.mask_learners.learner.MaskLearner` is here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae.distributed import World
from mae.mask_learners.gate import Gate
from mae.mask_learners.learner import Look, sum_gradients
from mae.optimisation import guarded_step, parameter_groups


class NetworkLearner:
    """``network`` learns by AdamW, at most at ``rate``; ``figure_names`` are those of ``terms``, for the log."""

    reads_model = True
    figure_names: tuple[str, ...]
    importance: Tensor | None = None

    def __init__(self, network: Gate, rate: float, decay: float, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device).train()
        self.world = World()
        self._rate = rate
        groups, fused = parameter_groups(network, decay), self.device.type in ("cuda", "cpu")
        self.optimizer = torch.optim.AdamW(groups, lr=rate, fused=fused)
        self._begin()
        self._figures = self.terms

    def _begin(self) -> None:
        self.loss = torch.zeros((), device=self.device)
        self.terms = torch.zeros(len(self.figure_names), device=self.device)

    def hear(self, look: Look, decoded: Tensor, errors: Tensor) -> None:
        """Nothing is learnt from errors, unless a subclass does."""

    def gather(self) -> None:
        """Gradients, loss and terms of all processes become one sum."""
        sum_gradients(self.network.parameters(), self.world)
        self.loss, self.terms = self.world.sum(self.loss), self.world.sum(self.terms)

    def apply(self, rate: float, stop: Tensor) -> None:
        """One optimiser step at ``rate`` (0..1) times the peak; none where ``stop`` is 1."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self._rate
        guarded_step(self.optimizer, stop)
        self.optimizer.zero_grad(set_to_none=True)
        self._figures = self.terms
        self._begin()

    def figures(self) -> dict[str, Tensor]:
        """The terms of the last step, by name."""
        return dict(zip(self.figure_names, self._figures, strict=True))

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold: the network's weights and its optimiser's state."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Undoes :meth:`state`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])

    def save(self, folder: Path) -> None:
        """Nothing is of use after the training, unless a subclass says so."""
