"""Masks: counts and consistency for every combination of settings, which patches are hidden and how often, errors."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mae.masks.masking import (
    Masking,
    mask_from_priorities,
    salient_set,
    top_ranks,
)
from mae.masks.noise import COLORS
from mae.masks.strategies import SALIENT_OF, SALIENT_PICKS, blind
from mae.models.mask import Mask, hidden_count

RANKED = ("salient", "inverse", "shuffled", "center", "motion", "frame-difference")
EXAMPLES = 60
COMBINATIONS = [
    ("random", "image", "top"),
    ("block", "image", "top"),
    ("grid", "image", "top"),
    ("tube", "image", "top"),
    *((f"color-{color}", "image", "top") for color in COLORS),
    *itertools.product(RANKED[:4], SALIENT_OF, SALIENT_PICKS),
    ("motion", "image", "top"),
    ("frame-difference", "image", "top"),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frequencies(mask: Mask) -> list[float]:
    return mask.hidden.double().mean(0).tolist()


def hidden_sets(mask: Mask) -> list[set[int]]:
    return [set(row.nonzero().flatten().tolist()) for row in mask.hidden]


# Every combination, against a plain-Python reading of the rules


@dataclass(frozen=True)
class Case:
    masking: Masking
    batch: int
    grid: tuple[int, int]
    saliency: Tensor
    seed: int
    progress: float

    def draw(self) -> Mask:
        return self.masking(
            self.batch, self.grid, generator=seeded(self.seed), saliency=self.saliency, progress=self.progress
        )


@st.composite
def cases(draw: st.DrawFn, strategy: str, salient_of: str, pick: str) -> Case:
    grid = draw(st.tuples(st.integers(1, 7), st.integers(2, 7)))
    patches = math.prod(grid)
    mask_ratio = draw(st.one_of(st.sampled_from([0.25, 0.5, 0.75]), st.floats(0.02, 0.98)))
    if not 0 < hidden_count(patches, mask_ratio) < patches:
        mask_ratio = 0.5
    highest = mask_ratio if salient_of == "image" else 1.0
    ratios = st.one_of(st.sampled_from([0.0, highest]), st.floats(0, highest))
    schedule = draw(st.one_of(st.none(), st.tuples(ratios, ratios)))
    batch = draw(st.integers(2 if strategy == "shuffled" else 1, 4))
    # Whole numbers, so that sums and shares are exact and the rules leave nothing to rounding.
    levels, seed = draw(st.sampled_from([2, 4, 200, 1])), draw(st.integers(0, 2**31))
    saliency = torch.randint(levels, (batch, patches), generator=seeded(seed)).float()
    masking = Masking(
        strategy=strategy,
        mask_ratio=mask_ratio,
        salient_ratio=draw(ratios),
        salient_of=salient_of,
        salient_pick=pick,
        salient_mass=draw(st.sampled_from([0.25, 0.5, 0.75, 1.0])),
        temperature=draw(st.sampled_from([0.1, 1.0, 3.0])),
        salient_schedule=schedule,
    )
    return Case(masking, batch, grid, saliency, seed, draw(st.sampled_from([0.0, 0.5, 1.0])))


def ranked_map(case: Case, image: int) -> list[float]:
    """The map that image number ``image`` is masked by."""
    rows = case.saliency.tolist()
    if case.masking.strategy == "inverse":
        return [max(rows[image]) - value for value in rows[image]]
    if case.masking.strategy == "shuffled":
        return rows[image - 1]  # type: ignore[no-any-return]
    if case.masking.strategy == "center":
        height, width = case.grid
        distances = [
            ((2 * i + 1 - height) / height) ** 2 + ((2 * j + 1 - width) / width) ** 2
            for i in range(height)
            for j in range(width)
        ]
        return [round(math.exp(-2 * distance), 5) for distance in distances]
    return rows[image]  # type: ignore[no-any-return]


def check_highest_hidden(values: list[float], hidden: set[int], count: int) -> None:
    """The ``count`` highest values are hidden; among those equal to the last of them, any will do."""
    if count == 0:
        return
    least = sorted(values, reverse=True)[count - 1]
    above = {i for i, value in enumerate(values) if value > least}
    equal = {i for i, value in enumerate(values) if value == least}
    assert above <= hidden
    assert len(above) + len(equal & hidden) >= count


def check_case(case: Case) -> None:
    masking, patches = case.masking, math.prod(case.grid)
    mask = case.draw()
    count = hidden_count(patches, masking.mask_ratio)
    assert count == patches - int(patches * (1 - masking.mask_ratio))

    assert mask.hidden.shape == mask.ids_restore.shape == (case.batch, patches)
    assert mask.ids_keep.shape == (case.batch, patches - count)
    assert (mask.hidden.dtype, mask.ids_keep.dtype, mask.ids_restore.dtype) == (torch.bool, torch.int64, torch.int64)
    assert mask.hidden.sum(1).tolist() == [count] * case.batch
    for hidden, keep, restore in zip(hidden_sets(mask), mask.ids_keep.tolist(), mask.ids_restore.tolist(), strict=True):
        assert set(keep) == set(range(patches)) - hidden, "1 = hidden, and what is kept is what is not hidden"
        assert sorted(restore) == list(range(patches))
        assert [restore[patch] for patch in keep] == list(range(patches - count))

    if masking.strategy not in RANKED:
        return
    ratio = masking.salient_ratio
    if masking.salient_schedule is not None:
        ratio = (1 - case.progress) * masking.salient_schedule[0] + case.progress * masking.salient_schedule[1]
    for image, hidden in enumerate(hidden_sets(mask)):
        values = ranked_map(case, image)
        if masking.salient_of in ("salient", "salient-only"):
            check_salient_reading(masking, values, hidden, count, ratio)
            continue
        forced = round(ratio * (patches if masking.salient_of == "image" else count))
        if masking.salient_of == "image" and math.isclose(ratio, masking.mask_ratio):
            forced = count
        if masking.salient_pick == "top":
            check_highest_hidden(values, hidden, forced)
        else:
            positive = {i for i, value in enumerate(values) if value > 0}
            assert len(hidden & positive) >= min(forced, len(positive)), "patches without saliency come last"


def check_salient_reading(masking: Masking, values: list[float], hidden: set[int], count: int, ratio: float) -> None:
    if masking.strategy == "center" and masking.salient_mass == 1.0:
        return  # rounded here and not there, so the mass of the last patches is not exact
    ordered = sorted(values, reverse=True)
    size = next(n for n in range(len(values) + 1) if sum(ordered[:n]) >= masking.salient_mass * sum(values) - 1e-9)
    forced = min(round(ratio * size), count)
    rest = max(0, count - forced - (len(values) - size))  # what has to come from the rest of the set
    if masking.salient_pick == "top":
        check_highest_hidden(values, hidden, forced)
    if size == 0 or masking.salient_of == "salient":  # there the rest of the mask falls anywhere
        return
    least = ordered[size - 1]
    surely = {i for i, value in enumerate(values) if value > least}
    possibly = {i for i, value in enumerate(values) if value >= least}
    assert len(hidden & surely) <= forced + rest <= len(hidden & possibly)


@pytest.mark.parametrize(("strategy", "salient_of", "pick"), COMBINATIONS)
def test_every_combination_follows_the_rules(strategy: str, salient_of: str, pick: str) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(cases(strategy, salient_of, pick))
    def check(case: Case) -> None:
        check_case(case)

    check()


def test_every_strategy_is_in_the_combinations() -> None:
    assert {strategy for strategy, _, _ in COMBINATIONS} == set(blind())


# The ranking


def test_priorities_are_hidden_from_the_top_and_kept_in_order() -> None:
    mask = mask_from_priorities(torch.tensor([[0.3, 0.9, 0.1, 0.7], [4.0, 3.0, 2.0, 1.0]]), 0.5)
    assert mask.ids_keep.tolist() == [[2, 0], [3, 2]]
    assert mask.ids_restore.tolist() == [[1, 3, 0, 2], [3, 2, 1, 0]]
    assert mask.hidden.tolist() == [[False, True, False, True], [True, True, False, False]]


@pytest.mark.parametrize(
    ("patches", "ratio", "hidden"), [(196, 0.75, 147), (196, 0.6, 118), (10, 0.25, 3), (7, 0.5, 4)]
)
def test_hidden_count_rounds_the_visible_part_down(patches: int, ratio: float, hidden: int) -> None:
    assert hidden_count(patches, ratio) == hidden


def test_random_is_the_argsort_of_the_generators_first_uniform_noise() -> None:
    mask = Masking("random")(5, (4, 6), generator=seeded(3))
    noise = torch.rand(5, 24, generator=seeded(3))
    assert torch.equal(mask.ids_keep, noise.argsort(dim=1)[:, :6])


def test_top_ranks_break_ties_by_noise() -> None:
    scores = torch.tensor([[1.0, 5.0, 1.0, 1.0]])
    orders = {tuple(top_ranks(scores, torch.rand(1, 4, generator=seeded(s)))[0].tolist()) for s in range(100)}
    assert {order[1] for order in orders} == {0}
    assert len(orders) == 6


# How often


@pytest.mark.parametrize("salient_of", SALIENT_OF)
@pytest.mark.parametrize("pick", SALIENT_PICKS)
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_flat_map_is_uniform(salient_of: str, pick: str, value: float) -> None:
    masking = Masking("salient", mask_ratio=0.5, salient_of=salient_of, salient_pick=pick)
    mask = masking(8000, (3, 3), generator=seeded(1), saliency=torch.full((8000, 9), value))
    # A patch's frequency has a standard error of 0.0056.
    assert frequencies(mask) == pytest.approx([5 / 9] * 9, abs=0.025)


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_flat_map_hides_every_pair_equally_often(value: float) -> None:
    mask = Masking("salient", mask_ratio=0.5)(
        20000, (2, 3), generator=seeded(2), saliency=torch.full((20000, 6), value)
    )
    together = torch.einsum("bi,bj->ij", mask.hidden.double(), mask.hidden.double()) / 20000
    pairs = [together[i, j].item() for i, j in itertools.combinations(range(6), 2)]
    assert pairs == pytest.approx([3 / 6 * 2 / 5] * 15, abs=0.015)


def test_a_patch_that_loses_its_tie_is_hidden_as_often_as_the_others() -> None:
    saliency = torch.tensor([2.0, 1, 1, 1, 0, 0, 0, 0, 0, 0]).repeat(20000, 1)
    masking = Masking("salient", mask_ratio=0.6, salient_ratio=0.2)  # 2 of 10 by saliency, 4 of the other 8 by chance
    rest, tied = 4 / 8, 1 / 3 + 2 / 3 * 4 / 8
    mask = masking(20000, (2, 5), generator=seeded(4), saliency=saliency)
    assert frequencies(mask) == pytest.approx([1.0] + [tied] * 3 + [rest] * 6, abs=0.018)


# The ends of the dial


@pytest.mark.parametrize("salient_of", ["image", "mask", "salient"])
@pytest.mark.parametrize("pick", SALIENT_PICKS)
@pytest.mark.parametrize("strategy", RANKED)
def test_ratio_zero_is_the_random_run_bit_for_bit(strategy: str, salient_of: str, pick: str) -> None:
    masking = Masking(strategy, salient_ratio=0.0, salient_of=salient_of, salient_pick=pick)
    ours, randoms = seeded(9), seeded(9)
    for step in range(3):
        saliency = torch.rand(6, 30, generator=seeded(step))
        mask, expected = masking(6, (5, 6), generator=ours, saliency=saliency), Masking()(6, (5, 6), generator=randoms)
        assert torch.equal(mask.hidden, expected.hidden)
        assert torch.equal(mask.ids_keep, expected.ids_keep)
        assert torch.equal(mask.ids_restore, expected.ids_restore)


def test_ratio_zero_is_random_in_distribution() -> None:
    saliency = torch.arange(9.0).repeat(8000, 1)
    mask = Masking("salient", mask_ratio=0.5, salient_ratio=0)(8000, (3, 3), generator=seeded(10), saliency=saliency)
    assert frequencies(mask) == pytest.approx([5 / 9] * 9, abs=0.025)


@pytest.mark.parametrize("mask_ratio", [0.25, 0.3, 0.6, 0.75, 0.9])
def test_ratio_equal_to_the_mask_ratio_hides_exactly_the_top(mask_ratio: float) -> None:
    saliency = torch.rand(10, 35, generator=seeded(11))
    mask = Masking("salient", mask_ratio, mask_ratio)(10, (5, 7), generator=seeded(12), saliency=saliency)
    top = saliency.topk(hidden_count(35, mask_ratio), dim=1).indices
    assert hidden_sets(mask) == [set(row) for row in top.tolist()]


def test_schedule_moves_the_ratio_from_end_to_end() -> None:
    saliency = torch.rand(8, 36, generator=seeded(15))
    scheduled = Masking("salient", salient_schedule=(0.1, 0.75))
    assert [scheduled.ratio_at(p) for p in (0, 0.5, 1, 1.5, -1)] == pytest.approx([0.1, 0.425, 0.75, 0.75, 0.1])
    for progress in (0.0, 0.5, 1.0):
        fixed = Masking("salient", salient_ratio=scheduled.ratio_at(progress))
        mask = scheduled(8, (6, 6), generator=seeded(16), saliency=saliency, progress=progress)
        assert torch.equal(mask.hidden, fixed(8, (6, 6), generator=seeded(16), saliency=saliency).hidden)
    ends = [scheduled(8, (6, 6), generator=seeded(16), saliency=saliency, progress=p).hidden for p in (0.0, 1.0)]
    assert not torch.equal(ends[0], ends[1])
    assert Masking("salient", salient_ratio=0.3).ratio_at(0.9) == 0.3


# Controls


def test_inverse_hides_the_least_salient() -> None:
    saliency = torch.rand(6, 20, generator=seeded(17))
    mask = Masking("inverse", 0.3, 0.3)(6, (4, 5), generator=seeded(18), saliency=saliency)
    least = saliency.topk(6, dim=1, largest=False).indices
    assert hidden_sets(mask) == [set(row) for row in least.tolist()]


def test_inverse_weights_are_the_distances_to_the_maximum() -> None:
    masking = Masking("inverse", 0.25, 0.25, salient_pick="weighted")
    mask = masking(20000, (2, 2), generator=seeded(19), saliency=torch.tensor([4.0, 3, 1, 0]).repeat(20000, 1))
    assert frequencies(mask) == pytest.approx([0, 1 / 8, 3 / 8, 4 / 8], abs=0.018)


def test_shuffled_uses_another_images_map() -> None:
    saliency = torch.rand(5, 20, generator=seeded(20))
    mask = Masking("shuffled", 0.4, 0.4)(5, (4, 5), generator=seeded(21), saliency=saliency)
    own = [set(row) for row in saliency.topk(8, dim=1).indices.tolist()]
    hidden = hidden_sets(mask)
    assert all(row in own for row in hidden)
    assert len({frozenset(row) for row in hidden}) == 5, "every map is used once"
    assert all(row != mine for row, mine in zip(hidden, own, strict=True))


def test_center_hides_the_middle_whatever_the_maps() -> None:
    mask = Masking("center", 0.2, 0.2)(3, (5, 5), generator=seeded(22))
    assert hidden_sets(mask) == [{7, 11, 12, 13, 17}] * 3


def test_center_is_as_wide_as_the_image() -> None:
    mask = Masking("center", 0.25, 0.25)(1, (4, 8), generator=seeded(23))
    assert hidden_sets(mask) == [{10, 11, 12, 13, 18, 19, 20, 21}]


def test_block_hides_connected_regions_and_every_image_its_own() -> None:
    def neighbours_alike(mask: Mask) -> float:
        rows = mask.hidden.view(-1, 14, 14)
        return (rows[:, 1:] == rows[:, :-1]).double().mean().item()

    block = Masking("block", 0.5)(1000, (14, 14), generator=seeded(24))
    assert neighbours_alike(Masking("random", 0.5)(200, (14, 14), generator=seeded(24))) == pytest.approx(0.5, abs=0.02)
    assert neighbours_alike(block) > 0.8
    assert len({tuple(row) for row in block.hidden.tolist()}) == 1000
    assert min(frequencies(block)) > 0.01, "no corner is out of reach"


@pytest.mark.parametrize(("salient_of", "pick"), itertools.product(SALIENT_OF, SALIENT_PICKS))
def test_what_is_forced_is_hidden_whatever_the_noise_of_the_rest(salient_of: str, pick: str) -> None:
    saliency = torch.rand(20, 36, generator=seeded(30))
    masking = Masking("salient", 0.5, 0.25, salient_of, pick)
    draw = masking.draw(20, (6, 6), generator=seeded(31), saliency=saliency)
    forced = masking.forced(draw)
    others = [replace(draw, uniform=torch.rand(20, 36, generator=seeded(seed))) for seed in range(40)]
    always = torch.stack([masking.mask(each).hidden for each in others]).all(0)
    assert torch.equal(always, forced)
    members = salient_set(saliency, draw.ties, 0.5).sum(1)
    counts = {"image": 9 + 0 * members, "mask": 4 + 0 * members, "salient": (members * 0.25).round()}
    counts["salient-only"] = counts["salient"]
    assert forced.sum(1).tolist() == counts[salient_of].tolist()
    assert torch.equal(masking.mask(draw).hidden, masking(20, (6, 6), generator=seeded(31), saliency=saliency).hidden)


# Inputs


def test_the_scale_and_type_of_a_map_do_not_matter() -> None:
    saliency = torch.randint(0, 256, (4, 30), generator=seeded(25), dtype=torch.uint8)
    for strategy, pick in itertools.product(("salient", "inverse", "shuffled"), SALIENT_PICKS):
        masking = Masking(strategy, salient_pick=pick)
        forms = [saliency, saliency.float(), saliency.double() / 256, saliency.float() * 1024, saliency.bfloat16()]
        masks = [masking(4, (5, 6), generator=seeded(26), saliency=form).hidden for form in forms]
        assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_the_callers_map_is_left_alone() -> None:
    saliency = torch.rand(3, 16, generator=seeded(27))
    before = saliency.clone()
    for strategy in blind():
        Masking(strategy)(3, (4, 4), generator=seeded(), saliency=saliency)
    assert torch.equal(saliency, before)


def test_a_call_differs_from_the_next_and_a_seed_repeats_it() -> None:
    generator = seeded(28)
    saliency = torch.rand(3, 36, generator=seeded(29))
    for strategy in blind():
        masking = Masking(strategy)
        generator.manual_seed(28)
        first, second = (masking(3, (6, 6), generator=generator, saliency=saliency).hidden for _ in range(2))
        again = masking(3, (6, 6), generator=seeded(28), saliency=saliency).hidden
        assert torch.equal(first, again)
        assert not torch.equal(first, second)


# Errors
