"""The gate: any grid, no places, its size; and masks from its scores: counts, shares, odds and signs."""

import itertools
import math

import pytest
import torch

from mae.mask_learners.gate import SIGNS, Gate, gate_priorities, gate_width, grid_positions, important_counts, stand_out
from mae.masks.masking import mask_from_priorities
from mae.models.mask import hidden_count


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noises(batch, patches, seed=0):
    return torch.rand(2, batch, patches, generator=seeded(seed))


@pytest.mark.parametrize("features", [192, 384, 768, 1024, 1280])
def test_is_small_for_every_encoder(features):
    assert sum(p.numel() for p in Gate(features, depth=4).parameters()) < 5_000_000
    assert gate_width(features) % 16 == 0


@pytest.mark.parametrize("grid", [(3, 5), (2, 3, 4), (1, 1)])
def test_scores_every_grid(grid):
    gate = Gate(32, positions=len(grid) == 3)
    logits = gate(torch.randn(2, math.prod(grid), 32), grid)
    assert logits.shape == (2, math.prod(grid))
    assert logits.isfinite().all()


def test_without_positions_scores_move_with_the_patches():
    torch.manual_seed(0)
    gate, tokens = Gate(32), torch.randn(2, 12, 32)
    order = torch.randperm(12)
    torch.testing.assert_close(gate(tokens[:, order]), gate(tokens)[:, order])
    placed = Gate(32, positions=True)
    assert not torch.allclose(placed(tokens[:, order], (3, 4)), placed(tokens, (3, 4))[:, order])


def test_no_gradient_reaches_the_embeddings_and_brightness_does_not_matter():
    torch.manual_seed(0)
    gate, tokens = Gate(32), torch.randn(2, 12, 32, requires_grad=True)
    logits = gate(tokens)
    logits.sum().backward()
    assert tokens.grad is None
    assert all(p.grad is not None for p in gate.parameters())
    torch.testing.assert_close(gate(3 * tokens + torch.randn(32)), logits, rtol=1e-4, atol=1e-5)


def test_an_image_of_equal_patches_is_finite_and_scored_alike():
    logits = Gate(32)(torch.ones(1, 9, 32))
    assert logits.isfinite().all()
    assert logits.max() - logits.min() < 1e-6
    assert stand_out(torch.ones(1, 9, 32)).abs().max() == 0


def test_wrong_settings_and_shapes_are_refused():
    for settings in ({"width": 20}, {"width": 0}, {"depth": 0}):
        with pytest.raises(ValueError, match="multiple of 16"):
            Gate(32, **settings)
    with pytest.raises(ValueError, match="32 wide"):
        Gate(32)(torch.zeros(1, 4, 16))
    for grid in (None, (2, 3)):
        with pytest.raises(ValueError, match="needs the grid"):
            Gate(32, positions=True)(torch.zeros(1, 4, 32), grid)


def test_positions_tell_all_places_apart_and_neighbours_are_alike():
    places = grid_positions((2, 4, 5), 48)
    assert places.shape == (40, 48)
    apart = torch.cdist(places, places)
    assert (apart + 9 * torch.eye(40)).min() > 0.1
    assert apart[0, 1] < apart[0, 4]  # along a row


def test_the_important_are_those_above_zero_within_the_area():
    logits = torch.tensor([[1.0] * 2 + [-1.0] * 8, [-1.0] * 10, [1.0] * 10])
    assert important_counts(logits, (0.1, 0.4)).flatten().tolist() == [2, 1, 4]


CASES = list(itertools.product((0.0, 0.3, 0.5, 1.0), SIGNS, (0.25, 0.75)))


@pytest.mark.parametrize(("ratio", "sign", "mask_ratio"), CASES)
def test_the_share_of_the_important_is_exact(ratio, sign, mask_ratio):
    """Chosen ones are all hidden (or all kept), and nothing else separates a patch from chance."""
    patches, important, batch = 20, 6, 3000
    logits = torch.full((batch, patches), -1.0)
    logits[:, :important] = 1.0
    uniform, gumbel = noises(batch, patches)
    hidden = hidden_count(patches, mask_ratio)
    priorities = gate_priorities(logits, ratio, hidden, uniform, gumbel, sign=sign)
    mask = mask_from_priorities(priorities, mask_ratio).hidden
    assert (mask.sum(1) == hidden).all()
    room = hidden if sign == "hide" else patches - hidden
    chosen = min(round(ratio * important), room)
    inside = mask[:, :important].sum(1)
    if sign == "hide":
        expected = chosen + (important - chosen) * (hidden - chosen) / (patches - chosen)
        assert (inside >= chosen).all()
    else:
        expected = (important - chosen) * hidden / (patches - chosen)
        assert (inside <= important - chosen).all()
    assert inside.double().mean() == pytest.approx(expected, abs=0.1)


def test_ratio_0_is_random_masking():
    uniform, gumbel = noises(5, 12)
    for sign in SIGNS:
        priorities = gate_priorities(torch.randn(5, 12), 0.0, 9, uniform, gumbel, sign=sign)
        assert torch.equal(priorities, uniform)


def test_the_more_important_are_drawn_more_often_in_proportion():
    """One of three is drawn: the odds are the importances', as sampling by hand would have them."""
    importance = torch.tensor([0.9, 0.6, 0.55])
    logits = torch.cat([importance.logit(), torch.full((7,), -3.0)]).expand(20_000, -1)
    uniform, gumbel = noises(20_000, 10)
    priorities = gate_priorities(logits, 1 / 3, 1, uniform, gumbel)
    drawn = mask_from_priorities(priorities, 0.1).hidden.double().mean(0)
    torch.testing.assert_close(drawn[:3], (importance / importance.sum()).double(), atol=0.012, rtol=0)
    assert drawn[3:].max() == 0


def test_an_untrained_or_saturated_gate_still_masks():
    uniform, gumbel = noises(500, 10)
    for logits in (torch.zeros(500, 10), torch.full((500, 10), -500.0), torch.full((500, 10), 500.0)):
        hidden = mask_from_priorities(gate_priorities(logits, 1.0, 5, uniform, gumbel), 0.5).hidden
        assert (hidden.sum(1) == 5).all()
        assert (hidden.double().mean(0) - 0.5).abs().max() < 0.1
    hopeless = torch.full((500, 10), -500.0)
    hopeless[:, 3] = -400.0  # the least area makes this one important, though its sigmoid is 0
    hidden = mask_from_priorities(gate_priorities(hopeless, 1.0, 5, uniform, gumbel, area=(0.1, 0.4)), 0.5).hidden
    assert hidden[:, 3].all()
