"""T's two networks, the masks they choose, and the ways a mask lets a derivative through."""

import itertools
import math

import pytest
import torch

from mae.mask_learners.gate import Gate
from mae.masks.masking import mask_from_priorities
from mae.models.mask import hidden_count
from mae.multilevel.draws import PATHS, Choice, Drawn, draw_log_probability, loss_weights, top_mask
from mae.multilevel.masker import GridMasker, MlpMasker


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_papers_mlp_has_the_stated_number_of_parameters():
    masker = MlpMasker(patches=9, width=8)
    n, d = 9, 8
    assert sum(p.numel() for p in masker.parameters()) == 512 * (n * d + n + 1) + n - 512 * n + n * 512
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in MlpMasker(n, 768).parameters()) for n in (196, 256)]
    assert [round(size / 1e6) for size in sizes] == [77, 101]


@pytest.mark.parametrize(
    "build", [lambda: MlpMasker(9, 8), lambda: GridMasker(Gate(8, 16, positions=True), (3, 3))], ids=["mlp", "gate"]
)
def test_probabilities_are_one_a_patch(build):
    torch.manual_seed(0)
    tokens = torch.randn(3, 9, 8)
    probabilities = build()(tokens)
    assert probabilities.shape == (3, 9)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert not torch.equal(probabilities[0], probabilities[1])


def test_any_network_of_embeddings_and_grid_can_be_the_masker():
    class Sums(torch.nn.Module):
        def forward(self, tokens, grid):
            assert grid == (2, 3)
            return tokens.sum(-1)

    tokens = torch.randn(2, 6, 8)
    logits = tokens.sum(-1) - tokens.sum(-1).mean(1, keepdim=True)
    torch.testing.assert_close(GridMasker(Sums(), (2, 3))(tokens), torch.sigmoid(logits))


@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_the_most_probable_patches_are_hidden(ratio):
    probabilities = noise(5, 16)
    mask = top_mask(probabilities, ratio, noise(5, 16, seed=1))
    count = hidden_count(16, ratio)
    assert (mask.hidden.sum(1) == count).all()
    for row, hidden in zip(probabilities, mask.hidden, strict=True):
        assert row[hidden].min() > row[~hidden].max()
        assert set(row.topk(count).indices.tolist()) == set(hidden.nonzero().flatten().tolist())


def test_equal_probabilities_are_ordered_by_noise():
    flat = torch.full((2000, 8), 0.5)
    hidden = top_mask(flat, 0.5, noise(2000, 8)).hidden.float().mean(0)
    torch.testing.assert_close(hidden, torch.full((8,), 0.5), atol=0.05, rtol=0)


def test_exploration_draws_in_proportion_to_the_probability():
    """One of four is hidden; at exploration 1 its odds are p."""
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(20_000, 4)
    shares = top_mask(probabilities, 0.25, noise(20_000, 4), exploration=1.0).hidden.float().mean(0)
    torch.testing.assert_close(shares, probabilities[0], atol=0.015, rtol=0)
    nearly = top_mask(probabilities, 0.25, noise(20_000, 4), exploration=1e-3).hidden.float().mean(0)
    torch.testing.assert_close(nearly, torch.tensor([0.0, 0, 0, 1]))


def chance_of(odds, order):
    """The probability that these are drawn, one after the other, in proportion to their odds."""
    chance, left = 1.0, odds.sum()
    for patch in order:
        chance, left = chance * odds[patch] / left, left - odds[patch]
    return chance


def by_chance(p, mask):
    """The derivative of the log-probability of each image's draw with respect to its odds."""
    odds = p.clone().requires_grad_()
    orders = mask.ids_hidden.flip(1)
    total = sum(torch.log(chance_of(row, order)) for row, order in zip(odds, orders, strict=True))
    return torch.autograd.grad(total, odds)[0]


@pytest.mark.parametrize("exploration", [0.5, 2.0])
def test_the_chances_of_all_draws(exploration):
    """Two of four are hidden in one of twelve orders; drawn often, each comes as often as its probability says."""
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    found = {}
    for hidden in itertools.permutations(range(4), 2):
        priorities = torch.tensor([[{hidden[0]: 2.0, hidden[1]: 1.0}.get(patch, 0.0) for patch in range(4)]])
        mask = mask_from_priorities(priorities, 0.5)
        found[hidden] = math.exp(draw_log_probability(p.log()[None] / exploration, mask))
        assert found[hidden] == pytest.approx(chance_of(p ** (1 / exploration), hidden).item())
    assert sum(found.values()) == pytest.approx(1)
    drawn = top_mask(p.expand(20_000, 4), 0.5, noise(20_000, 4), exploration).ids_hidden.flip(1).tolist()
    for hidden, chance in found.items():
        assert drawn.count(list(hidden)) / 20_000 == pytest.approx(chance, abs=0.012)


@pytest.mark.parametrize("path", PATHS)
def test_the_value_and_the_derivative_of_each_path(path):
    """Against the derivative written out: which patches' errors reach which probability, and with what factor."""
    probabilities = (0.1 + 0.8 * noise(3, 8)).requires_grad_()
    mask = top_mask(probabilities, 0.5, noise(3, 8, seed=1))
    errors, hidden = noise(3, 8, seed=2), mask.hidden.float()
    loss = (errors * loss_weights(Choice(probabilities), Drawn(mask, None), path)).sum() / hidden.sum()
    (found,) = torch.autograd.grad(loss, probabilities)
    p, count = probabilities.detach(), hidden.sum()
    plain, total = (errors * hidden).sum() / count, (p * hidden).sum(1, keepdim=True)
    relative = (errors * p * hidden).sum(1, keepdim=True) / total
    by_weight = hidden * (errors / total - relative / total) / len(p)
    value, derivative = {
        "weighted": ((errors * p * hidden).sum() / count, errors * hidden / count),
        "relative": (relative.mean(), by_weight),
        "straight-through": (plain, errors / count),
        "drawn": (plain, (errors * hidden).sum(1, keepdim=True) / count * by_chance(p, mask)),
        "drawn-relative": (relative.mean(), by_weight + relative / len(p) * by_chance(p, mask)),
    }[path]
    torch.testing.assert_close(loss.detach(), value)
    torch.testing.assert_close(found, derivative)
    if path == "relative":
        torch.testing.assert_close((found * p).sum(1), torch.zeros(3), atol=1e-7, rtol=0)  # the common factor is free
    assert (found[~mask.hidden] == 0).all() == (path in ("weighted", "relative"))
