"""How fast a run was, from the lines of its ``metrics.jsonl``, and whether the loader held it up.

Figures are medians over the intervals that were logged, so that a slow start, a checkpoint or a busy moment of the
machine does not move them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOTABLE = 0.2
"""A share of waiting above which the loader is the bottleneck."""

_ENOUGH = 3  # intervals; fewer say nothing


@dataclass(frozen=True)
class Throughput:
    """Median images a second and share of the time spent waiting for the loader (0..1); None where not logged."""

    images_per_second: float | None
    starved: float | None
    intervals: int

    def __str__(self) -> str:
        if self.images_per_second is None:
            return "unknown"
        starved = "" if self.starved is None else f", starved {self.starved:.0%}"
        return f"{self.images_per_second:.0f} images/s{starved} (medians)"

    def hint(self) -> str | None:
        """One line on what to do where the loader was the bottleneck, else None."""
        if self.starved is None or self.starved <= NOTABLE or self.intervals < _ENOUGH:
            return None
        return (
            f"the loader was the bottleneck: {self.starved:.0%} of the time the model waited for images; "
            "more --workers, or make the images small once: mae-cli prepare"
        )


def throughput(metrics: Sequence[Mapping[str, Any]]) -> Throughput:
    """The speed of a run with these lines."""
    speeds = [line["images_per_second"] for line in metrics if "images_per_second" in line]
    shares = [line["starved"] for line in metrics if "starved" in line]
    return Throughput(
        float(statistics.median(speeds)) if speeds else None,
        float(statistics.median(shares)) if shares else None,
        len(shares),
    )
