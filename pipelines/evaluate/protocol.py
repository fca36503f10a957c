"""What a protocol of ``evaluate`` is: from what decides a cell to how its figure is told, all in its own file.

A protocol is a subclass in a file under ``protocols/`` and a row of :data:`pipelines.evaluate.table.PROTOCOLS`; nothing
else knows it by name. A :class:`Probe` of frozen features needs ``settings`` and ``fit`` alone. What else ends in
right and wrong is a :class:`Classification`, with ``settings`` and ``measure``. Any other is a :class:`Measurement`,
which adds ``figures``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic

import numpy as np
from rich.table import Table
from torch import Tensor

from mae.evaluation.intervals import seeds_interval, share_interval
from pipelines.evaluate.data import Data, Parts
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.features import Features
from pipelines.evaluate.options import EvaluateOptions
from pipelines.evaluate.results.outcome import Found, Measured, Outcome, Scored, most_confused, per_class
from pipelines.evaluate.results.predictions import difference
from pipelines.evaluate.table import PROTOCOLS


class Protocol(ABC, Generic[Found]):
    """One protocol for all encoders and seeds of one evaluation; making it opens what it needs. Raises UserError."""

    name: ClassVar[str]
    """As asked for with ``--protocol``; the first part of all its keys in a row of the result."""
    unit: ClassVar[str] = ""
    """What the figure is, in a word for headings; empty for an accuracy."""
    meaning: ClassVar[str] = ""
    """What the figure is, as the end of a sentence; empty for an accuracy."""
    frozen: ClassVar[bool] = True
    """It leaves the encoder's weights as they are."""
    epochs: ClassVar[str] = ""
    """The option that says how often it trains on the training part; empty if it sees every image once."""
    baselines: ClassVar[tuple[Callable[[Encoder], Encoder], ...]] = ()
    """What makes encoders that know next to nothing, on the grid of another, to set it against."""
    kind: type[Found]
    """Of what :meth:`measure` gives."""

    def __init__(self, options: EvaluateOptions, data: Data, *, quiet: bool = False) -> None:
        self.options, self.quiet = options, quiet
        self.parts = self.open(data)

    def open(self, data: Data) -> Parts:
        """What it learns from and is tested on; UserError."""
        return data.labelled

    def trained_for(self, encoder: Encoder) -> int:
        """How many epochs it trains for, 1 if it sees every image once."""
        return getattr(self.options, self.epochs) if self.epochs else 1

    @classmethod
    def check_encoder(cls, encoder: Encoder, options: EvaluateOptions) -> None:
        """UserError for an encoder that can't be measured, before anything is opened."""

    @classmethod
    def check_maps(cls, options: EvaluateOptions, trained_with: Mapping[str, Path | str]) -> None:
        """UserError if models, by name, are yet to be trained with maps that it must be independent of."""

    def decided_by(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """All that the result of a cell follows from, as plain values: a finished cell is found by them."""
        settings = self.settings(encoder, seed)
        parts = self.parts.decided_by(seed)
        return {"protocol": self.name, "encoder": encoder.identity(), **parts, "settings": settings}

    @abstractmethod
    def settings(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """The options, and whatever else but encoder and data, that decide a cell; as plain values."""

    @abstractmethod
    def measure(self, encoder: Encoder, seed: int, checkpoint: Path | None) -> Found:
        """What the encoder gives with a seed; a training may keep its state in ``checkpoint``. Raises UserError."""

    @abstractmethod
    def row(self, found: Sequence[Found], seeds: Sequence[int], first: Sequence[Found] | None) -> dict[str, Any]:
        """What an encoder's row of the result has of it, under keys that begin with its name, from each seed's find.

        ``NAME`` is the figure 0..1, ``NAME_interval`` half of its 95 % interval or None. ``first`` is what the first
        row's encoder gave, if this is another.
        """

    def facts(self) -> dict[str, Any]:
        """What the result says of how it was done, for all encoders."""
        return {}

    def draw(self, folder: Path, result: Mapping[str, Any], encoder: Encoder) -> None:
        """Pictures of its own of a finished evaluation, into ``folder``; by the first row's ``encoder``."""

    @classmethod
    def heading(cls) -> str:
        """Over its column of figures in per cent."""
        return f"{cls.name}, {cls.unit} %" if cls.unit else f"{cls.name} %"

    @classmethod
    def tables(cls, result: Mapping[str, Any]) -> Iterator[Table]:
        """Further tables for the terminal, below the one of all figures."""
        yield from ()

    @classmethod
    def remarks(cls, result: Mapping[str, Any]) -> list[str]:
        """Lines for the terminal on the first row's encoder."""
        return []


class Classification(Protocol[Outcome]):
    """A protocol that predicts a class for every test image: its figure is an accuracy."""

    kind = Outcome

    def row(self, found: Sequence[Outcome], seeds: Sequence[int], first: Sequence[Outcome] | None) -> dict[str, Any]:
        """Accuracy (the mean over seeds), its intervals, accuracy by class, confusion, and what each seed gave.

        ``NAME_minus_first`` is the difference from the first row on the test images that both could read, and half of
        its 95 % interval over them, which is mostly narrower than those of the two accuracies.
        """
        name, shares = self.name, [outcome.accuracy for outcome in found]
        confusion = np.sum([outcome.confusion for outcome in found], axis=0)
        row: dict[str, Any] = {name: float(np.mean(shares))}
        row[f"{name}_interval"] = share_interval(row[name], int(np.sum(found[0].confusion)))
        if len(shares) > 1:
            row[f"{name}_seed_interval"] = seeds_interval(shares)
        if all(outcome.top5 is not None for outcome in found):
            row[f"{name}_top5"] = float(np.mean([outcome.top5 for outcome in found]))
        row[f"{name}_per_class"] = per_class(confusion)
        row[f"{name}_confusion"] = confusion.tolist()
        row[f"{name}_runs"] = [
            {"seed": seed, "accuracy": share, **_top5(outcome), **outcome.facts}
            for seed, share, outcome in zip(seeds, shares, found, strict=True)
        ]
        if first is not None and (from_first := difference(found, first, self.parts.test.labels)):
            row[f"{name}_minus_first"] = from_first
        return row

    @classmethod
    def remarks(cls, result: Mapping[str, Any]) -> list[str]:
        """What the encoder takes for what, by the last protocol that tells."""
        if [name for name in result["protocols"] if PROTOCOLS[name].accuracy][-1] != cls.name:
            return []
        pairs = most_confused(np.asarray(result["rows"][0][f"{cls.name}_confusion"]), result["class_names"])
        return [f"most confused ({cls.name}): {', '.join(pairs)}"] if pairs else []


def _top5(outcome: Outcome) -> dict[str, float]:
    return {} if outcome.top5 is None else {"top5": outcome.top5}


class Probe(Classification):
    """A classification by frozen features of central views, computed once for all probes."""

    def measure(self, encoder: Encoder, seed: int, checkpoint: Path | None) -> Outcome:
        """What :meth:`fit` makes of the features. Raises UserError."""
        tests, known = self.parts.test_features(encoder), self.parts.train_features(encoder, seed)
        scores, facts = self.fit(known, seed)
        scored = Scored.mean([Scored(scores(test.values), test.indices, test.unreadable) for test in tests])
        scored = replace(scored, unreadable=known.unreadable | scored.unreadable)
        return Outcome.of(scored, self.parts.test.labels, facts=facts)

    @abstractmethod
    def fit(self, known: Features, seed: int) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
        """From features [m, D] to scores [m, classes], as learned from ``known``; and what was chosen or used."""


class Measurement(Protocol[Measured]):
    """A protocol that measures images or videos one by one: its figure is a mean or a ratio of sums over them."""

    kind = Measured

    @abstractmethod
    def figures(self, found: Sequence[Measured], first: Sequence[Measured] | None) -> dict[str, Any]:
        """What a row has of what each seed gave, but for what is said of the seeds; see :meth:`row`."""

    def row(self, found: Sequence[Measured], seeds: Sequence[int], first: Sequence[Measured] | None) -> dict[str, Any]:
        """The figures, the interval over seeds, and what each seed was done with."""
        row = self.figures(found, first)
        if len(seeds) > 1:
            alone = [self.figures([each], None)[self.name] for each in found]
            row[f"{self.name}_seed_interval"] = seeds_interval(alone)
        row[f"{self.name}_runs"] = [{"seed": seed, **each.facts} for seed, each in zip(seeds, found, strict=True)]
        return row


def load(name: str) -> type[Protocol[Any]]:
    """The protocol of a name in the table; its module is imported now."""
    module, _, kind = PROTOCOLS[name].place.partition(":")
    loaded: type[Protocol[Any]] = getattr(import_module(module), kind)
    return loaded
