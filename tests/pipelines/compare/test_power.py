import math

import numpy as np
import pytest
from scipy import stats

from pipelines.compare.plan import ComparePlan
from pipelines.compare.power import Need, difference_power, equivalence_power, seeds_needed
from pipelines.compare.power_report import needs_of, power_lines, power_tables
from pipelines.compare.statistics import BETTER, EQUAL, NOT_SHOWN, equivalence_p, paired_differences
from pipelines.compare.unit import Unit, UnitOutcome

EXACT = {0.2: 198.1508, 0.5: 33.36713, 0.8: 14.30278, 1.0: 9.937864}
"""Pairs by R 4: power.t.test(delta = d, sd = 1, power = 0.8, type = "paired", strict = TRUE)."""


def spread(deviation, count=5, mean=0.0):
    """Seeds with paired differences of exactly this mean and deviation."""
    values = stats.zscore(np.arange(count), ddof=1) * deviation + mean
    base = dict.fromkeys(range(count), 0.5)
    return {"base": base, "arm": {seed: 0.5 + values[seed] for seed in range(count)}}


@pytest.mark.parametrize(("effect", "pairs"), EXACT.items())
def test_the_seeds_that_r_says(effect, pairs):
    found = paired_differences(spread(0.02), "base")["arm"]
    need = seeds_needed(found, 0.0, arms=1, points=0.02 * effect, margin=None)
    assert need.alone.seeds == math.ceil(pairs)
    assert need.alone == need.among == need.other_images
    assert need.alone.cautious > need.alone.seeds
    assert need.bound == pytest.approx(0.02 * math.sqrt(4 / stats.chi2.ppf(0.2, 4)))
    assert need.equivalence is None


def test_the_power_is_the_non_central_ts_of_scipy():
    for seeds, effect, alpha in ((3, 2.0, 0.05), (5, 1.5, 0.01), (40, 0.5, 0.05), (1000, 0.1, 0.05)):
        limit, centre = stats.t.ppf(1 - alpha / 2, seeds - 1), effect * math.sqrt(seeds)
        exact = stats.nct.sf(limit, seeds - 1, centre) + stats.nct.cdf(-limit, seeds - 1, centre)
        assert difference_power(seeds, effect, 1.0, alpha=alpha) == pytest.approx(exact, abs=1e-9)
    assert difference_power(3, 0.0, 1.0) == pytest.approx(0.05)
    # a deviation that all seeds share is one more variance of their mean
    assert difference_power(4, 1.0, 1.2, beside=0.8) == pytest.approx(difference_power(4, 1.0, 2.0), abs=1e-9)


def test_the_power_of_equivalence_is_that_of_a_simulation():
    rng = np.random.default_rng(0)
    for seeds, margin in ((3, 3.0), (5, 1.5), (20, 0.7)):
        draws = rng.normal(size=(100_000, seeds))
        mean, reach = draws.mean(1), stats.t.ppf(0.95, seeds - 1) * draws.std(1, ddof=1) / math.sqrt(seeds)
        simulated = np.mean((mean - reach > -margin) & (mean + reach < margin))
        assert equivalence_power(seeds, margin, 1.0) == pytest.approx(simulated, abs=0.005)


def test_two_one_sided_tests_are_scipys():
    rng = np.random.default_rng(1)
    for count, margin in ((2, 0.3), (5, 1.0), (20, 0.2)):
        values = rng.normal(0.1, 1, count)
        above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(values, margin, alternative="less").pvalue
        assert equivalence_p(list(values), margin) == pytest.approx(max(above, below), rel=1e-6)
    assert (equivalence_p([0.1], 1), equivalence_p([0.1, 0.1], 1), equivalence_p([2.0, 2.0], 1)) == (None, 0, 1)


def test_equality_is_a_claim_with_a_margin():
    def reading(margin, **arm):
        return paired_differences(spread(0.01, **arm), "base", margin)["arm"].reading

    assert [reading(margin) for margin in (None, 0.005, 0.02)] == [NOT_SHOWN, NOT_SHOWN, EQUAL]
    assert reading(0.05, mean=0.02) == f"{BETTER}, {EQUAL}"  # a difference that is shown, and does not matter
    many = {f"arm{i}": arm for i in range(9) for name, arm in spread(0.01).items() if name == "arm"}
    found = paired_differences({"base": spread(0)["base"]} | many, "base", 0.012)
    assert found["arm0"].equivalence_p < 0.05 < found["arm0"].adjusted_equivalence_p
    assert found["arm0"].reading == NOT_SHOWN  # one of nine


def test_what_a_report_says_of_the_seeds(tmp_path):
    values = spread(0.01, 4)
    plan = ComparePlan("s", {"base": {}, "arm": {}, "other": {}}, "base", tuple(range(4)), power=1, margin=2)
    differences = {"knn": paired_differences(values | {"other": {0: 0.4}}, "base", 0.02)}

    def finished(half, test):
        return [
            UnitOutcome(Unit(arm, seed, None, None, tmp_path), {"result": {
                "test": test(seed), "rows": [{"knn": value, "knn_interval": half}]}}, 1.0)
            for arm in ("base", "arm") for seed, value in values[arm].items()
        ]  # fmt: skip

    needs = needs_of(plan, finished(1.96 * 0.002, lambda seed: "test/"), differences)
    need = needs["knn"]["arm"]
    assert list(needs["knn"]) == ["arm"]  # the other has no spread
    assert need.test_deviation == pytest.approx(0.002 * math.sqrt(2))
    assert need.alone == Need(10, pytest.approx(19, abs=12))
    assert need.among.seeds > need.alone.seeds
    assert need.other_images.seeds > 10
    assert need.equivalence.seeds == next(n for n in range(2, 99) if equivalence_power(n, 0.02, 0.01) >= 0.8)
    heading, row = power_tables(plan, needs)["knn"]
    assert heading == [
        "knn: arm", "deviation", "to see 1", "one of 2 arms", "for other images", "equal within 2"
    ]  # fmt: skip
    assert row[:2] == ["arm", f"1.00 (at most {100 * need.bound:.2f})"]
    assert row[2].startswith("10 (")

    few_images = needs_of(plan, finished(1.96 * 0.01, lambda seed: "test/"), differences)
    assert few_images["knn"]["arm"].other_images == Need(None, None)
    assert "no number of seeds shows 1 points for other images (arm). About 15.7 times" in " ".join(
        power_lines(plan, few_images)
    )
    own_images = needs_of(plan, finished(1.96 * 0.01, lambda seed: f"held out (seed {seed})"), differences)
    assert own_images["knn"]["arm"].test_deviation == 0
    alone = ComparePlan("s", plan.arms, "base", (0,), power=1)
    assert power_lines(alone, needs_of(alone, [], {"knn": {}})) == [
        "No arm has two seeds yet. The spread over the seeds, and so the number of seeds, is unknown."
    ]
