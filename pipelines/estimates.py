"""What a long command will take, from a few seconds of it: times, sizes and memory as a person reads them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

SECONDS = 6.0
"""How long a ``--dry-run`` measures, beside what opening and the first batch take."""

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class EnoughError(Exception):
    """Ends a command that was begun to be measured."""


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


def shown_rest(rate: float, units: int | None, unit: str) -> str:
    """How long so many ``units`` take at ``rate`` units a second."""
    return (
        "unknown: a stream tells its length at its end"
        if units is None
        else f"about {shown_time(units / rate)}" + (f" for {units} {unit}")
    )


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
