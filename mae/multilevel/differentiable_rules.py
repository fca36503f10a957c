"""Optimiser steps as functions: SGD, momentum, AdamW and an optimum, written so that they can be differentiated.

They take the steps of ``torch.optim.SGD`` and ``torch.optim.AdamW`` and change nothing in place: the new parameters and
slots (momentum, moments) are functions of the old ones and of the gradient, which ``mae.multilevel.nested``
differentiates. Weight decay applies to matrices and kernels alone, as in ``mae.optimisation.parameter_groups``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Group = dict[str, Tensor]
"""Tensors by name: a level's parameters, one slot for each of them, or a gradient."""

_OneStep = Callable[[Tensor, tuple[Tensor, ...], Tensor, float, int, float], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Rule:
    """How a level steps; ``slots`` name what it remembers of each parameter, zero at the start."""

    slots: tuple[str, ...]
    one: _OneStep
    """(parameter, its slots, gradient, learning rate, steps before, weight decay) → (parameter, its slots)."""
    weight_decay: float = 0.0

    def apply(self, groups: Sequence[Group], gradient: Group, rate: float, number: int) -> list[Group]:
        """The groups (parameters, then each slot) after step ``number``, counted from 0."""
        changed: list[Group] = [{} for _ in groups]
        for name, parameter in groups[0].items():
            decay = self.weight_decay if parameter.squeeze().ndim >= 2 else 0.0
            slots = tuple(group[name] for group in groups[1:])
            for group, value in zip(
                changed, self.one(parameter, slots, gradient[name], rate, number, decay), strict=True
            ):
                group[name] = value
        return changed


def sgd(weight_decay: float = 0.0) -> Rule:
    """θ' = θ − rate · (g + decay · θ)."""

    def one(
        parameter: Tensor, _: tuple[Tensor, ...], gradient: Tensor, rate: float, number: int, decay: float
    ) -> tuple[Tensor, ...]:
        return (parameter - rate * (gradient + decay * parameter),)

    return Rule((), one, weight_decay)


def momentum(factor: float = 0.9, weight_decay: float = 0.0) -> Rule:
    """m' = factor · m + g + decay · θ, θ' = θ − rate · m'."""

    def one(
        parameter: Tensor, slots: tuple[Tensor, ...], gradient: Tensor, rate: float, number: int, decay: float
    ) -> tuple[Tensor, ...]:
        moved = factor * slots[0] + gradient + decay * parameter
        return parameter - rate * moved, moved

    return Rule(("momentum",), one, weight_decay)


def adamw(betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8, weight_decay: float = 0.0) -> Rule:
    """AdamW (arXiv 1711.05101) with bias correction.

    At step 0 the update is rate · g / (|g| + eps), almost the sign of g, whose derivative is almost zero and lost in
    rounding: a hypergradient through the very first step says nothing. A warm-up from rate 0 takes care of it.
    """

    def one(
        parameter: Tensor, slots: tuple[Tensor, ...], gradient: Tensor, rate: float, number: int, decay: float
    ) -> tuple[Tensor, ...]:
        first = betas[0] * slots[0] + (1 - betas[0]) * gradient
        second = betas[1] * slots[1] + (1 - betas[1]) * gradient.square()
        used = second > 0  # the derivative of a root at zero is infinite, and a parameter without gradient is at zero
        root = torch.where(used, torch.where(used, second, 1).sqrt(), 0) / (1 - betas[1] ** (number + 1)) ** 0.5
        update = first / (1 - betas[0] ** (number + 1)) / (root + eps)
        return parameter * (1 - rate * decay) - rate * update, first, second

    return Rule(("first", "second"), one, weight_decay)


@dataclass(frozen=True)
class AtOptimum(Rule):
    """A level that stands at its optimum: a step changes nothing, and its derivative is that of the optimum.

    At an optimum g(θ, x) = 0, so dθ/dx = −H⁻¹ ∂g/∂x with the Hessian H of the level's loss (the implicit function
    theorem). This is also the derivative of one Newton step. ``inverse`` is v → H⁻¹ v on a group.
    """

    inverse: Callable[[Group], Group] = dict

    def apply(self, groups: Sequence[Group], gradient: Group, rate: float, number: int) -> list[Group]:
        """The groups as they are; what is derived from them by ``gradient`` is −H⁻¹."""
        names = list(gradient)
        moves = _Newton.apply(self.inverse, names, *gradient.values())
        moved = dict(zip(names, moves, strict=True))
        return [{name: value + moved[name] for name, value in groups[0].items()}]


def at_optimum(inverse: Callable[[Group], Group]) -> Rule:
    """The rule of a level that something else keeps at its optimum; see :class:`AtOptimum`."""
    return AtOptimum((), lambda *_: (), inverse=inverse)


class _Newton(torch.autograd.Function):
    """Zeros, one for each tensor of a gradient g, whose derivative by g is −H⁻¹, symmetric."""

    @staticmethod
    def forward(ctx: Any, inverse: Callable[[Group], Group], names: list[str], *gradient: Tensor) -> tuple[Tensor, ...]:
        ctx.inverse, ctx.names = inverse, names
        return tuple(torch.zeros_like(value) for value in gradient)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        found = ctx.inverse(dict(zip(ctx.names, cotangents, strict=True)))
        return (None, None, *(-found[name] for name in ctx.names))
