import numpy as np
import pytest
from scipy import stats

from mae.intervals import seeds_interval, share_interval


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
