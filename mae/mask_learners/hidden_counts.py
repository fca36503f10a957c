"""How often a step's masks hide patches of a kind: the important, the others, and those that a map calls salient."""

from __future__ import annotations

import torch
from torch import Tensor

from mae.distributed import World


class HiddenCounts:
    """The patches of each kind, hidden and in all, of the images of a step."""

    names = ("gate_important_hidden", "gate_other_hidden", "gate_salient_hidden")

    def __init__(self, device: torch.device) -> None:
        self._counts = torch.zeros(2, len(self.names), device=device)
        self._mapped = False
        self._shares = self._counts[0]

    def add(self, share: float, hidden: Tensor, important: Tensor, salient: Tensor | None = None) -> None:
        """Count a batch with the ``share`` of a step's images; bool [B, N] each."""
        kinds = [important, ~important, torch.zeros_like(important) if salient is None else salient]
        self._mapped |= salient is not None
        both = [torch.stack([(kind & hidden).float().mean(), kind.float().mean()]) for kind in kinds]
        self._counts = self._counts + share * torch.stack(both, dim=1)

    def gather(self, world: World) -> None:
        """What was counted becomes that of all processes."""
        self._counts = world.sum(self._counts)

    def apply(self) -> None:
        """The step is over."""
        self._shares = self._counts[0] / self._counts[1].clamp_min(1e-9)
        self._counts = torch.zeros_like(self._counts)

    def figures(self) -> dict[str, Tensor]:
        """The shares of the last step that were hidden, 0..1, by name; of salient patches only where there are maps."""
        names = self.names if self._mapped else self.names[:2]
        return dict(zip(names, self._shares, strict=False))
