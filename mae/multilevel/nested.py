"""Nested optimisation problems, and the gradient of an upper level through the training steps of the levels below it.

Levels stand one above the other, the lowest first. A step of level i begins with ``unroll`` steps of level i − 1 (each
of which begins with steps of level i − 2, …); those are the real training steps, kept afterwards, and not tried out and
undone. Level i then steps along the total derivative of its loss with respect to its own parameters: the direct part,
and the part through those steps, wherever a lower level's loss reads the parameters of level i.

Reverse mode over the steps gives that derivative. Going back over one of them, θ' = rule(θ, slots, g) with
g = ∇_θ L(θ, …), the optimiser's rule is differentiated exactly, and what arrives at g, w, is turned into

    ∂/∂x ⟨∇_θ L, w⟩    for every x that L reads,

which is the only place where the two methods differ. ``exact`` differentiates twice. ``finite`` takes the central
difference (∇_x L(θ + εw) − ∇_x L(θ − εw)) / 2ε with ε = radius / ‖w‖, equation 8 of DARTS (arXiv 1806.09055), chained
here through any number of steps and levels; it needs no second derivative, so fused kernels will do, and its error is
O(ε²) in precise arithmetic. What is approximated in both: the lower levels' optima, by their next few steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mae.multilevel.differentiable_rules import Group, Rule
from mae.training.flops import flop_counter

Point = dict[str, Group]
"""Where all levels stand: a level's parameters under its name, each slot of its rule under ``name.slot``."""

Loss = Callable[[Point, Any, Any], Tensor]
"""From the parameters of the levels it reads, a batch, and its constants, to a scalar; the same for the same arguments:
it is evaluated again at neighbouring points, so anything random in it belongs into the batch."""

METHODS = ("finite", "exact")


@dataclass(frozen=True)
class Level:
    """One problem: what is minimised, over which parameters (those under ``name`` in a point), and how."""

    name: str
    loss: Loss
    rule: Rule
    rate: Callable[[int], float]
    """The learning rate of the level's step number 0, 1, …"""
    reads: tuple[str, ...] = ()
    """The other levels whose parameters the loss depends on."""
    unroll: int = 1
    """Steps of this level to one step of the level above; the uppermost has none above it."""
    constants: Callable[[Point, Any], Any] | None = None
    """What of the parameters and a batch the loss is to take as given: drawn masks, inputs behind a stop-gradient. It
    is found once a step, so that a finite difference sees the same constants on both of its sides."""
    method: str | None = None
    """How this level's own curvature is found, where not as the others': one of METHODS."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of a point that a step of this level changes."""
        return (self.name, *(f"{self.name}.{slot}" for slot in self.rule.slots))


@dataclass
class Passes:
    """What a level's loss has cost: evaluations, and gradients of it; of ``exact``, gradients of gradients."""

    forward: int = 0
    backward: int = 0
    second: int = 0
    flops: int = 0
    """Of those passes that were made while counting (``step(…, count_flops=True)``)."""


@dataclass
class Step:
    """A step to be made: the ``number``-th of its level, counted from 0.

    ``inner`` are the steps of lower levels that its gradient goes through; ``drawn`` says that it was made once and its
    constants are found.
    """

    level: Level
    batch: Any
    number: int
    inner: tuple[Step, ...] = ()
    constants: Any = None
    drawn: bool = False


class _Made(NamedTuple):
    """A step that was made from ``before``, along ``gradient``, after its inner steps."""

    step: Step
    before: Point
    inner: tuple[_Made, ...]
    gradient: Group
    after: Point


