"""What accuracies over seeds show: means, paired differences, and which of several arms differ from the baseline.

Arms of one seed share their starting weights, the order of the images and their views, so they are compared seed by
seed: the mean of the differences has Student's t-interval over the seeds, and a paired t-test, whose p-values are
adjusted for the number of arms by Holm's step-down rule (Holm 1979, Scand. J. Statist. 6). An interval is of one
difference alone; a reading in words follows from the adjusted p-value.

That two arms are equal can be shown only within a margin: by two one-sided tests that the difference lies above −margin
and below it (TOST; Schuirmann 1987, J. Pharmacokinet. Biopharm. 15). Holm's rule holds for these p-values as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mae.evaluation.intervals import t_quantile, t_tails

LEVEL = 0.95
"""Of every interval."""
ALPHA = 0.05
"""What is read as a difference, or as equal, has an adjusted p-value below it."""

BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"
EQUAL = "equal"
"""Within the margin."""
TOO_FEW = "too few seeds"


@dataclass(frozen=True)
class Mean:
    """The mean of some numbers and the half width of its 95 % t-interval; None where there are fewer than two."""

    count: int
    mean: float
    half_width: float | None


@dataclass(frozen=True)
class Difference:
    """An arm minus the baseline on the seeds that both have: ``by_seed``, its mean, and what it shows."""

    by_seed: dict[int, float]
    mean: Mean
    p: float | None
    """Two-sided, of the paired t-test; None with fewer than two seeds."""
    adjusted_p: float | None
    """By Holm's rule over the arms."""
    reading: str
    equivalence_p: float | None = None
    """Of the two one-sided tests that the difference lies within the margin; None without a margin."""
    adjusted_equivalence_p: float | None = None
    """By Holm's rule over the arms."""


def mean_interval(values: Sequence[float]) -> Mean:
    """The mean of at least one number with its t-interval."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Mean(len(values), mean, None)
    return Mean(len(values), mean, t_quantile((1 + LEVEL) / 2, len(values) - 1) * _standard_error(values))


def paired_differences(
    values: Mapping[str, Mapping[int, float]], baseline: str, margin: float | None = None
) -> dict[str, Difference]:
    """Every other arm of {arm: {seed: value}} minus the baseline; an arm without a seed in common is left out.

    With a ``margin`` > 0, in the values' unit, arms are also tested for equality within it.
    """
    found = {}
    for arm, by_seed in values.items():
        shared = sorted(set(by_seed) & set(values.get(baseline, {})))
        if arm != baseline and shared:
            found[arm] = {seed: by_seed[seed] - values[baseline][seed] for seed in shared}
    p_values = {arm: paired_p(list(differences.values())) for arm, differences in found.items()}
    equal = {
        arm: None if margin is None else equivalence_p(list(differences.values()), margin)
        for arm, differences in found.items()
    }
    adjusted, adjusted_equal = _adjusted(p_values), _adjusted(equal)
    return {
        arm: Difference(
            differences,
            mean := mean_interval(list(differences.values())),
            p_values[arm],
            adjusted.get(arm),
            _reading(mean.mean, adjusted.get(arm), adjusted_equal.get(arm)),
            equal[arm],
            adjusted_equal.get(arm),
        )
        for arm, differences in found.items()
    }


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the t-test that their mean is 0; None for fewer than two."""
    if len(differences) < 2:
        return None
    mean, error = math.fsum(differences) / len(differences), _standard_error(differences)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return t_tails(abs(mean) / error, len(differences) - 1)


def equivalence_p(differences: Sequence[float], margin: float) -> float | None:
    """The larger p-value of the one-sided t-tests that their mean is above −margin and below it; None for too few."""
    if len(differences) < 2:
        return None
    room, error = margin - abs(math.fsum(differences) / len(differences)), _standard_error(differences)
    if error == 0:
        return 0.0 if room > 0 else 1.0
    tail = t_tails(abs(room) / error, len(differences) - 1) / 2
    return tail if room > 0 else 1 - tail


def percent(mean: Mean, *, sign: bool = False) -> str:
    """A share as ``41.2 ± 0.8``, in per cent or percentage points."""
    text = f"{100 * mean.mean:{'+' if sign else ''}.1f}".replace("-", "−")
    return text if mean.half_width is None else f"{text} ± {100 * mean.half_width:.1f}"


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number, in their order: the k-th smallest of m times m − k + 1, never falling."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _adjusted(p_values: Mapping[str, float | None]) -> dict[str, float]:
    """By arm, of those that were tested."""
    tested = {arm: p for arm, p in p_values.items() if p is not None}
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def _reading(mean: float, adjusted_p: float | None, equivalence: float | None) -> str:
    if adjusted_p is None:
        return TOO_FEW
    equal = EQUAL if equivalence is not None and equivalence < ALPHA else None
    if adjusted_p >= ALPHA:
        return equal or NOT_SHOWN
    found = BETTER if mean > 0 else WORSE
    return f"{found}, {equal}" if equal else found


def _standard_error(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))
