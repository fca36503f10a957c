"""95 % intervals: of an accuracy over the draw of the test set, and of a mean over seeds.

The second is Student's, exact for normally distributed values; for two or three seeds it is as wide as so few values
deserve (t = 12.7, 4.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

from mae.student import t_quantile


def share_interval(share: float, count: int) -> float:
    """Half the width of the interval of a share 0..1 of ``count`` samples, by the normal approximation."""
    return 1.96 * math.sqrt(share * (1 - share) / count)


def seeds_interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean of ``values``, one a seed; ValueError for fewer than two."""
    if len(values) < 2:
        raise ValueError("an interval over seeds needs at least two")
    return t_quantile(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
