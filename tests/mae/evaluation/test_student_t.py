import pytest
from scipy import stats

from mae.evaluation.student_t import t_quantile, t_tails


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 29, 500, 5000])
@pytest.mark.parametrize("share", [0.5, 0.6, 0.9, 0.975, 0.999, 0.99999])
def test_quantiles_are_scipys(freedom, share):
    assert t_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 29, 500, 5000])
@pytest.mark.parametrize("t", [0, 0.01, 0.3, 1, 2.5, 12, 100])
def test_tails_are_scipys(freedom, t):
    assert t_tails(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-8, abs=1e-14)


@pytest.mark.parametrize(("share", "freedom"), [(0.4, 3), (1.0, 3), (0.9, 0)])
def test_a_quantile_that_does_not_exist(share, freedom):
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(share, freedom)
