import itertools
import math

import numpy as np
import pytest
from scipy import stats

from pipelines.compare.statistics import (
    BETTER,
    NOT_SHOWN,
    TOO_FEW,
    WORSE,
    holm,
    mean_interval,
    paired_differences,
    paired_p,
)


def test_an_interval_by_hand():
    found = mean_interval([1.0, 2.0, 3.0])  # standard error 1/√3, t(0.975, 2) = 4.302653
    assert (found.count, found.mean) == (3, 2.0)
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_seed_has_no_interval():
    assert mean_interval([0.4]).half_width is None


def test_the_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = rng.normal(5, 2, (2000, 3))
    means = [mean_interval(list(sample)) for sample in samples]
    covered = np.mean([abs(found.mean - 5) <= found.half_width for found in means])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_the_paired_test_is_scipys():
    rng = np.random.default_rng(1)
    for count in (2, 3, 5, 20):
        a, b = rng.normal(0, 1, (2, count))
        assert paired_p(list(a - b)) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-8)


def test_differences_without_spread():
    assert paired_p([0.0, 0.0, 0.0]) == 1
    assert paired_p([0.5, 0.5]) == 0
    assert paired_p([0.5]) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_rejects_what_closed_testing_with_bonferroni_rejects():
    """An adjusted p is the largest Bonferroni p of all the families that the hypothesis is in."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        p_values = list(rng.uniform(0, 0.2, 5))
        families = [c for size in range(1, 6) for c in itertools.combinations(range(5), size)]
        closed = [
            max(min(1, len(f) * min(p_values[i] for i in f)) for f in families if member in f) for member in range(5)
        ]
        assert holm(p_values) == pytest.approx(closed)


def test_differences_are_of_the_same_seed():
    values = {"a": {0: 0.5, 1: 0.7, 2: 0.6}, "b": {2: 0.7, 0: 0.6, 1: 0.8}, "c": {1: 0.1, 5: 0.9}, "d": {7: 0.1}}
    found = paired_differences(values, "a")
    assert set(found) == {"b", "c"}
    assert found["b"].by_seed == pytest.approx({0: 0.1, 1: 0.1, 2: 0.1})
    assert found["b"].mean.half_width == pytest.approx(0, abs=1e-12)  # though the seeds themselves differ
    assert found["b"].reading == BETTER
    assert found["c"].by_seed == pytest.approx({1: -0.6})
    assert (found["c"].p, found["c"].adjusted_p, found["c"].reading) == (None, None, TOO_FEW)


def test_many_arms_ask_for_more():
    """The same differences are shown on their own, and are not among ten that differ as little as chance has it."""
    base = dict.fromkeys(range(4), 0.5)
    good = {seed: 0.5 + step for seed, step in enumerate((0.035, 0.05, 0.075, 0.05))}
    noise = {f"n{i}": {s: 0.5 + d for s, d in enumerate(np.roll((0.02, -0.01, -0.02, 0.01), i))} for i in range(10)}
    alone = paired_differences({"base": base, "good": good}, "base")["good"]
    among = paired_differences({"base": base, "good": good} | noise, "base")
    assert alone.adjusted_p == alone.p < 0.01
    assert (alone.reading, among["good"].reading) == (BETTER, NOT_SHOWN)
    assert among["good"].adjusted_p == pytest.approx(11 * alone.p)
    assert {among[name].reading for name in noise} == {NOT_SHOWN}
    assert paired_differences({"base": good, "bad": base}, "base")["bad"].reading == WORSE


def test_without_the_baseline_nothing_is_compared():
    assert paired_differences({"b": {0: 0.1}}, "a") == {}
