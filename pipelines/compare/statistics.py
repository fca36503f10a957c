"""What accuracies over seeds show: means, paired differences, and which of several arms differ from the baseline.

Arms of one seed share their starting weights, the order of the images and their views, so they are compared seed by
seed: the mean of the differences has Student's t-interval over the seeds, and a paired t-test, whose p-values are
adjusted for the number of arms by Holm's step-down rule (Holm 1979, Scand. J. Statist. 6). An interval is of one
difference alone; a reading in words follows from the adjusted p-value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mae.evaluation.intervals import t_quantile, t_tails

LEVEL = 0.95
"""Of every interval; what is read as a difference has an adjusted p-value below 1 − LEVEL."""

BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"
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


def mean_interval(values: Sequence[float]) -> Mean:
    """The mean of at least one number with its t-interval."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Mean(len(values), mean, None)
    return Mean(len(values), mean, t_quantile((1 + LEVEL) / 2, len(values) - 1) * _standard_error(values))


def paired_differences(values: Mapping[str, Mapping[int, float]], baseline: str) -> dict[str, Difference]:
    """Every other arm of {arm: {seed: value}} minus the baseline; an arm without a seed in common is left out."""
    found = {}
    for arm, by_seed in values.items():
        shared = sorted(set(by_seed) & set(values.get(baseline, {})))
        if arm != baseline and shared:
            found[arm] = {seed: by_seed[seed] - values[baseline][seed] for seed in shared}
    p_values = {arm: paired_p(list(differences.values())) for arm, differences in found.items()}
    tested = {arm: p for arm, p in p_values.items() if p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    result = {}
    for arm, differences in found.items():
        mean = mean_interval(list(differences.values()))
        reading = _reading(mean.mean, adjusted.get(arm))
        result[arm] = Difference(differences, mean, p_values[arm], adjusted.get(arm), reading)
    return result


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the t-test that their mean is 0; None for fewer than two."""
    if len(differences) < 2:
        return None
    mean, error = math.fsum(differences) / len(differences), _standard_error(differences)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return t_tails(abs(mean) / error, len(differences) - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number, in their order: the k-th smallest of m times m − k + 1, never falling."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _reading(mean: float, adjusted_p: float | None) -> str:
    if adjusted_p is None:
        return TOO_FEW
    if adjusted_p >= 1 - LEVEL:
        return NOT_SHOWN
    return BETTER if mean > 0 else WORSE


def _standard_error(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))
