"""Masks for a training loop of one's own are those of `pretrain`."""

import numpy as np
import pytest
import torch

import saliency_mae as sm
from mae.masks.masking import Masking
from mae.masks.strategies import blind, learned


def seeded():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("strategy", sorted(blind()))
def test_every_strategy_is_the_real_one(strategy):
    saliency = torch.rand(4, 6, 8, generator=seeded())
    expected = Masking(strategy)(4, (6, 8), generator=seeded(), saliency=saliency.flatten(1))
    found = sm.mask(strategy)(saliency, seeded())
    assert torch.equal(found.hidden, expected.hidden)
    assert torch.equal(found.ids_keep, expected.ids_keep)
    assert torch.equal(found.ids_restore, expected.ids_restore)
    if not Masking(strategy).needs_saliency:
        again = sm.mask(strategy)(generator=seeded(), batch=4, grid=(6, 8))
        assert torch.equal(again.hidden, expected.hidden)


def test_options_have_the_names_of_the_command_line():
    masks = sm.mask("salient", 0.5, mask_ratio=0.6, salient_of="mask", salient_pick="weighted", temperature=2)
    assert masks.settings == Masking(
        "salient", mask_ratio=0.6, salient_ratio=0.5, salient_of="mask", salient_pick="weighted", temperature=2.0
    )
    assert sm.mask("salient", salient_ratio=0.1).settings == sm.mask(ratio=0.1).settings
    for schedule in ("0:0.5", (0, 0.5), [0, 0.5]):
        assert sm.mask(salient_schedule=schedule).settings.salient_schedule == (0.0, 0.5)


def test_what_is_salient_is_hidden():
    saliency = torch.zeros(2, 4, 4)
    saliency[0, 0, :] = 1
    saliency[1, :, 3] = 1
    drawn = sm.mask("salient", ratio=0.25, mask_ratio=0.5)(saliency, seeded())
    assert drawn.hidden.reshape(2, 4, 4)[saliency > 0].all()
    assert drawn.hidden.sum(1).tolist() == [8, 8]


def test_arrays_flat_maps_and_a_schedule():
    maps = np.random.default_rng(0).random((2, 4, 6))
    expected = sm.mask()(torch.from_numpy(maps), seeded()).hidden
    assert torch.equal(sm.mask()(maps, seeded()).hidden, expected)
    assert torch.equal(sm.mask()(maps.reshape(2, 24), seeded(), grid=(4, 6)).hidden, expected)
    square = torch.rand(2, 16, generator=seeded())
    assert torch.equal(sm.mask()(square, seeded()).hidden, sm.mask()(square.view(2, 4, 4), seeded()).hidden)
    moving = sm.mask(salient_schedule="0:0.75")
    random = sm.mask("random")(maps, seeded()).hidden
    assert torch.equal(moving(maps, seeded(), progress=0.0).hidden, random)
    assert torch.equal(moving(maps, seeded(), progress=1.0).hidden, sm.mask(ratio=0.75)(maps, seeded()).hidden)


def test_a_clip_has_tubes():
    drawn = sm.mask("salient")(torch.rand(2, 3, 4, 4), seeded()).hidden.view(2, 3, 16)
    assert (drawn == drawn[:, :1]).all()


def test_torchs_own_generator_is_used_where_none_is_given():
    torch.manual_seed(7)
    first, second = (sm.mask("random")(batch=2, grid=(4, 4)).hidden for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    assert torch.equal(sm.mask("random")(batch=2, grid=(4, 4)).hidden, first)


@pytest.mark.parametrize("strategy", learned())
def test_a_learned_strategy_says_that_it_needs_a_learner(strategy):
    with pytest.raises(
        sm.UserError, match=f"'{strategy}' masks need a learner .* pretrain\\(…, masking='{strategy}'\\)"
    ):
        sm.mask(strategy)


@pytest.mark.parametrize(
    ("ask", "line"),
    [
        (lambda: sm.mask("salty"), "--masking 'salty' is not one of: random, block"),
        (lambda: sm.mask(salient_rato=1), "unknown option 'salient_rato'; did you mean salient_ratio?"),
        (lambda: sm.mask(ratio=0.2, salient_ratio=0.3), "is given twice"),
        (lambda: sm.mask("random", ratio=0.2), "--salient-ratio has no effect with --masking random"),
        (lambda: sm.mask(ratio=0.9), "--salient-ratio 0.9 is above --mask-ratio 0.75"),
        (lambda: sm.mask(ratio="a lot"), "salient_ratio|ratio: takes a number, not 'a lot'"),
        (lambda: sm.mask()(batch=2, grid=(4, 4)), "--masking salient needs saliency maps"),
        (lambda: sm.mask("random")(), "give batch=… and grid="),
        (lambda: sm.mask()(torch.rand(2, 15)), r"\[2, 15\] is on no square grid"),
        (lambda: sm.mask()(-torch.ones(2, 4, 4)), "32 of 32 saliency values are negative"),
        (lambda: sm.mask("shuffled")(torch.rand(1, 4, 4)), "takes another image's map"),
    ],
)
def test_mistakes_are_one_line(ask, line):
    with pytest.raises(sm.UserError, match=line):
        ask()
