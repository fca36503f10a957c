"""Which pairs make which shard, and which of the shards a run is to make.

The shard is the unit of everything: its number says its pairs and its file's name, whoever makes it and whenever. A
job array deals the shards out in turns, so that ``--shard 1/8 … 8/8`` together make what one run would have made.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from saliency.table.manifest import LARGEST_COUNT, NAME, part_name

NOT_OF_A_MAP = ("pairs", "pairs_sha256", "shard_size")
"""Settings of a build that say which pairs it has and how they are dealt out, and nothing of a map."""


@dataclass(frozen=True)
class Plan:
    """The shards of a build. ``pairs`` is None for a stream, whose length is known only at its end."""

    pairs: int | None
    shard_size: int
    part: tuple[int, int] | None = None
    """Part i of n of a job array, 1 ≤ i ≤ n; None is all of it."""

    @property
    def count(self) -> int | None:
        """How many shards there are in all."""
        return None if self.pairs is None else math.ceil(self.pairs / self.shard_size)

    @property
    def manifest(self) -> str:
        """The file name of this run's manifest."""
        return NAME if self.part is None else part_name(*self.part)

    def own(self) -> Iterable[int]:
        """The numbers of the shards this run is to make, in order; endless for a stream."""
        if self.count is None:
            return itertools.count()
        first, step = (0, 1) if self.part is None else (self.part[0] - 1, self.part[1])
        return range(first, self.count, step)

    def rows(self, number: int) -> range:
        """The pairs of a shard of a source of known length."""
        assert self.pairs is not None
        return range(number * self.shard_size, min((number + 1) * self.shard_size, self.pairs))

    def size(self, numbers: Iterable[int]) -> int | None:
        """How many pairs some shards have in all; None for a stream."""
        return None if self.pairs is None else sum(len(self.rows(number)) for number in numbers)

    def name(self, number: int) -> str:
        """The file name of a shard; that of a stream's lacks the total until its end."""
        return shard_name(number, self.count)

    def left(self, done: set[str]) -> Iterator[int]:
        """The shards still to make, where ``done`` names the files of those that are made."""
        return (number for number in self.own() if self.name(number) not in done)


def plan_of(settings: Mapping[str, Any]) -> Plan:
    """The plan of a build of known length by its manifest's settings; ValueError if they can't be such a build's."""
    pairs, size = settings.get("pairs"), settings.get("shard_size")
    if type(pairs) is not int or type(size) is not int or not (0 <= pairs <= LARGEST_COUNT and size >= 1):
        raise ValueError(f"a build of {pairs!r} pairs in shards of {size!r} can't be")
    return Plan(pairs, size)


def shard_name(number: int, count: int | None) -> str:
    """``train-00003-of-00012.parquet``, or ``train-00003.parquet`` while the count is unknown."""
    return f"train-{number:05d}.parquet" if count is None else f"train-{number:05d}-of-{count:05d}.parquet"
