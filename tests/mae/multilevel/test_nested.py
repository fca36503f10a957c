"""Hypergradients against closed forms on quadratics, and against autograd through a plain loop of updates."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from mae.multilevel.differentiable_rules import adamw, momentum, sgd
from mae.multilevel.nested import Level, Nested

RULES = {"sgd": sgd, "momentum": momentum, "adamw": adamw}
TOLERANCE = {"exact": 1e-5, "finite": 1e-5}  # a central difference has no error on quadratics but rounding


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(size, seed):
    root = draw(size, size, seed=seed)
    return root @ root.T / size + 0.5 * torch.eye(size, dtype=torch.float64)


def half_square(x):
    return 0.5 * x.square().sum()


def constant(rate):
    return lambda number: rate


def point_of(solver, **parameters):
    return solver.start({name: {"w": value} for name, value in parameters.items()})


def cosine(a, b):
    return torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_one_level_is_gradient_descent():
    a, b, w = positive(4, 1), draw(4, seed=2), draw(4, seed=3)
    level = Level(
        "x", lambda p, batch, _: 0.5 * p["x"]["w"] @ a @ p["x"]["w"] - batch @ p["x"]["w"], sgd(), constant(0.1)
    )
    solver = Nested([level])
    point = point_of(solver, x=w)
    torch.testing.assert_close(solver.hypergradient(point, {"x": [b]})["w"], a @ w - b)
    after, losses = solver.step(point, {"x": [b]}, 0)
    torch.testing.assert_close(after["x"]["w"], w - 0.1 * (a @ w - b))
    torch.testing.assert_close(losses["x"], (0.5 * w @ a @ w - b @ w).float())


@pytest.mark.parametrize("method", ["exact", "finite"])
@pytest.mark.parametrize("unroll", [1, 2, 5])
def test_two_levels_have_the_closed_form(method, unroll):
    """θ_K = S θ_0 + (I − S) M λ with S = (I − ηA)^K, so dL/dλ = Mᵀ (I − S)ᵀ (θ_K − t), plus the direct part."""
    a, m, t, theta, lam = positive(4, 1), draw(4, 3, seed=2), draw(4, seed=3), draw(4, seed=4), draw(3, seed=5)

    def lower(p, batch, _):
        gap = p["theta"]["w"] - m @ p["lambda"]["w"]
        return 0.5 * gap @ a @ gap

    levels = [
        Level("theta", lower, sgd(), constant(0.1), reads=("lambda",), unroll=unroll),
        Level(
            "lambda",
            lambda p, batch, _: half_square(p["theta"]["w"] - t) + 0.1 * half_square(p["lambda"]["w"]),
            sgd(),
            constant(0.3),
            reads=("theta",),
        ),
    ]
    solver = Nested(levels, method)
    batches = {"theta": [None] * unroll, "lambda": [None]}
    point = point_of(solver, **{"theta": theta, "lambda": lam})
    identity = torch.eye(4, dtype=torch.float64)
    s = torch.linalg.matrix_power(identity - 0.1 * a, unroll)
    reached = s @ theta + (identity - s) @ m @ lam
    expected = m.T @ (identity - s).T @ (reached - t) + 0.1 * lam
    assert relative(solver.hypergradient(point, batches)["w"], expected) < TOLERANCE[method]
    after, _ = solver.step(point, batches, 0)
    torch.testing.assert_close(after["theta"]["w"], reached)
    torch.testing.assert_close(after["lambda"]["w"], lam - 0.3 * expected)


def chain(unroll, rates=(0.1, 0.2, 0.3), dtype=torch.float64):
    """E follows M T, C follows P E, and the top judges both: the dependences of MLO-MAE, quadratic."""
    a, b = positive(4, 1).to(dtype), positive(3, 2).to(dtype)
    m, p, q, t = (draw(*s, seed=i).to(dtype) for s, i in (((4, 2), 3), ((3, 4), 4), ((3, 4), 5), ((3,), 6)))

    def first(x, batch, _):
        gap = x["e"]["w"] - m @ x["t"]["w"]
        return 0.5 * gap @ a @ gap

    def second(x, batch, _):
        gap = x["c"]["w"] - p @ x["e"]["w"]
        return 0.5 * gap @ b @ gap

    levels = [
        Level("e", first, sgd(), constant(rates[0]), reads=("t",), unroll=unroll[0]),
        Level("c", second, sgd(), constant(rates[1]), reads=("e",), unroll=unroll[1]),
        Level("t", lambda x, *_: half_square(x["c"]["w"] - q @ x["e"]["w"] - t), sgd(), constant(rates[2]), ("c", "e")),
    ]
    start = {"e": draw(4, seed=7).to(dtype), "c": draw(3, seed=8).to(dtype), "t": draw(2, seed=9).to(dtype)}
    return levels, start, (a, b, m, p, q, t)


def chain_gradient(start, parts, unroll, rates=(0.1, 0.2, 0.3)):
    """By hand: Jacobians of E and C by T, carried through the same linear steps."""
    a, b, m, p, q, t = parts
    e, c, top = start["e"], start["c"], start["t"]
    de, dc = torch.zeros(4, 2, dtype=e.dtype), torch.zeros(3, 2, dtype=e.dtype)
    for _ in range(unroll[1]):
        for _ in range(unroll[0]):
            e, de = e - rates[0] * a @ (e - m @ top), de - rates[0] * a @ (de - m)
        c, dc = c - rates[1] * b @ (c - p @ e), dc - rates[1] * b @ (dc - p @ de)
    return (dc - q @ de).T @ (c - q @ e - t)


@pytest.mark.parametrize("method", ["exact", "finite"])
@pytest.mark.parametrize("unroll", [(1, 1), (2, 1), (3, 2)])
def test_three_levels_have_the_closed_form(method, unroll):
    levels, start, parts = chain(unroll)
    solver = Nested(levels, method)
    batches = {name: [None] * count for name, count in solver.batches_per_step().items()}
    assert solver.batches_per_step() == {"e": unroll[0] * unroll[1], "c": unroll[1], "t": 1}
    found = solver.hypergradient(point_of(solver, **start), batches)["w"]
    assert relative(found, chain_gradient(start, parts, unroll)) < TOLERANCE[method]


def test_finite_differences_hold_in_single_precision():
    levels, start, parts = chain((2, 2), dtype=torch.float32)
    solver = Nested(levels, "finite")
    batches = {name: [None] * count for name, count in solver.batches_per_step().items()}
    found = solver.hypergradient(point_of(solver, **start), batches)["w"]
    assert cosine(found, chain_gradient(start, parts, (2, 2))) > 0.999


@pytest.mark.parametrize("method", ["exact", "finite"])
def test_a_middle_level_that_is_read_below_steps_along_its_own_hypergradient(method):
    """x answers to y and z; y, to z, through its own steps of x; z goes through both."""
    a, b, c = positive(3, 1), draw(3, 2, seed=2), draw(3, 2, seed=3)
    p, q, r = draw(4, 3, seed=4), draw(4, 2, seed=5), draw(4, 2, seed=6)
    u, v, t = draw(4, 3, seed=7), draw(4, 2, seed=8), draw(4, seed=9)
    x, y, z = draw(3, seed=10), draw(2, seed=11), draw(2, seed=12)

    def lowest(w, *_):
        gap = w["x"]["w"] - b @ w["y"]["w"] - c @ w["z"]["w"]
        return 0.5 * gap @ a @ gap

    levels = [
        Level("x", lowest, sgd(), constant(0.1), ("y", "z"), unroll=2),
        Level(
            "y",
            lambda w, *_: half_square(p @ w["x"]["w"] + q @ w["y"]["w"] + r @ w["z"]["w"]),
            sgd(),
            constant(0.05),
            ("x", "z"),
        ),
        Level("z", lambda w, *_: half_square(u @ w["x"]["w"] + v @ w["y"]["w"] - t), sgd(), constant(0.3), ("x", "y")),
    ]
    s = torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) - 0.1 * a, 2)
    by_y, by_z = (torch.eye(3, dtype=torch.float64) - s) @ b, (torch.eye(3, dtype=torch.float64) - s) @ c
    reached = s @ x + by_y @ y + by_z @ z
    total = p @ by_y + q
    stepped = y - 0.05 * total.T @ (p @ reached + q @ y + r @ z)
    moved = -0.05 * total.T @ (p @ by_z + r)
    expected = (u @ by_z + v @ moved).T @ (u @ reached + v @ stepped - t)
    solver = Nested(levels, method)
    batches = {"x": [None] * 2, "y": [None], "z": [None]}
    after, _ = solver.step(point_of(solver, x=x, y=y, z=z), batches, 0)
    torch.testing.assert_close(after["x"]["w"], reached)
    torch.testing.assert_close(after["y"]["w"], stepped)
    assert relative((z - after["z"]["w"]) / 0.3, expected) < TOLERANCE[method]


def bent(w, batch, _, reads):
    """A loss that no closed form fits: all levels it reads go through one tanh."""
    hidden = sum(torch.tanh(batch @ w[name]["a"]) * w[name]["b"] for name in reads)
    return (hidden - batch.sum(1, keepdim=True)).square().mean()


def bent_levels(rule, nested):
    reads = {"x": ("y", "z") if nested else ("z",), "y": ("x", "z"), "z": ("x", "y")}
    return [
        Level(
            name,
            lambda w, batch, constants, own=name: bent(w, batch, constants, (own, *reads[own])),
            rule(weight_decay=0.1),
            lambda number: 0.05 / (1 + number),
            reads[name],
            unroll=2,
        )
        for name in "xyz"
    ]


def bent_start():
    return {name: {"a": draw(3, 4, seed=i), "b": draw(4, seed=i + 9)} for i, name in enumerate("xyz")}


def plain_loop(levels, point, batches, numbers):
    """The same steps as one differentiable program; returns the last level's gradient at the point they start from."""
    queues = {name: list(values) for name, values in batches.items()}
    numbers = dict(numbers)

    def round_of(position, point, queues, numbers):
        level = levels[position]
        for _ in range(level.unroll):
            point = single(position, point, queues, numbers)
        return point

    def single(position, point, queues, numbers):
        level = levels[position]
        # an alias: other levels' present parameters may have come from this one's, which the derivative is to ignore
        point = point | {level.name: {key: value.view_as(value) for key, value in point[level.name].items()}}
        own = list(point[level.name].values())
        if position:
            point = round_of(position - 1, point, queues, numbers)
        batch = queues[level.name].pop(0)
        loss = level.loss(point, batch, None)
        gradients = torch.autograd.grad(loss, own, create_graph=True)
        gradient = dict(zip(point[level.name], gradients, strict=True))
        if level.name == "z":
            return gradient
        groups = [point[group] for group in level.groups]
        changed = level.rule.apply(groups, gradient, level.rate(numbers[level.name]), numbers[level.name])
        numbers[level.name] += 1
        return point | dict(zip(level.groups, changed, strict=True))

    point = {g: {k: v.clone().requires_grad_() for k, v in values.items()} for g, values in point.items()}
    return single(2, point, queues, numbers)


