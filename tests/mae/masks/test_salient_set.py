"""The salient set, the cap and weighted picks: how often each patch is hidden."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from mae.masks.masking import (
    Masking,
    salient_set,
)
from mae.masks.strategies import SALIENT_OF, SALIENT_PICKS
from tests.mae.masks.test_masking import frequencies, hidden_sets, seeded


@pytest.mark.parametrize("mass", [0.07, 0.14, 0.28, 0.29, 0.55, 0.7, 1.0])
@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 1e-30])
def test_salient_set_of_equal_values_is_not_a_matter_of_rounding(mass: float, value: float) -> None:
    members = salient_set(torch.full((3, 100), value), torch.rand(3, 100, generator=seeded()), mass)
    assert members.sum(1).tolist() == [round(100 * mass)] * 3


def test_salient_set_of_an_empty_map_is_empty() -> None:
    assert not salient_set(torch.zeros(2, 6), torch.rand(2, 6, generator=seeded()), 0.5).any()


def test_a_tie_at_the_edge_of_the_salient_set_leaves_a_weighted_pick_fair() -> None:
    saliency = torch.tensor([2.0, 1, 1, 0]).repeat(20000, 1)  # the set is the first patch and one of the next two
    masking = Masking(
        "salient",
        mask_ratio=0.25,
        salient_ratio=0.5,
        salient_of="salient-only",
        salient_pick="weighted",
        salient_mass=0.75,
    )
    mask = masking(20000, (2, 2), generator=seeded(5), saliency=saliency)
    assert frequencies(mask) == pytest.approx([2 / 3, 1 / 6, 1 / 6, 0], abs=0.018)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"salient_of": "salient"}, [1, 1] + [4 / 8] * 8),
        ({"salient_of": "salient-only"}, [1, 1, 0, 0] + [4 / 6] * 6),
        ({"salient_of": "salient", "salient_cap": 0.75}, None),  # three of four, so one of the other two at most
        ({"salient_of": "salient", "salient_cap": 0.25}, [1 / 2, 1 / 2, 0, 0] + [5 / 6] * 6),
        ({"salient_of": "salient", "salient_ratio": 1.0, "salient_cap": 0.5}, [1 / 2] * 4 + [4 / 6] * 6),
        ({"salient_of": "image", "salient_ratio": 0.4, "salient_cap": 0.5}, [1 / 2] * 4 + [4 / 6] * 6),
        ({"salient_of": "image", "salient_ratio": 0.0, "salient_cap": 0.0}, [0] * 4 + [1] * 6),
    ],
)
def test_how_often_the_patches_of_the_salient_set_are_hidden(settings, expected) -> None:
    """Four of ten patches are salient, six are hidden, and two of them because they are salient."""
    saliency = torch.tensor([4.0, 3, 2, 2, 0, 0, 0, 0, 0, 0]).repeat(20000, 1)
    masking = Masking("salient", mask_ratio=0.6, **{"salient_ratio": 0.5, "salient_mass": 1.0} | settings)
    mask = masking(20000, (2, 5), generator=seeded(4), saliency=saliency)
    if expected is None:
        beyond = (1 / 2) ** 2 * 8 / 7 * 3 / 4  # as often would both of the other two have been hidden
        assert mask.hidden[:, :4].sum(1).max() == 3
        expected = [1, 1] + [1 / 2 - beyond / 2] * 2 + [1 / 2 + beyond / 6] * 6
    assert frequencies(mask) == pytest.approx(expected, abs=0.018)


@pytest.mark.parametrize(("salient_of", "pick"), itertools.product(SALIENT_OF, SALIENT_PICKS))
@pytest.mark.parametrize("cap", [0.0, 0.3, 0.9, 1.0])
def test_no_more_of_the_salient_set_is_hidden_than_the_cap(salient_of: str, pick: str, cap: float) -> None:
    """Unless nothing else is left; without a cap nothing changes."""
    saliency = torch.stack([torch.randperm(24, generator=seeded(s)) + 1.0 for s in range(50)])
    free = Masking("salient", salient_of=salient_of, salient_pick=pick)
    capped = replace(free, salient_cap=cap)
    masks = [masking(50, (4, 6), generator=seeded(8), saliency=saliency) for masking in (free, capped)]
    assert masks[1].hidden.sum(1).tolist() == [18] * 50
    members = salient_set(saliency, torch.rand(50, 24), 0.5)  # 8 of 24, whose outside is smaller than the mask
    room = torch.tensor(max(18 - 16, math.floor(cap * 8)))
    assert members.sum(1).tolist() == [8] * 50
    assert ((masks[1].hidden & members).sum(1) <= room).all()
    if cap == 1:
        assert torch.equal(masks[0].hidden, masks[1].hidden)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_weighted_pick_of_one_follows_the_saliency(temperature: float) -> None:
    masking = Masking("salient", mask_ratio=0.2, salient_ratio=0.2, salient_pick="weighted", temperature=temperature)
    mask = masking(20000, (1, 5), generator=seeded(6), saliency=torch.tensor([1.0, 2, 0, 3, 4]).repeat(20000, 1))
    weights = [value ** (1 / temperature) for value in (1, 2, 0, 3, 4)]
    assert frequencies(mask) == pytest.approx([weight / sum(weights) for weight in weights], abs=0.018)
    assert not mask.hidden[:, 2].any()


def test_weighted_pick_of_two_is_without_replacement() -> None:
    masking = Masking("salient", mask_ratio=0.5, salient_ratio=0.5, salient_pick="weighted")
    mask = masking(20000, (2, 2), generator=seeded(7), saliency=torch.tensor([0.1, 0.2, 0.3, 0.4]).repeat(20000, 1))
    p = [0.1, 0.2, 0.3, 0.4]
    for i, j in itertools.combinations(range(4), 2):
        expected = p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])
        found = (mask.hidden[:, i] & mask.hidden[:, j]).double().mean().item()
        assert found == pytest.approx(expected, abs=0.018)


@pytest.mark.parametrize("salient_of", SALIENT_OF)
def test_weighted_pick_of_low_temperature_is_the_top(salient_of: str) -> None:
    saliency = torch.stack([torch.randperm(24, generator=seeded(s)) + 1.0 for s in range(50)])
    weighted = Masking("salient", salient_of=salient_of, salient_pick="weighted", temperature=1e-6)
    top = replace(weighted, salient_pick="top")
    masks = [masking(50, (4, 6), generator=seeded(8), saliency=saliency) for masking in (weighted, top)]
    assert torch.equal(masks[0].hidden, masks[1].hidden)


@pytest.mark.parametrize("pick", SALIENT_PICKS)
@pytest.mark.parametrize(("ratio", "in_set"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_salient_only_spares_the_rest_of_the_set(pick: str, ratio: float, in_set: int) -> None:
    saliency = torch.tensor([[9.0, 8, 7, 6] + [1] * 12]).repeat(200, 1)  # 30 of 42: the first four hold 0.7
    masking = Masking("salient", 0.75, ratio, "salient-only", pick, salient_mass=0.7)
    mask = masking(200, (4, 4), generator=seeded(13), saliency=saliency)
    assert mask.hidden[:, :4].sum(1).tolist() == [in_set] * 200
    frequencies_outside = frequencies(mask)[4:]
    assert frequencies_outside == pytest.approx([(12 - in_set) / 12] * 12, abs=0.15)


def test_salient_only_takes_the_rest_of_the_set_when_nothing_else_is_left() -> None:
    saliency = torch.tensor([[9.0, 8, 7, 6, 1, 1]]).repeat(2000, 1)
    masking = Masking("salient", 0.5, 0.25, "salient-only", salient_mass=0.9)  # 1 of 4, both others, 0 of the rest
    assert hidden_sets(masking(2000, (2, 3), generator=seeded(14), saliency=saliency)) == [{0, 4, 5}] * 2000
    more = replace(masking, mask_ratio=2 / 3)(2000, (2, 3), generator=seeded(14), saliency=saliency)
    assert frequencies(more) == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3, 1, 1], abs=0.06)
