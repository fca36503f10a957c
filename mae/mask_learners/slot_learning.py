"""How a gate's slots learn beside it: the momentum copy of the gate, the terms of a batch, and the running means."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from mae.distributed import World
from mae.mask_learners.gate import Gate
from mae.mask_learners.gate_exchange import Exchange
from mae.mask_learners.gate_slots import Slots, SlotView, agreement, log_assignments, slot_contrast, slot_sums
from mae.mask_learners.learner import Look
from mae.mask_learners.momentum import follow
from mae.mask_learners.second_views import align


class SlotLearner:
    """The slots of a ``gate``, whose momentum copy keeps the share ``momentum`` of itself at a step."""

    def __init__(self, gate: Gate, momentum: float) -> None:
        self._gate, self._slots, self._momentum = gate, _slots(gate), momentum
        reader, gate.reader = gate.reader, None
        self._copy = deepcopy(gate).requires_grad_(False)
        gate.reader = reader
        self._sums = torch.zeros(3, len(self._slots.prototypes), device=self._slots.centre.device)

    def terms(
        self, tokens: Tensor, hidden: Tensor, crops: Tensor, look: Look, exchange: Exchange
    ) -> tuple[Tensor, Tensor]:
        """:func:`agreement` of the images here and :func:`slot_contrast` of the whole batch, scalars.

        ``tokens`` [2B, n, D] are what the gate read of two views, ``hidden`` [2B, n, width] what it made of them.
        """
        count, grid = len(tokens) // 2, look.grid
        vectors, cosines = self._slots(hidden)
        with torch.no_grad():
            again = self._copy.look(tokens, grid)[1]
            momentum_vectors, momentum_cosines = _slots(self._copy)(again)
            targets = self._slots.targets(momentum_cosines)
            self._sums += look.share * slot_sums(momentum_cosines, targets, self._gate.frame(grid, tokens.device))
        view = SlotView(vectors, cosines, momentum_vectors, targets)
        aligned = [self._at_second(each, crops, grid) for each in (targets[:count], log_assignments(cosines[:count]))]
        return agreement(view, *aligned), slot_contrast(view, exchange)

    def gather(self, world: World) -> None:
        """What was counted becomes that of all processes."""
        self._sums = world.sum(self._sums)

    def apply(self, stop: Tensor) -> None:
        """The copy follows the gate, and the running means what was counted; neither where ``stop`` is 1."""
        self._slots.note(self._sums, stop)
        follow(self._copy, self._gate, self._momentum, stop)
        self._sums = torch.zeros_like(self._sums)

    def state(self) -> dict[str, Any]:
        """The copy; the running means are the gate's own."""
        return self._copy.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Undoes :meth:`state`."""
        self._copy.load_state_dict(state)

    def _at_second(self, values: Tensor, crops: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Values [B, n, K] of first views at the patches that are read of the second ones."""
        whole = align(self._gate.whole(values, grid), crops, grid)
        places = self._gate.places(grid, values.device)
        return whole if places is None else whole[:, places]


def _slots(gate: Gate) -> Slots:
    if gate.slots is None:
        raise ValueError("a gate without slots has none to learn")
    return gate.slots