@pytest.mark.parametrize("nested", [False, True], ids=["chain", "nested"])
@pytest.mark.parametrize("rule", list(RULES))
def test_both_methods_agree_with_autograd_through_a_plain_loop(rule, nested):
    levels = bent_levels(RULES[rule], nested)
    exact, finite = Nested(levels, "exact"), Nested(levels, "finite", radius=1e-3)
    counts = exact.batches_per_step()
    batches = {name: [draw(5, 3, seed=100 + 10 * i + j) for j in range(counts[name])] for i, name in enumerate("xyz")}
    point = exact.start(bent_start())
    for done in range(2):  # the second outer step begins with filled slots
        numbers = {name: done * count for name, count in counts.items()}
        expected = plain_loop(levels, point, batches, numbers)
        for key, value in expected.items():
            assert relative(exact.hypergradient(point, batches, done)[key], value) < 1e-5
            if done or rule != "adamw":
                assert cosine(finite.hypergradient(point, batches, done)[key], value) > 0.99
        point, _ = exact.step(point, batches, done)


@pytest.mark.parametrize(
    ("rule", "peer"),
    [
        (sgd(), lambda p: torch.optim.SGD(p, lr=0.1)),
        (momentum(0.9, 0.01), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01)),
        (adamw(weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.9, 0.95), weight_decay=0.1)),
    ],
    ids=["sgd", "momentum", "adamw"],
)
def test_rules_take_the_steps_of_torch_optim(rule, peer):
    weight = draw(3, 4).float().requires_grad_()
    optimizer = peer([weight])
    level = Level("w", lambda p, batch, _: (batch @ p["w"]["w"]).square().sum(), rule, constant(0.1))
    solver = Nested([level])
    point = point_of(solver, w=weight)
    for step in range(5):
        batch = draw(2, 3, seed=step).float()
        optimizer.zero_grad()
        (batch @ weight).square().sum().backward()
        optimizer.step()
        point, _ = solver.step(point, {"w": [batch]}, step)
        torch.testing.assert_close(point["w"]["w"], weight.detach(), rtol=1e-5, atol=1e-6)


