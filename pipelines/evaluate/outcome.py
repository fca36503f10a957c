"""What one protocol says of one encoder: right and wrong by class, and how it came about."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipelines.evaluate.supervised import Rejected


@dataclass(frozen=True)
class Outcome:
    """The judgement of a test part by one protocol with one seed; plain values only."""

    confusion: list[list[int]]
    """How many test images of class (row) were taken for class (column)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the protocol chose or was trained with."""
    unreadable: Rejected = field(default_factory=dict)

    @classmethod
    def of(
        cls, predictions: Tensor, labels: Tensor, classes: int, *, facts: dict[str, Any], unreadable: Rejected
    ) -> Self:
        """The outcome of predicted and true classes, int64 [m]."""
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (labels.cpu().numpy(), predictions.cpu().numpy()), 1)
        return cls(counts.tolist(), facts, unreadable)

    @property
    def accuracy(self) -> float:
        """Share of the test images that were right, 0..1."""
        counts = np.asarray(self.confusion)
        return float(np.trace(counts) / counts.sum())

    def plain(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


def per_class(confusion: NDArray[np.int64]) -> list[float | None]:
    """Accuracy of every class, 0..1; None for a class without a test image."""
    totals = confusion.sum(1)
    return [float(confusion[i, i] / total) if total else None for i, total in enumerate(totals)]


def most_confused(confusion: NDArray[np.int64], names: list[str], count: int = 3) -> list[str]:
    """The pairs of classes mistaken most often, as ``true → predicted (share of the true class)``."""
    wrong = confusion * (1 - np.eye(len(confusion), dtype=np.int64))
    share = wrong / np.maximum(confusion.sum(1, keepdims=True), 1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    places = [divmod(int(place), len(confusion)) for place in order]
    return [f"{names[i]} → {names[j]} ({share[i, j]:.0%})" for i, j in places if wrong[i, j]]
