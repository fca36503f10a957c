"""What one protocol found of one encoder with one seed, as plain values: right and wrong by class, or other figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

UnreadableImages = dict[str, str]
"""Images that could not be read: key → reason."""


@dataclass(frozen=True)
class Outcome:
    """Right and wrong on a test part."""

    confusion: list[list[int]]
    """How many test images of class (row) were taken for class (column)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the protocol chose or was trained with."""
    unreadable: UnreadableImages = field(default_factory=dict)

    @classmethod
    def of(
        cls, predictions: Tensor, labels: Tensor, classes: int, *, facts: dict[str, Any], unreadable: UnreadableImages
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


@dataclass(frozen=True)
class Measured:
    """What was measured image by image (or video by video), from which means and intervals follow."""

    figures: Mapping[str, Sequence[Sequence[float | None]]]
    """By name a row an image, in the order of the test part; what the columns are is the protocol's."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the protocol chose or was done with."""
    unreadable: UnreadableImages = field(default_factory=dict)

    def array(self, name: str) -> NDArray[np.float64]:
        """A figure as float64 [n, k], NaN for None."""
        return np.asarray(self.figures[name], np.float64)

    def plain(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


Found = TypeVar("Found", Outcome, Measured)


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