def test_weight_decay_spares_biases():
    rule = adamw(weight_decay=1.0)
    group = {"matrix": torch.ones(2, 2), "bias": torch.ones(2), "token": torch.ones(1, 1, 2)}
    zeros = {key: torch.zeros_like(value) for key, value in group.items()}
    after = rule.apply([group, zeros, zeros], zeros, 0.1, 0)[0]
    assert {key: value.flatten()[0].item() for key, value in after.items()} == pytest.approx(
        {"matrix": 0.9, "bias": 1.0, "token": 1.0}
    )


@pytest.mark.parametrize("method", ["exact", "finite"])
def test_passes_are_those_of_theory(method):
    """E: each unrolled step, and its curvature (two evaluations, or one that is differentiated again); C alike."""
    levels, start, _ = chain((2, 1))
    solver = Nested(levels, method)
    batches = {"e": [None] * 2, "c": [None], "t": [None]}
    solver.step(point_of(solver, **start), batches, 0, count_flops=True)
    again = 2 if method == "finite" else 1
    counts = {name: (p.forward, p.backward, p.second) for name, p in solver.passes.items()}
    second = 0 if method == "finite" else 1
    assert counts == {
        "e": (2 + 2 * again, 2 + 2 * again, 2 * second),
        "c": (1 + again, 1 + again, second),
        "t": (1, 1, 0),
    }


