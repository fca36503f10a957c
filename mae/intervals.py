"""95 % intervals: of an accuracy over the draw of the test set, and of a mean over seeds.

The second is Student's, exact for normally distributed values; for two or three seeds it is as wide as so few values
deserve (t = 12.7, 4.3). The quantile is found from the closed form of the distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev


def share_interval(share: float, count: int) -> float:
    """Half the width of the interval of a share 0..1 of ``count`` samples, by the normal approximation."""
    return 1.96 * math.sqrt(share * (1 - share) / count)


def seeds_interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean of ``values``, one a seed; ValueError for fewer than two."""
    if len(values) < 2:
        raise ValueError("an interval over seeds needs at least two")
    return student_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))


def student_quantile(freedom: int, coverage: float = 0.95) -> float:
    """The t within which, on both sides of 0, Student's distribution of ``freedom`` ≥ 1 degrees has ``coverage``."""
    low, high = 0.0, 1.0
    while _within(high, freedom) < coverage:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < coverage else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| ≤ t), by the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for n in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine**2 * (n - 1) / n
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
