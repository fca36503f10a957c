"""When T learns: not before the head knows something, and not at all with a rate of 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_NEWEST = 0.3
"""What the newest cross-entropy counts in the running mean."""


class Patience:
    """Whether T ``waits``, and how many steps it has ``made``.

    It begins when a running mean of the head's cross-entropy is below ``share`` of chance, ln C, and then goes on; with
    share 0 it begins at once, and not at all with a rate of 0.
    """

    def __init__(self, rate: float, share: float, classes: int) -> None:
        self.never, self.threshold = rate == 0, share * math.log(classes)
        self.begun, self.made = share == 0, 0
        self._loss: Tensor | None = None

    @property
    def waits(self) -> bool:
        """Whether T waited at the last step."""
        return self.never or not self.begun

    def learns(self) -> bool:
        """Whether T learns at the coming step; until it has begun, this waits for the device."""
        if not self.begun and not self.never and self._loss is not None:
            self.begun = float(self._loss) < self.threshold
        return not self.waits

    def hear(self, loss: Tensor) -> None:
        """Take the cross-entropy of the head on images that it has not learned from, a scalar."""
        self._loss = torch.lerp(loss if self._loss is None else self._loss, loss, _NEWEST)

    def state(self) -> dict[str, Any]:
        """For :meth:`load_state`."""
        return {"made": self.made, "begun": self.begun, "loss": self._loss}

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Undoes :meth:`state`."""
        self.made, self.begun, loss = int(state["made"]), bool(state["begun"]), state["loss"]
        self._loss = None if loss is None else loss.to(device)
