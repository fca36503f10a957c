"""Stops a training at its first step that is not finite, without waiting for the device at any step.

Every step's loss and gradient norms are looked at where they are. From the first one that is infinite or NaN on, the
optimiser skips all its steps, so the weights and moments stay those from before that step however late the host asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from mae.training.spread import local


@dataclass(frozen=True)
class NonFinite:
    """``step`` (counted from 1) is the first that was not finite; ``parameter`` the first with a bad gradient."""

    step: int
    parameter: str | None
    """None where only the loss was not finite."""


class Guard:
    """``found`` is 1.0 from the first bad step on and else 0.0, float32 [] on the device, as fused AdamW reads it."""

    def __init__(self, device: torch.device) -> None:
        self.found = torch.zeros((), device=device)
        self._skipped = torch.zeros((), device=device)
        self._culprit = torch.zeros((), dtype=torch.int64, device=device)
        self._names: list[str] = []

    def look(
        self,
        model: nn.Module,
        loss: Tensor,
        agree: Callable[[Tensor], Tensor] = lambda flags: flags,
        beside: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """Look at the loss [] and the gradients of a step before it is applied.

        ``agree`` makes flags of this process's gradients those of all processes, where they differ. ``beside`` are
        networks that learn at the same steps, by name.
        """
        parameters = chain(
            model.named_parameters(),
            *(other.named_parameters(prefix=name) for name, other in (beside or {}).items()),
        )
        named = [(name, local(p.grad)) for name, p in parameters if p.grad is not None]
        self._names = [name for name, _ in named]
        norms = torch._foreach_norm([gradient for _, gradient in named])
        bad = agree(~torch.stack([*norms, loss]).isfinite()).bool()  # the loss last: named only if no gradient is
        fresh = bad.any() & (self.found == 0)
        self._culprit = torch.where(fresh, bad.to(torch.uint8).argmax(), self._culprit)
        self.found = torch.maximum(self.found, bad.any().float())
        self._skipped += self.found

    def report(self, step: int) -> NonFinite | None:
        """The first bad one of the ``step`` steps done so far; None if there is none. Waits for the device."""
        skipped, culprit = int(self._skipped), int(self._culprit)
        if not skipped:
            return None
        return NonFinite(step - skipped + 1, self._names[culprit] if culprit < len(self._names) else None)
