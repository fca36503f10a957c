"""What a long command will take, from a few seconds of it: times, sizes and memory as a person reads them."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, TypeVar

from pipelines.errors import UserError

T = TypeVar("T")

SECONDS = 6.0
"""How long a ``--dry-run`` measures, beside what opening and the first batch take."""

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_began = time.perf_counter()


def begin() -> None:
    """A command begins. What it imports and opens from here on counts as its start."""
    global _began
    _began = time.perf_counter()


def since_began() -> float:
    """Seconds since the command began; without a command, since this file was imported."""
    return time.perf_counter() - _began


class EnoughError(Exception):
    """Ends a command that was begun to be measured."""


@dataclass(frozen=True)
class Sample(Generic[T]):
    """What a command makes of the first ``units`` of what it reads."""

    made: T
    units: int
    each: float
    """Seconds a unit, without what it takes to start."""
    start: float
    """Seconds that it takes to start."""
    bytes_each: float
    """Bytes that it writes for a unit."""
    bytes_start: float
    """Bytes that it writes for any number of units, such as the head and foot of a file."""

    def work(self, units: int) -> float:
        """Seconds that so many units take, once it has started."""
        return self.each * units

    def written(self, units: int) -> float:
        """Bytes that it writes for so many units."""
        return self.bytes_start + self.bytes_each * units


def sample(work: Callable[[int, Path], T], units: int | None, *, first: int = 4, most: int = 4096) -> Sample[T]:
    """Do the first of ``units`` in temporary folders: a few, twice, some more, then as many as SECONDS of work take.

    ``work`` takes how many there are to do and an empty folder to write to. What it needs to start is the same for any
    number of units, so the differences tell what a unit takes. The first time also takes what is imported or compiled
    once in a process, which is a part of the start. UserError if it can do none of the ``first``, and none of sixteen
    times as many.
    """
    limit = most if units is None else min(units, most)
    count = min(first, limit)
    try:
        cold = _timed(work, count)
    except UserError:
        if count == limit:
            raise
        count = min(16 * first, limit)
        cold = _timed(work, count)
    warm = _timed(work, count)
    once = max(cold.seconds - warm.seconds, 0.0)
    if count == limit:
        return replace(_slopes(warm), start=once)
    last = _timed(work, min(limit, (2 if warm.seconds >= SECONDS else 4) * count))
    found = _slopes(warm, last)
    if found.work(found.units) < max(SECONDS, found.start) and found.units < limit:
        more = max(2 * found.units, int(SECONDS / found.each))  # a short measurement is not to be trusted far
        found = _slopes(warm, _timed(work, min(limit, more, 16 * found.units)))
    return replace(found, start=found.start + once)


@dataclass(frozen=True)
class _Run(Generic[T]):
    made: T
    units: int
    seconds: float
    written: int
    """Bytes."""


def _timed(work: Callable[[int, Path], T], units: int) -> _Run[T]:
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        made = work(units, Path(folder))
        seconds = max(time.perf_counter() - started, 1e-9)
        written = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return _Run(made, units, seconds, written)


def _slopes(before: _Run[T], last: _Run[T] | None = None) -> Sample[T]:
    """What follows from two runs, or from one, of which starting counts as work."""
    if last is None:
        count = max(before.units, 1)
        return Sample(before.made, before.units, before.seconds / count, 0.0, before.written / count, 0.0)
    more = last.units - before.units
    each = max((last.seconds - before.seconds) / more, 1e-3 * last.seconds / last.units)  # of noise no time is left
    start = max(last.seconds - each * last.units, 0.0)
    bytes_each = max((last.written - before.written) / more, 0.0)
    return Sample(last.made, last.units, each, start, bytes_each, max(last.written - bytes_each * last.units, 0.0))


def shown_time(seconds: float) -> str:
    """``3 h 20 min``: the two largest units; ``0.4 s`` below ten seconds."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    left, parts = round(seconds), list[str]()
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def shown_size(count: float) -> str:
    """Bytes as ``1.2 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def shown_total(start: float, work: float, what: str = "") -> str:
    """How long a command takes: seconds to start, and seconds of work, for ``what`` it does."""
    return f"about {shown_time(start + work)}{what and ' for '}{what}, {shown_time(start)} of it to start"


def shown_rest(start: float, rate: float, units: int | None, unit: str) -> str:
    """How long so many ``units`` take at ``rate`` units a second, after ``start`` seconds."""
    if units is None:
        return "unknown: a stream tells its length at its end"
    return shown_total(start, units / rate, f"{units} {unit}")


def peak_memory(device: str) -> str:
    """The most that this process has used so far, and of a GPU what torch has allocated."""
    used = _resident()
    parts = [f"{shown_size(used)} in this process"] if used else []
    if device.startswith("cuda"):
        import torch

        parts.append(f"{shown_size(torch.cuda.max_memory_allocated(device))} on {device}")
    return ", ".join(parts) or "unknown"


def room(out: Path) -> str:
    """What is free on the disk that a folder is, or will be, on."""
    there = next(place for place in (out.absolute(), *out.absolute().parents) if place.exists())
    return f"{shown_size(shutil.disk_usage(there).free)} free"


def _resident() -> int:
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
