"""The head that is solved: its optimum, its Hessian, and what passes through it."""

import pytest
import torch
from torch.nn import functional as F

from mae.distributed import World
from mae.evaluation.probes import fit_weights, standardised
from mae.multilevel.differentiable_rules import at_optimum, sgd
from mae.multilevel.head import Head, Problem, SolvedHead, problem_of
from mae.multilevel.nested import Level, Nested

N, D, K = 60, 5, 3
PENALTY = 0.05


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labelled(seed=0):
    features = draw(N, D, seed=seed) * torch.tensor([1.0, 3.0, 0.5, 1.0, 10.0]) + 2
    return features, (features[:, 0] + draw(N, seed=seed + 1)).argsort().argsort() * K // N


def objective(problem, weights):
    errors = F.cross_entropy(problem.inputs @ weights, problem.targets, reduction="none")
    return (problem.counts[:, 0] * errors).sum() + 0.5 * (problem.penalty * weights.square()).sum()


def problem(seed=0):
    features, labels = labelled(seed)
    return problem_of(features, labels, K, PENALTY)


def test_the_optimum_is_that_of_another_solver():
    features, labels = labelled()
    found = problem().solve(torch.zeros(D + 1, K, dtype=torch.float64))
    inputs, _, _ = standardised(features)
    theirs = fit_weights(inputs, labels, PENALTY, torch.zeros(D + 1, K))
    torch.testing.assert_close(found[:-1].float(), theirs[:-1], atol=2e-3, rtol=0)
    leaf = found.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(problem(), leaf), leaf)
    assert gradient.norm() < 1e-3


def test_the_inverse_is_that_of_the_hessian():
    asked, vector = problem(), draw(D + 1, K, seed=5)
    weights = 0.3 * draw(D + 1, K, seed=6)
    hessian = torch.func.hessian(lambda w: objective(asked, w))(weights).reshape((D + 1) * K, -1)
    expected = torch.linalg.solve(hessian, vector.flatten()).view_as(vector)
    found = asked.inverse(weights, vector)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-6


def test_a_head_in_and_out_of_standardised_features_gives_the_same_scores():
    features, _ = labelled()
    head = {"linear.weight": draw(K, D, seed=7), "linear.bias": draw(K, seed=8)}
    asked = problem()
    scores = features @ head["linear.weight"].T + head["linear.bias"]
    torch.testing.assert_close(asked.inputs @ asked.to_standard(head), scores)
    for name, value in asked.from_standard(asked.to_standard(head)).items():
        torch.testing.assert_close(value, head[name])


def test_rows_that_hold_nothing_do_not_count():
    features, labels = labelled()
    blanks = torch.cat([features, 1e3 * torch.ones(4, D)]), torch.cat([labels, torch.full((4,), -1)])
    whole, padded = problem(), problem_of(*blanks, K, PENALTY)
    start = torch.zeros(D + 1, K, dtype=torch.float64)
    torch.testing.assert_close(padded.solve(start), whole.solve(start))


def solved_head(features, labels):
    """A head whose layer norm is left out of it, solved on these features."""
    solver = SolvedHead(Head(D, K).double(), N, torch.device("cpu"), World(), N)
    solver.add(features, labels)
    return solver


def test_a_hypergradient_through_the_optimum_is_the_derivative_of_solving_anew():
    """Features x·(1 + 0.1 e): an upper loss of the head that is solved on them, by e."""
    features, labels = labelled()
    seen, target = draw(8, D, seed=9), draw(8, K, seed=10)

    def normed(e):
        return F.layer_norm(features * (1 + 0.1 * e["w"]), (D,), eps=1e-6)

    def head_loss(point, *_):
        return F.cross_entropy(normed(point["e"]) @ point["c"]["linear.weight"].T + point["c"]["linear.bias"], labels)

    def upper(point, *_):
        return (seen @ point["c"]["linear.weight"].T + point["c"]["linear.bias"] - target).square().mean()

    def solved(shift):
        """The head at e, solved to the last digit; the standardisation is held, as the implicit derivative has it."""
        asked = problem_of(normed({"w": base}), labels, K)
        inputs = torch.cat([(normed({"w": base + shift}) - asked.mean) / asked.scale, torch.ones(N, 1)], 1)
        moved = Problem(inputs, asked.targets, asked.counts, asked.mean, asked.scale, asked.penalty, asked.factor)
        return asked.from_standard(moved.solve(torch.zeros(D + 1, K, dtype=torch.float64), 2000))

    base = draw(D, seed=11)
    solver = solved_head(features * (1 + 0.1 * base), labels)
    parameters = {name: value.detach() for name, value in solver.head.named_parameters()}
    parameters = solver.solve(parameters | solved(torch.zeros(D)))
    levels = [
        Level("c", head_loss, at_optimum(solver.inverse), lambda _: 0.0, ("e",), method="exact"),
        Level("e", upper, sgd(), lambda _: 1.0, ("c",)),
    ]
    nested = Nested(levels)
    point = nested.start({"c": parameters, "e": {"w": base}})
    found = nested.hypergradient(point, {"c": [None], "e": [None]})["w"]
    step = 1e-5
    expected = []
    for direction in torch.eye(D, dtype=torch.float64):
        ends = [upper({"c": solved(sign * step * direction)}) for sign in (1, -1)]
        expected.append((ends[0] - ends[1]) / (2 * step))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("size", [40, 200])
def test_the_buffer_keeps_the_newest(size):
    solver = SolvedHead(Head(D, K), size, torch.device("cpu"), World(), 30)
    for start in range(0, 120, 30):
        solver.add(torch.full((30, D), float(start)), torch.arange(start, start + 30) % K)
    assert len(solver.labels) == min(size, 120)
    assert solver.features[-1, 0] == 90
    assert solver.is_full == (size == 40)
