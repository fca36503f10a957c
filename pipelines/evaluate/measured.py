"""What a protocol measured image by image (or video by video): plain values, from which means and intervals follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluate.supervised import Rejected


@dataclass(frozen=True)
class Measured:
    """One encoder by one protocol with one seed."""

    figures: Mapping[str, Sequence[Sequence[float | None]]]
    """By name a row an image, in the order of the test part; what the columns are is the protocol's."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the protocol chose or was done with."""
    unreadable: Rejected = field(default_factory=dict)

    def array(self, name: str) -> NDArray[np.float64]:
        """A figure as float64 [n, k], NaN for None."""
        return np.asarray(self.figures[name], np.float64)

    def plain(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)
