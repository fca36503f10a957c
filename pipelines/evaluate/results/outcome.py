"""What one protocol found of one encoder with one seed, as plain values: right and wrong by class, or other figures."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

UnreadableImages = dict[str, str]
"""Images that could not be read: key → reason."""


_FIVE = 5


@dataclass(frozen=True)
class Scored:
    """What a classifier says of a part: ``scores`` [m, classes], the highest of which is its prediction.

    ``indices`` int64 [m], ascending, says which of the part's images or videos these are; others could not be read.
    """

    scores: Tensor
    indices: NDArray[np.int64]
    unreadable: UnreadableImages = field(default_factory=dict)

    @classmethod
    def mean(cls, each: Sequence[Scored]) -> Scored:
        """The mean of the scores of several clips of the same videos, those left out of which a clip is missing."""
        if len(each) == 1:
            return each[0]
        known = functools.reduce(np.intersect1d, [one.indices for one in each])
        scores = torch.stack([one.scores[torch.from_numpy(np.isin(one.indices, known))] for one in each]).mean(0)
        return cls(scores, known, {key: why for one in each for key, why in one.unreadable.items()})


@dataclass(frozen=True)
class Outcome:
    """Right and wrong on a test part."""

    confusion: list[list[int]]
    """How many test images of class (row) were taken for class (column)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the protocol chose or was trained with."""
    unreadable: UnreadableImages = field(default_factory=dict)
    top5: float | None = None
    """Share of the test images whose class is among the five of highest score, 0..1; None for five classes or fewer."""
    predicted: list[int | None] | None = None
    """For which class each image of the test part was taken; None for what could not be read. None in old results."""

    @classmethod
    def of(cls, scored: Scored, labels: NDArray[np.int64], *, facts: dict[str, Any]) -> Self:
        """The outcome of scores of test images of these classes, which ``labels`` int64 has for all of the part."""
        scores, truth = scored.scores.cpu(), torch.from_numpy(labels[scored.indices])
        predictions, classes = scores.argmax(1), scores.shape[1]
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (truth.numpy(), predictions.numpy()), 1)
        above = (scores >= scores.gather(1, truth[:, None])).sum(1)  # its own is one; of equals, all
        among = (above <= _FIVE) | (predictions == truth)
        top5 = float(among.double().mean()) if classes > _FIVE else None
        predicted: list[int | None] = [None] * len(labels)
        for place, prediction in zip(scored.indices.tolist(), predictions.tolist(), strict=True):
            predicted[place] = prediction
        return cls(counts.tolist(), facts, scored.unreadable, top5, predicted)

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
