"""Frames with times of their own, made one frame a tick: the latest there is at each.

It gives a frame as soon as it is known, so a stream at its own rate is not delayed. Where nothing new has come by the
time of a tick, the last frame is shown again; before the first good one, the first is. A time that runs back, or on by
more than a minute, is taken for a fault of the clock: the count goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple, Protocol

from PIL import Image

from pipelines.sources.video.video_stream import LONGEST_GAP

_TOLERANCE, _ROUNDING = 0.1, 0.001
"""How much a frame may be late for its tick, in ticks, or in seconds if that is more: containers round times."""


class Arrival(NamedTuple):
    """A frame that came, or should have come."""

    time: float | None
    """In seconds; None where frames are only counted, one a tick."""
    image: Image.Image | None
    """None where it could not be decoded."""


class Counts(Protocol):
    """Where it is counted what was done to the frames."""

    repeated: int
    skipped: int
    jumps: int


class Ticks:
    """One frame a tick of arrivals in the order of their times; ``counts`` is kept up to date."""

    def __init__(self, fps: Fraction, counts: Counts) -> None:
        self._fps, self._counts = float(fps), counts
        self._tolerance = min(max(_TOLERANCE, _ROUNDING * self._fps), 0.4)
        self._held: Image.Image | None = None
        self._shown = True
        self._start: float | None = None
        self._latest = 0.0
        self._next = 0  # the tick that is shown next
        self._owed = 0  # ticks before the first good frame

    def add(self, arrival: Arrival) -> Iterator[Image.Image]:
        """The frames of all ticks that are decided by this arrival."""
        if arrival.time is None:
            if arrival.image is not None:
                self._hold(arrival.image)
            yield from self._show()
            return
        place = self._place(arrival.time)
        while self._next < place - self._tolerance:
            yield from self._show()
        if arrival.image is not None:
            self._hold(arrival.image)
        if self._next <= place + self._tolerance:
            yield from self._show()

    def _place(self, time: float) -> float:
        """Where a time lies, counted in ticks."""
        if self._start is None:
            self._start = self._latest = time
        gone = time - self._latest
        if gone < -self._tolerance / self._fps or gone > LONGEST_GAP:
            self._counts.jumps += 1
            self._start = time - self._next / self._fps
        self._latest = time
        return (time - self._start) * self._fps

    def _hold(self, image: Image.Image) -> None:
        self._counts.skipped += not self._shown
        self._held, self._shown = image, False

    def _show(self) -> Iterator[Image.Image]:
        self._next += 1
        if self._held is None:
            self._owed += 1
            return
        self._counts.repeated += self._owed + self._shown
        for _ in range(self._owed + 1):
            yield self._held
        self._owed, self._shown = 0, True
