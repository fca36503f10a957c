"""Where a build's time goes: seconds by stage, the share of time the model was starved, and the bottleneck.

Stages that run beside the model (reading, decoding, writing) are counted in busy seconds of their threads; those of the
main thread (waiting for images, texts, model, waiting for the writer) in seconds of the run.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

READ, DECODE, STARVED, TEXTS, MODEL, WRITE, BLOCKED = (
    "reading the source",
    "decoding and resizing",
    "waiting for images",
    "texts",
    "images and maps",
    "writing",
    "waiting for the writer",
)
CUT = "captions cut"
"""No stage: a number of pairs, kept beside the seconds so that it comes from a cluster's workers as they do."""
_MAIN = (STARVED, TEXTS, MODEL, BLOCKED)
_NOTABLE = 0.15  # a share of the run above which waiting names the bottleneck


class Stages:
    """Seconds by stage; every thread may add to it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.pairs = 0
        self._lock = threading.Lock()
        self._started = time.perf_counter()
        self._ended: float | None = None

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Count the time spent inside towards a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: time.perf_counter() - started})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count seconds by stage that were measured elsewhere."""
        with self._lock:
            for stage, value in seconds.items():
                self.seconds[stage] += value

    @contextmanager
    def run(self) -> Iterator[None]:
        """The run itself: what is before, such as loading the model, or behind it does not count."""
        self._started, self._ended = time.perf_counter(), None
        try:
            yield
        finally:
            self._ended = time.perf_counter()

    @property
    def cut(self) -> int:
        """Pairs whose caption is longer than the model's context, so that its end was not seen."""
        return int(self.seconds[CUT])

    @property
    def wall(self) -> float:
        """Seconds of the run, so far or in all."""
        return (self._ended or time.perf_counter()) - self._started

    @property
    def starved(self) -> float:
        """The share of the model's time, 0..1, in which it waited for images."""
        total = sum(self.seconds[stage] for stage in _MAIN)
        return self.seconds[STARVED] / total if total else 0.0

    def bottleneck(self) -> str:
        """What held the run up, and what to do about it."""
        total = sum(self.seconds[stage] for stage in _MAIN) or 1.0
        if self.seconds[STARVED] / total > _NOTABLE:
            slower = max((READ, DECODE), key=lambda stage: self.seconds[stage])
            return f"{slower}: the model waited for images; more --workers, a faster disk or smaller images"
        if self.seconds[BLOCKED] / total > _NOTABLE:
            return "writing: the model waited for the disk of --out"
        if self.seconds[TEXTS] > self.seconds[MODEL]:
            return "texts: encoding captions took longer than the images"
        return "the model, as it should be: a faster device or a smaller --clip"

    def table(self) -> dict[str, str]:
        """{stage: seconds and share of the run}, and the bottleneck, as ``--report`` prints it."""
        wall = self.wall
        facts = {}
        for stage in (READ, DECODE, STARVED, TEXTS, MODEL, BLOCKED, WRITE):
            beside = "" if stage in _MAIN else " (parallel to the model, all threads)"
            facts[stage] = f"{self.seconds[stage]:8.2f} s {self.seconds[stage] / max(wall, 1e-9):6.1%}{beside}"
        facts["the run"] = f"{wall:8.2f} s, {self.pairs / max(wall, 1e-9):.1f} pairs/s, starved {self.starved:.1%}"
        facts["bottleneck"] = self.bottleneck()
        if self.cut:
            facts[CUT] = f"{self.cut} of {self.pairs}, longer than the model's context"
        return facts