def test_constants_are_found_once_a_step():
    """A mask drawn from parameters stays the same on both sides of a finite difference."""
    calls = []

    def pick(p, batch):
        calls.append(set(p))
        return (p["top"]["w"] > 0).double()

    def lower(p, batch, mask):
        return half_square((p["low"]["w"] - p["top"]["w"]) * mask)

    levels = [
        Level("low", lower, sgd(), constant(0.5), ("top",), unroll=2, constants=pick),
        Level("top", lambda p, *_: half_square(p["low"]["w"]), sgd(), constant(1.0), ("low",)),
    ]
    results = []
    for method in ("exact", "finite"):
        solver = Nested(levels, method, radius=100.0)  # far enough to change any mask
        point = point_of(solver, low=draw(4, seed=1), top=draw(4, seed=2))
        results.append(solver.hypergradient(point, {"low": [None] * 2, "top": [None]})["w"])
    assert calls == [{"low", "top"}] * 4
    torch.testing.assert_close(*results)


def test_processes_that_average_take_the_step_of_the_whole_batch():
    """Two threads with half a batch each, meeting at every gradient, against one with all of it."""
    levels = bent_levels(adamw, nested=False)
    batches = {
        name: [draw(6, 3, seed=i + j) for j in range(n)]
        for i, (name, n) in enumerate(Nested(levels).batches_per_step().items())
    }
    whole = Nested(levels, "finite")
    expected, _ = whole.step(whole.start(bent_start()), batches, 3)
    barrier, shared, results = threading.Barrier(2, timeout=30), [None, None], [None, None]

    def run(rank):
        def average(group):
            shared[rank] = group
            barrier.wait()
            both = {key: (shared[0][key] + shared[1][key]) / 2 for key in group}
            barrier.wait()
            return both

        solver = Nested(levels, "finite", average=average)
        part = {name: [batch[3 * rank : 3 * rank + 3] for batch in values] for name, values in batches.items()}
        results[rank], _ = solver.step(solver.start(bent_start()), part, 3)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in "xyz":
        for key, value in expected[name].items():
            assert torch.equal(results[0][name][key], results[1][name][key])
            torch.testing.assert_close(results[0][name][key], value, rtol=1e-7, atol=1e-9)


ORDER = """
from mae.multilevel.nested import Nested
from mae.multilevel.differentiable_rules import adamw
from tests.mae.multilevel.test_nested import bent_levels, bent_start, draw

def average(group):
    print(sum(value.sum().item() for value in group.values()))
    return group

solver = Nested(bent_levels(adamw, nested=False), "exact", average=average)
batches = {name: [draw(6, 3, seed=i) for i in range(n)] for name, n in solver.batches_per_step().items()}
solver.step(solver.start(bent_start()), batches, 3)
"""


def test_every_process_averages_in_the_same_order():
    """The order of a set of names differs by process, and gloo ends one that meets a gradient of another size."""
    told = [
        subprocess.run(
            [sys.executable, "-c", ORDER],
            env=os.environ | {"PYTHONHASHSEED": str(seed), "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in (1, 2)
    ]
    assert len(told[0]) > 4
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "guess"}, "not one of: finite, exact"),
        ({"radius": 0.0}, "above 0"),
        ({"levels": []}, "there are none"),
    ],
)
def test_mistakes_are_named(change, message):
    levels, _, _ = chain((1, 1))
    with pytest.raises(ValueError, match=message):
        Nested(**({"levels": levels} | change))


def test_batches_that_do_not_fit_are_an_error():
    levels, start, _ = chain((2, 1))
    solver = Nested(levels)
    with pytest.raises(ValueError, match="batches"):
        solver.step(point_of(solver, **start), {"e": [None], "c": [None], "t": [None]}, 0)


def test_a_level_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="'b', which is no level"):
        Nested([Level("a", lambda p, *_: p["a"]["w"].sum(), sgd(), constant(0.1), reads=("b",))])
