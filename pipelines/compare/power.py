"""How many seeds a comparison needs to see a difference, or to show that there is none that matters.

Arms are compared seed by seed, so what counts is the spread of the paired differences over the seeds. The power of the
two-sided paired t-test follows from the non-central t distribution, that of two one-sided tests (Schuirmann 1987, J.
Pharmacokinet. Biopharm. 15) from the joint distribution of mean and deviation. A spread that few seeds have measured is
uncertain itself: its upper 80 % bound gives a second, cautious number (Browne 1995, Statist. Med. 14).

Where every seed is tested on the same images, the luck of those images is the same for all seeds and no number of seeds
removes it: it is added to the variance of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import stdev

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, gammaln, ndtr, stdtrit

from pipelines.compare.statistics import ALPHA, Difference

POWER = 0.8
"""The chance, 0..1, that is asked for."""
CAUTION = 0.8
"""How surely the true spread lies below its upper bound, 0..1."""
MOST = 10_000
"""Seeds; what needs more is out of reach."""


@dataclass(frozen=True)
class Need:
    """Seeds that are needed, by the measured spread and by its upper bound; None where MOST do not suffice."""

    seeds: int | None
    cautious: int | None


@dataclass(frozen=True)
class SeedsNeeded:
    """What one arm needs. Deviations are of the figure, 0..1."""

    deviation: float
    """Of the paired differences over the seeds."""
    bound: float
    """The upper bound of that deviation."""
    test_deviation: float
    """Of the difference over test sets of this size, at most; 0 where each seed has test images of its own."""
    alone: Need | None
    """To see the difference at level 0.05, if the arm were the only one."""
    among: Need | None
    """At the strictest level of Holm's rule, 0.05 over the number of arms."""
    other_images: Need | None
    """As ``alone``, if the statement is to hold for other test images, too."""
    equivalence: Need | None
    """To show that a difference of zero lies within the margin."""


def seeds_needed(
    found: Difference, test_deviation: float, *, arms: int, points: float | None, margin: float | None
) -> SeedsNeeded | None:
    """What an arm with these differences needs to show ``points``, or equality within ``margin``; both 0..1.

    ``arms`` is how many are compared with the baseline. None with fewer than two seeds, which have no spread.
    """
    values = list(found.by_seed.values())
    if len(values) < 2:
        return None
    deviation = stdev(values)
    bound = deviation * math.sqrt((len(values) - 1) / float(chdtri(len(values) - 1, CAUTION)))

    def need(chance: Callable[[int, float], float]) -> Need:
        return Need(*(_least(lambda seeds, spread=spread: chance(seeds, spread)) for spread in (deviation, bound)))  # type: ignore[misc]

    def to_see(alpha: float, beside: float) -> Need | None:
        if points is None:
            return None
        return need(lambda seeds, spread: difference_power(seeds, points, spread, alpha=alpha, beside=beside))

    return SeedsNeeded(
        deviation,
        bound,
        test_deviation,
        alone=to_see(ALPHA, 0.0),
        among=to_see(ALPHA / max(1, arms), 0.0),
        other_images=to_see(ALPHA, test_deviation),
        equivalence=None if margin is None else need(lambda seeds, spread: equivalence_power(seeds, margin, spread)),
    )


def difference_power(
    seeds: int, difference: float, deviation: float, *, alpha: float = ALPHA, beside: float = 0.0
) -> float:
    """The chance 0..1 that a two-sided paired t-test over ``seeds`` ≥ 2 shows a ``difference``.

    ``deviation`` is that of the paired differences; ``beside`` is a deviation of their mean that is common to all
    seeds.
    """
    error = math.hypot(deviation / math.sqrt(seeds), beside)
    if error == 0:
        return 1.0
    centre, limit = abs(difference) / error, float(stdtrit(seeds - 1, 1 - alpha / 2))
    return _mean_over_spread(lambda ratio: ndtr(centre - limit * ratio) + ndtr(-centre - limit * ratio), seeds - 1)


def equivalence_power(seeds: int, margin: float, deviation: float, *, alpha: float = ALPHA) -> float:
    """The chance 0..1 that two one-sided paired t-tests over ``seeds`` ≥ 2 show equality within ``margin``.

    The true difference is 0.
    """
    if deviation == 0:
        return 1.0
    room, limit = margin / deviation * math.sqrt(seeds), float(stdtrit(seeds - 1, 1 - alpha))
    return _mean_over_spread(lambda ratio: np.maximum(2 * ndtr(room - limit * ratio) - 1, 0), seeds - 1)


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(400)


def _mean_over_spread(function: Callable[[NDArray[np.float64]], NDArray[np.float64]], freedom: int) -> float:
    """The mean of a function of the measured deviation over the true one, whose square is χ²/freedom distributed."""
    reach = 12 / math.sqrt(2 * freedom)  # deviations of that ratio
    low, high = max(0.0, 1 - reach), 1 + reach
    ratio = low + (high - low) * (_NODES + 1) / 2
    half = freedom / 2
    density = np.exp(
        math.log(2) + half * math.log(half) - gammaln(half) + (freedom - 1) * np.log(ratio) - half * ratio**2
    )
    return float((high - low) / 2 * (_WEIGHTS * density * function(ratio)).sum())


def _least(chance: Callable[[int], float]) -> int | None:
    """The fewest seeds, from 2 to MOST, whose chance is POWER; None if there are none. Chances grow with seeds."""
    if chance(MOST) < POWER:
        return None
    low, high = 1, MOST  # not enough; enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if chance(middle) >= POWER else (middle, high)
    return high
