"""A share of the mask for T: how many patches it chooses, which, and the chance of what was drawn."""

import itertools
import math

import pytest
import torch

from mae.multilevel.draws import Choice, count_log_chances, draw_log_probability, draw_masks, loss_weights

P = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_fixed_share_is_the_networks_and_the_rest_random():
    """Of eight hidden patches four are the highest; of the other twelve patches each is hidden a third of the time."""
    probabilities = torch.arange(16.0).expand(6000, -1) / 16
    drawn = draw_masks(Choice(probabilities), 0.5, noise(6000, 33), share=0.5)
    assert (drawn.chosen == 4).all()
    shares = drawn.mask.hidden.float().mean(0)
    assert (shares[12:] == 1).all()
    torch.testing.assert_close(shares[:12], torch.full((12,), 1 / 3), atol=0.03, rtol=0)
    highest = drawn.mask.ids_hidden.flip(1)[:, :4]
    assert torch.equal(highest, torch.tensor([15, 14, 13, 12]).expand(6000, -1))


def test_share_one_is_the_whole_mask_and_a_small_one_is_random():
    probabilities = noise(4000, 8)
    whole = draw_masks(Choice(probabilities), 0.5, noise(4000, 8, seed=1), 1.0)
    assert whole.chosen is None
    none = draw_masks(Choice(P.repeat(2).expand(4000, -1)), 0.5, noise(4000, 17, seed=1), 1.0, share=0.1)
    assert (none.chosen == 0).all()
    torch.testing.assert_close(none.mask.hidden.double().mean(0), torch.full((8,), 0.5).double(), atol=0.04, rtol=0)


def outcomes():
    """Every way to hide two of four patches, with T choosing 0, 1 or 2 of them: noise that draws it, and its chance."""
    for count, order in itertools.product(range(3), itertools.permutations(range(4), 2)):
        chance, left = 1.0, 1.0
        for place, patch in enumerate(order):
            if place < count:
                chance, left = chance * P[patch].item() / left, left - P[patch].item()
            else:
                chance = chance / (4 - place)
        yield count, order, chance


def test_the_chances_of_a_learned_share_add_up_and_are_those_of_the_draws():
    share = torch.tensor(0.3, dtype=torch.float64)
    expected = {(n, o): math.comb(2, n) * 0.3**n * 0.7 ** (2 - n) * c for n, o, c in outcomes()}
    assert sum(expected.values()) == pytest.approx(1)
    torch.testing.assert_close(count_log_chances(share, 2).exp(), torch.tensor([0.49, 0.42, 0.09]).double())
    drawn = draw_masks(Choice(P.expand(40_000, -1), share), 0.5, noise(40_000, 9), 1.0)
    found = [
        (n, tuple(o)) for [n], o in zip(drawn.chosen.tolist(), drawn.mask.ids_hidden.flip(1).tolist(), strict=True)
    ]
    for outcome, chance in expected.items():
        assert found.count(outcome) / 40_000 == pytest.approx(chance, abs=0.01)
    logs = draw_log_probability(P.log().expand(40_000, -1), drawn.mask, drawn.chosen)
    logs = logs + count_log_chances(share, 2)[drawn.chosen[:, 0]]
    for outcome, log in list(zip(found, logs.tolist(), strict=True))[:50]:
        random = math.prod(1 / (4 - place) for place in range(outcome[0], 2))
        assert math.exp(log) * random == pytest.approx(expected[outcome])


@pytest.mark.parametrize("path", ["drawn", "drawn-relative"])
def test_the_expected_derivative_is_that_of_the_expected_loss(path):
    """Over all outcomes, by T's scores and by its share; each mask has a loss of its own."""
    losses = {order: i - 5.5 for i, order in enumerate(itertools.permutations(range(4), 2))}
    scores, share = P.log().clone().requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    draws = 40_000
    choice = Choice(torch.exp(scores).expand(draws, -1), share)
    drawn = draw_masks(choice, 0.5, noise(draws, 9, seed=3), 1.0)
    own = torch.tensor([losses[tuple(o)] for o in drawn.mask.ids_hidden.flip(1).tolist()], dtype=torch.float64)
    weights = loss_weights(choice, drawn, path)
    assert torch.allclose(weights.sum(1), torch.full((draws,), 2.0, dtype=torch.float64))
    found = torch.autograd.grad((weights.sum(1) * own).mean() / 2, (scores, share))

    def expected(scores, share):
        total = 0.0
        for count, order, _ in outcomes():
            chance, left = math.comb(2, count) * share**count * (1 - share) ** (2 - count), scores.exp().sum()
            for place, patch in enumerate(order):
                if place < count:
                    chance, left = chance * scores[patch].exp() / left, left - scores[patch].exp()
                else:
                    chance = chance / (4 - place)
            total = total + chance * losses[order]
        return total

    exact = torch.autograd.grad(expected(scores, share), (scores, share))
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.15, rtol=0)
    assert exact[1].abs() > 0.3


def test_the_weights_of_an_image_have_mean_one():
    probabilities = noise(5, 16)
    drawn = draw_masks(Choice(probabilities), 0.75, noise(5, 33, seed=1), share=0.4)
    for path in ("relative", "drawn-relative"):
        weights = loss_weights(Choice(probabilities), drawn, path)
        means = weights.gather(1, drawn.mask.ids_hidden).mean(1)
        torch.testing.assert_close(means, torch.ones_like(means))
