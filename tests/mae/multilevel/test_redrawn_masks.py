"""The path ``drawn`` of MLO-MAE: its hypergradient foretells the loss of level 3 under masks that are drawn anew."""

import itertools
from dataclasses import replace

import pytest
import torch

from mae.mask_learners.gate import Gate
from mae.masks.masking import Masking
from mae.multilevel.differentiable_rules import sgd
from mae.multilevel.masker import GridMasker
from mae.multilevel.mlo_training import LabelledImages, MultilevelTraining
from mae.multilevel.nested import Nested
from mae.multilevel.settings import MultilevelSettings
from mae.training.settings import TrainingSettings
from tests.redrawn_masks import foretell, trained
from tests.tiny_mae import nano

ORDERS = list(itertools.permutations(range(3), 2))


@pytest.fixture(autouse=True)
def _double(monkeypatch):
    """The library computes losses in float32; here in double, so that changes of them are not rounding."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def tiny(rate):
    """Two images of three patches, two of them hidden, and one step of each level by plain gradient descent."""
    torch.manual_seed(0)
    model = nano((8, 24)).double()
    run = MultilevelTraining(
        model,
        3,
        Masking(mask_ratio=0.6),
        TrainingSettings(epochs=1, batch_size=2, warmup_epochs=0),
        MultilevelSettings(path="drawn", unroll=(1, 1), exploration=1.0, hypergradient="exact"),
        10,
        masker=GridMasker(Gate(16, 16, 1, positions=True), model.grid).double(),
    )
    run.head.double()
    torch.nn.init.normal_(run.head.linear.weight, std=0.3)
    rates = {"mae": rate, "head": rate, "masker": 0.0}
    levels = [replace(level, rule=sgd(), rate=lambda _, own=rates[level.name]: own) for level in run.solver.levels]
    run.solver = Nested(levels, "exact")
    run._point = run.solver.start(run._parameters())
    generator = torch.Generator().manual_seed(1)

    def batch(count):
        images = torch.randint(0, 256, (count, 3, 8, 24), dtype=torch.uint8, generator=generator)
        return LabelledImages(images, torch.randint(0, 3, (count,), generator=generator))

    return run, {name: [run._inputs(name, 0, batch(size))] for name, size in (("mae", 2), ("head", 4), ("masker", 4))}


def noise_of(order):
    """Noise that draws these patches in this order: Gumbel numbers far apart, compared with the scores'."""
    gumbel = torch.zeros(3, dtype=torch.float64)
    gumbel[list(order)] = torch.tensor([6.0, 3.0], dtype=torch.float64)
    return torch.exp(-torch.exp(-gumbel))


def expected(run, inputs):
    """By all 36 masks: the gradient by T of the expected loss of level 3, and the expected hypergradient."""
    tokens = run.model.embed(inputs["mae"][0].images).detach()
    odds = run.masker(tokens)
    true, estimate = 0.0, 0.0
    for orders in itertools.product(ORDERS, ORDERS):
        chance = 1.0
        for row, (first, second) in zip(odds, orders, strict=True):
            chance = chance * row[first] / row.sum() * row[second] / (row.sum() - row[first])
        masked = inputs["mae"][0]._replace(noise=torch.stack([noise_of(order) for order in orders]))
        drawn = inputs | {"mae": [masked]}
        assert run._losses.choose(run._point, masked).drawn.mask.ids_hidden.flip(1).tolist() == [
            list(o) for o in orders
        ]
        true = true + chance * run.solver.upper_loss(run._point, drawn)
        found = run.solver.hypergradient(run._point, drawn)
        estimate = estimate + chance.detach() * torch.cat([value.flatten() for value in found.values()])
    gradient = torch.autograd.grad(true, list(run.masker.parameters()))
    return torch.cat([value.flatten() for value in gradient]), estimate


def test_the_expected_hypergradient_is_the_gradient_of_the_expected_loss():
    """To first order in the autoencoder's rate, for which one image's mask changes what another one's is worth."""
    true, estimate = expected(*tiny(rate=1e-4))
    assert true.norm() > 0
    assert ((estimate - true).norm() / true.norm()).item() < 2e-3


def test_redrawn_masks_are_foretold():
    run = trained(0, "drawn", exploration=1.0, batch=64, steps=16, unroll=(1, 1))
    found = foretell(run, draws=4, move=0.5)
    assert found.correlation > 0.7
    assert 0.3 < found.ratio < 3
    assert min(found.repeated) > 0.7  # enough draws
