"""95 % intervals: of an accuracy over the draw of the test set, of a mean over seeds, of a figure over images.

The second is Student's, exact for normally distributed values; for two or three seeds it is as wide as so few values
deserve (t = 12.7, 4.3). The third is the percentile bootstrap, for figures that are no mean: ratios of sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import stdev

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit


def share_interval(share: float, count: int) -> float:
    """Half the width of the interval of a share 0..1 of ``count`` samples, by the normal approximation."""
    return 1.96 * math.sqrt(share * (1 - share) / count)


def paired_interval(differences: NDArray[np.float64]) -> float:
    """Half the width of the interval of the mean of paired differences [n], by the normal approximation; n ≥ 2."""
    return float(1.96 * differences.std(ddof=1) / math.sqrt(len(differences)))


def t_quantile(share: float, freedom: int) -> float:
    """The value below which Student's t with so many degrees of freedom lies with probability ``share``."""
    return float(stdtrit(freedom, share))


def t_tails(t: float, freedom: int) -> float:
    """P(|T| > t) of Student's t with so many degrees of freedom, for t ≥ 0."""
    return float(2 * stdtr(freedom, -t))


def seeds_interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean of ``values``, one a seed; ValueError for fewer than two."""
    if len(values) < 2:
        raise ValueError("an interval over seeds needs at least two")
    return t_quantile(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))


RESAMPLES = 2000
_BLOCK = 4_000_000  # numbers drawn at a time


def bootstrap_interval(
    sums: NDArray[np.float64],
    figure: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The ends of the 95 % interval of a figure of summed counts ``sums`` [n, k], one row an image.

    Images are drawn with replacement, and ``figure`` maps the sums [r, k] of r such draws to float [r]. The draws
    follow from ``seed`` and n, so that figures of the same images are of the same draws. None for fewer than two.
    """
    if len(sums) < 2:
        return None
    rng, found = np.random.default_rng(seed), []
    block = max(1, _BLOCK // len(sums))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=rows)
        found.append(figure(drawn.astype(np.float64) @ sums))
    low, high = np.nanquantile(np.concatenate(found), [0.025, 0.975])
    return float(low), float(high)
