import numpy as np
import pytest
from scipy import stats

from mae.evaluation.intervals import bootstrap_interval, seeds_interval, share_interval, t_quantile, t_tails


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_the_interval_over_seeds_is_scipys(count):
    values = np.random.default_rng(count).normal(0.7, 0.02, count)
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert seeds_interval(list(values)) == pytest.approx((high - low) / 2, rel=1e-9)


def test_seeds_that_agree_and_too_few():
    assert seeds_interval([0.5, 0.5, 0.5]) == 0
    with pytest.raises(ValueError, match="at least two"):
        seeds_interval([0.5])


def test_the_interval_of_a_share():
    assert share_interval(0.75, 400) == pytest.approx(1.96 * stats.sem(np.repeat([1, 0], [300, 100]), ddof=0))


def test_the_bootstrap_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(0).normal(3, 2, (400, 1))
    sums = np.column_stack([values, np.ones(400)])
    low, high = bootstrap_interval(sums, lambda drawn: drawn[:, 0] / drawn[:, 1])
    assert (high - low) / 2 == pytest.approx(1.96 * values.std(ddof=1) / 20, rel=0.08)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.03)
    assert bootstrap_interval(sums, lambda drawn: drawn[:, 0] / drawn[:, 1]) == (low, high)
    assert bootstrap_interval(sums[:1], lambda drawn: drawn[:, 0]) is None


def test_the_bootstrap_weighs_images_by_what_they_hold():
    """A ratio of sums: one large image counts for more than many small ones, and draws without it differ."""
    sums = np.array([[0.0, 1.0]] * 50 + [[1000.0, 1000.0]])
    low, high = bootstrap_interval(sums, lambda drawn: drawn[:, 0] / drawn[:, 1])
    assert low == 0
    assert high > 0.97


@pytest.mark.parametrize("freedom", [1, 2, 4, 29])
def test_students_t(freedom):
    assert t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-12)
    assert t_tails(2.5, freedom) == pytest.approx(2 * stats.t.sf(2.5, freedom), rel=1e-12)
    assert t_tails(t_quantile(0.975, freedom), freedom) == pytest.approx(0.05, rel=1e-9)