@dataclass
class Nested:
    """The solver of a stack of levels, the lowest first. ValueError if they do not fit together.

    ``radius`` is the length ‖εw‖ by which ``finite`` moves all parameters of a level together. ``average`` returns the
    mean over processes of the gradients it is given; it is applied to all first and second derivatives, so that all
    processes step alike.
    """

    levels: Sequence[Level]
    method: str = "finite"
    radius: float = 0.01
    average: Callable[[Group], Group] | None = None
    passes: dict[str, Passes] = field(default_factory=dict)
    _counting: bool = False

    def __post_init__(self) -> None:
        names = [level.name for level in self.levels]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"levels need names of their own: {', '.join(names) or 'there are none'}")
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is not one of: {', '.join(METHODS)}")
        if not self.radius > 0:
            raise ValueError(f"radius is {self.radius}; it must be above 0")
        for level in self.levels:
            unknown = set(level.reads) - set(names)
            if unknown or level.unroll < 1:
                what = f"reads {min(unknown)!r}, which is no level" if unknown else f"unroll is {level.unroll}, below 1"
                raise ValueError(f"level {level.name!r}: {what}")
        self._read_below = {
            level.name: any(level.name in lower.reads for lower in self.levels[:position])
            for position, level in enumerate(self.levels)
        }
        if self.method == "exact" and self.average and any(self._read_below[name] for name in names[:-1]):
            raise ValueError(
                "several processes can't average the exact third derivatives of these levels: use 'finite'"
            )
        self.passes = {name: Passes() for name in names}

    def start(self, parameters: Mapping[str, Group]) -> Point:
        """The point before the first step: these parameters of each level, and its rule's slots at zero."""
        point = {
            level.name: {k: v.detach().clone() for k, v in parameters[level.name].items()} for level in self.levels
        }
        for level in self.levels:
            for group in level.groups[1:]:
                point[group] = {k: torch.zeros_like(v) for k, v in point[level.name].items()}
        return point

    def batches_per_step(self) -> dict[str, int]:
        """How many batches of each level one step of the uppermost takes."""
        counts = [1]
        for level in reversed(self.levels[:-1]):
            counts.append(counts[-1] * level.unroll)
        return {level.name: count for level, count in zip(self.levels, reversed(counts), strict=True)}

    def step(
        self,
        point: Point,
        batches: Mapping[str, Sequence[Any]],
        steps_done: int | Mapping[str, int],
        *,
        top: bool = True,
        count_flops: bool = False,
    ) -> tuple[Point, dict[str, Tensor]]:
        """One step of the uppermost level, with all those below it; without ``top`` those below it alone.

        ``batches`` are ``batches_per_step`` of each level, ``steps_done`` earlier calls, or the number of earlier steps
        of each level. Returns the new point and the mean loss of each level's steps, float32 on its device.
        """
        (step,) = self._plan(batches, steps_done)
        return self._made(step.inner if not top else (step,), point, count_flops)

    def lowest_steps(
        self, point: Point, batches: Sequence[Any], steps_done: int, *, count_flops: bool = False
    ) -> tuple[Point, dict[str, Tensor]]:
        """Steps of the lowest level on ``batches``, which no hypergradient goes through; returns as :meth:`step`."""
        steps = [Step(self.levels[0], batch, steps_done + i) for i, batch in enumerate(batches)]
        return self._made(steps, point, count_flops)

    def _made(self, steps: Sequence[Step], point: Point, count_flops: bool) -> tuple[Point, dict[str, Tensor]]:
        self._counting, self._losses = count_flops, {level.name: list[Tensor]() for level in self.levels}
        for step in steps:  # one after the other, as what a step has made is large
            point = self._play([step], point, graph=False)[-1].after
        self._counting = False
        return point, {name: torch.stack(values).mean() for name, values in self._losses.items() if values}

    def hypergradient(
        self, point: Point, batches: Mapping[str, Sequence[Any]], steps_done: int | Mapping[str, int] = 0
    ) -> Group:
        """The total derivative of the uppermost level's loss that :meth:`step` would step along."""
        self._losses = {level.name: [] for level in self.levels}
        return self._play(self._plan(batches, steps_done), point, graph=False)[-1].gradient

    def upper_loss(
        self, point: Point, batches: Mapping[str, Sequence[Any]], steps_done: int | Mapping[str, int] = 0
    ) -> Tensor:
        """The uppermost level's loss after the steps of the lower levels, whose derivative the hypergradient is.

        Constants are found anew from the point, drawn masks among them.
        """
        self._losses = {level.name: [] for level in self.levels}
        (step,) = self._plan(batches, steps_done)
        made = self._play(step.inner, point, graph=False)
        with torch.no_grad():
            return step.level.loss(made[-1].after if made else point, step.batch, None)

    def _plan(self, batches: Mapping[str, Sequence[Any]], steps_done: int | Mapping[str, int]) -> list[Step]:
        wanted = self.batches_per_step()
        given = {name: len(batches[name]) for name in wanted}
        if given != wanted:
            raise ValueError(f"a step takes {wanted} batches, given were {given}")
        feeds = {name: iter(batches[name]) for name in wanted}
        numbers: dict[str, Iterator[int]] = {
            name: itertools.count(steps_done * count if isinstance(steps_done, int) else steps_done[name])
            for name, count in wanted.items()
        }
        return self._plan_level(len(self.levels) - 1, feeds, numbers)

    def _plan_level(
        self, position: int, feeds: dict[str, Iterator[Any]], numbers: dict[str, Iterator[int]]
    ) -> list[Step]:
        level, steps = self.levels[position], []
        for _ in range(1 if position == len(self.levels) - 1 else level.unroll):
            below = self._plan_level(position - 1, feeds, numbers) if position else []
            through = self._read_below[level.name]
            step = Step(level, next(feeds[level.name]), next(numbers[level.name]), tuple(below) if through else ())
            steps += [step] if through else [*below, step]
        return steps

    def _play(self, steps: Sequence[Step], point: Point, graph: bool) -> tuple[_Made, ...]:
        """Make the steps. With ``graph`` the results can be differentiated with respect to the point."""
        made = []
        for step in steps:
            level = step.level
            loss, gradients, inner = self._total(step, point, {level.name}, graph)
            if not step.drawn:
                step.drawn = True
                self._losses[level.name].append(loss.detach().float())
            after = dict(inner[-1].after if inner else point)
            after |= self._apply(step, after, gradients[level.name], graph)
            made.append(_Made(step, point, inner, gradients[level.name], after))
            point = after
        return tuple(made)

    def _apply(self, step: Step, point: Point, gradient: Group, graph: bool) -> Point:
        """The groups that a step changes, as they are after it."""
        with nullcontext() if graph else torch.no_grad():
            values = [point[group] for group in step.level.groups]
            changed = step.level.rule.apply(values, gradient, step.level.rate(step.number), step.number)
        return dict(zip(step.level.groups, changed, strict=True))

    def _total(
        self, step: Step, point: Point, wanted: set[str], graph: bool
    ) -> tuple[Tensor, Point, tuple[_Made, ...]]:
        """The loss after the inner steps, its total derivative by the groups ``wanted`` before them, and the steps."""
        level = step.level
        inner = self._play(step.inner, point, graph)
        here = inner[-1].after if inner else point
        changed = _changed(step.inner)
        asked = [name for name in (level.name, *level.reads) if name in wanted | changed]
        loss, gradients = self._gradient(step, here, asked, graph)
        return loss, self._sweep(inner, gradients, wanted, graph), inner

    def _gradient(self, step: Step, point: Point, groups: Sequence[str], graph: bool) -> tuple[Tensor, Point]:
        """A level's loss and its direct derivative by the parameters of ``groups``."""
        level = step.level
        tally = self.passes[level.name]
        tally.forward, tally.backward = tally.forward + 1, tally.backward + 1
        counter = flop_counter() if self._counting else None
        with counter or nullcontext():
            if level.constants and not step.drawn:
                with torch.no_grad():
                    step.constants = level.constants({n: point[n] for n in (level.name, *level.reads)}, step.batch)
            read = {name: _leaves(point[name], name in groups, graph) for name in (level.name, *level.reads)}
            loss = level.loss(read, step.batch, step.constants)
            inputs = [(group, key, read[group][key]) for group in groups for key in read[group]]
            found = torch.autograd.grad(loss, [x for *_, x in inputs], create_graph=graph, allow_unused=True)
        tally.flops += counter.get_total_flops() if counter else 0
        return loss, self._collect(inputs, found, average=not graph)

    def _sweep(self, made: Sequence[_Made], cotangents: Point, wanted: set[str], graph: bool) -> Point:
        """From the derivative by the point after these steps to that by the groups ``wanted`` of the point before."""
        for position in reversed(range(len(made))):
            earlier = _changed([before.step for before in made[:position]])
            cotangents = self._sweep_step(made[position], cotangents, wanted | earlier, graph)
        return {group: value for group, value in cotangents.items() if group in wanted}

    def _sweep_step(self, made: _Made, cotangents: Point, wanted: set[str], graph: bool) -> Point:
        step, groups = made.step, made.step.level.groups
        passing = {group: value for group, value in cotangents.items() if group not in groups}
        own = {group: cotangents[group] for group in groups if group in cotangents}
        curvature: Point = {}
        if own:
            through, weight = self._rule_product(made, own, graph)
            passing |= through
            curvature = self._curvature(step, made.before, weight, wanted, graph)
        return _add(self._sweep(made.inner, passing, wanted, graph), curvature)

    def _rule_product(self, made: _Made, own: Point, graph: bool) -> tuple[Point, Group]:
        """The rule's vector–Jacobian product: by the level's groups before the step, and by the gradient."""
        level = made.step.level
        with torch.enable_grad():
            before = {group: _leaves(made.before[group], True, graph) for group in level.groups}
            gradient = _leaves(made.gradient, True, graph)
            after = self._apply(made.step, before, gradient, graph=True)
            pairs = [(after[group][key], value) for group in own for key, value in own[group].items()]
            inputs = [(g, k, x) for g, values in (*before.items(), ("", gradient)) for k, x in values.items()]
            outputs, vectors = zip(*pairs, strict=True)
            found = torch.autograd.grad(
                outputs, [x for *_, x in inputs], vectors, create_graph=graph, allow_unused=True
            )
        products = self._collect(inputs, found, average=False)
        weight = products.pop("")
        return products, weight

    def _curvature(self, step: Step, point: Point, weight: Group, wanted: set[str], graph: bool) -> Point:
        """∂/∂x ⟨∇_θ F, w⟩ for x in the groups ``wanted``; F is the loss after the inner steps, w = ``weight``."""
        wanted = wanted & {step.level.name, *step.level.reads, *_changed(step.inner), *_read(step.inner)}
        if not wanted:
            return {}
        if (step.level.method or self.method) == "exact":
            return self._differentiate(step, point, weight, wanted, graph)
        norm = torch.stack(torch._foreach_norm(list(weight.values()))).norm()
        epsilon = self.radius / norm.clamp_min(torch.finfo(norm.dtype).tiny ** 0.5)
        sides = []
        for sign in (1, -1):
            moved = {key: value + sign * epsilon * weight[key] for key, value in point[step.level.name].items()}
            sides.append(self._total(step, point | {step.level.name: moved}, wanted, graph)[1])
        plus, minus = sides
        return {g: {k: (plus[g][k] - minus[g][k]) / (2 * epsilon) for k in plus[g]} for g in plus}

    def _differentiate(self, step: Step, point: Point, weight: Group, wanted: set[str], graph: bool) -> Point:
        name = step.level.name
        with torch.enable_grad():
            leaves = {group: _leaves(values, group in wanted | {name}, graph) for group, values in point.items()}
            gradient = self._total(step, leaves, {name}, graph=True)[1][name]
            pairs = [(g, weight[key]) for key, g in gradient.items() if g.requires_grad]
            inputs = [(group, key, x) for group in leaves if group in wanted for key, x in leaves[group].items()]
            if not pairs:
                return {}
            outputs, vectors = zip(*pairs, strict=True)
            self.passes[name].second += 1
            counter = flop_counter() if self._counting else None
            with counter or nullcontext():
                found = torch.autograd.grad(
                    outputs, [x for *_, x in inputs], vectors, create_graph=graph, allow_unused=True
                )
            self.passes[name].flops += counter.get_total_flops() if counter else 0
        return self._collect(inputs, found, average=not graph)

    def _collect(
        self, inputs: Sequence[tuple[str, str, Tensor]], found: Sequence[Tensor | None], average: bool
    ) -> Point:
        """Derivatives as a point; zero where there is none."""
        point: Point = {}
        for (group, key, x), value in zip(inputs, found, strict=True):
            point.setdefault(group, {})[key] = torch.zeros_like(x) if value is None else value
        if average and self.average:
            # Sorted, as every process must average the same group at the same time.
            point = {group: self.average(point[group]) for group in sorted(point)}
        return point


def _leaves(group: Group, wanted: bool, graph: bool) -> Group:
    """The tensors of a group to differentiate by; in a graph they are already part of it."""
    if graph and wanted:
        # An alias, so that a derivative by it leaves out what reaches x through the other tensors of the graph.
        return {key: x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for key, x in group.items()}
    return group if graph else {key: x.detach().requires_grad_(wanted) for key, x in group.items()}


def _changed(steps: Sequence[Step]) -> set[str]:
    """The groups that these steps and those inside them change."""
    return {group for step in steps for group in (*step.level.groups, *_changed(step.inner))}


def _read(steps: Sequence[Step]) -> set[str]:
    """The levels that the losses of these steps and of those inside them read."""
    return {name for step in steps for name in (*step.level.reads, *_read(step.inner))}


def _add(a: Point, b: Point) -> Point:
    """The sum of two points, either of which may lack groups."""
    return a | {
        group: {key: a[group][key] + value for key, value in values.items()} if group in a else values
        for group, values in b.items()
    }
