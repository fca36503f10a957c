"""Level 2's classifier, and the buffer of features on which it is solved.

With ``--mlo-head solved`` the head is at its optimum before T learns: multinomial logistic regression with a ridge, on
the features of the images that level 2 saw last. The bound of Böhning 1992 on the Hessian gives steps that need no
search and never wait for the device; they are accelerated as in Nesterov's method. T's hypergradient then goes
through the optimum by the implicit function theorem (``differentiable_rules.AtOptimum``), for which the same Hessian is
inverted by conjugate gradients.

Shapes: n features of width D, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae.distributed import World
from mae.multilevel.differentiable_rules import Group

RIDGE = 1e-2
"""Of mean cross-entropy + ridge / 2 · ‖W‖² on standardised features; 1024 features of a ``mini`` model of CIFAR-10 had
the lowest held-out cross-entropy with it, of 0.001, 0.01, 0.03, 0.1 and 0.3."""
SOLVE_STEPS = 50
"""From zero, the gradient's norm falls from 1 to about 0.001 in so many."""
INVERSE_STEPS = 30
_WEIGHT, _BIAS = "linear.weight", "linear.bias"


class Head(nn.Module):
    """Level 2's classifier of features [B, D]: LayerNorm and a linear layer, as in the paper, without its dropout."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, classes]."""
        logits: Tensor = self.linear(self.norm(features))
        return logits


@dataclass
class Problem:
    """A ridge regression of classes on a set of features, standardised, with a last column of ones: [n, D + 1]."""

    inputs: Tensor
    targets: Tensor
    """[n, K]: one-hot."""
    counts: Tensor
    """[n, 1]: 1 / the number of features, or 0 for a row that holds none."""
    mean: Tensor
    """[D], as ``scale``: what features are standardised by."""
    scale: Tensor
    penalty: Tensor
    """[D + 1, 1]: the ridge, and almost 0 for the bias."""
    factor: Tensor
    """[D + 1, D + 1]: Cholesky factor of the Hessian's bound, ½ XᵀX / n + ridge, the same for every class."""

    def solve(self, start: Tensor, steps: int = SOLVE_STEPS) -> Tensor:
        """Weights [D + 1, K] at the optimum, from ``start``."""
        weights = ahead = start
        for step in range(steps):
            errors = torch.softmax(self.inputs @ ahead, 1) - self.targets
            gradient = self.inputs.T @ (self.counts * errors) + self.penalty * ahead
            moved = ahead - torch.cholesky_solve(gradient, self.factor)
            weights, ahead = moved, moved + step / (step + 3) * (moved - weights)
        return weights

    def inverse(self, weights: Tensor, vector: Tensor, steps: int = INVERSE_STEPS) -> Tensor:
        """H⁻¹ · vector, both [D + 1, K], with the Hessian H at ``weights``."""
        chances = torch.softmax(self.inputs @ weights, 1)

        def product(direction: Tensor) -> Tensor:
            moved = self.inputs @ direction
            curved = chances * (moved - (chances * moved).sum(1, keepdim=True))
            return self.inputs.T @ (self.counts * curved) + self.penalty * direction

        tiny = torch.finfo(vector.dtype).tiny
        found, rest = torch.zeros_like(vector), vector
        direction = preconditioned = torch.cholesky_solve(rest, self.factor)
        size = (rest * preconditioned).sum()
        for _ in range(steps):
            turned = product(direction)
            step = size / (direction * turned).sum().clamp_min(tiny)
            found, rest = found + step * direction, rest - step * turned
            preconditioned = torch.cholesky_solve(rest, self.factor)
            earlier, size = size, (rest * preconditioned).sum()
            direction = preconditioned + size / earlier.clamp_min(tiny) * direction
        return found

    def to_standard(self, head: Group) -> Tensor:
        """A head's linear layer as weights [D + 1, K] of standardised features."""
        weight, bias = head[_WEIGHT], head[_BIAS]
        return torch.cat([(weight * self.scale).T, (bias + weight @ self.mean)[None]])

    def from_standard(self, weights: Tensor) -> Group:
        """The linear layer of features as they are; undoes :meth:`to_standard`."""
        weight = weights[:-1].T / self.scale
        return {_WEIGHT: weight, _BIAS: weights[-1] - weight @ self.mean}


def problem_of(features: Tensor, labels: Tensor, classes: int, ridge: float = RIDGE) -> Problem:
    """The regression of ``labels`` int64 [n] on ``features`` [n, D]; a label of −1 marks a row that holds none."""
    here = (labels >= 0)[:, None].to(features.dtype)
    counts = here / here.sum().clamp_min(1)
    mean = (counts * features).sum(0)
    deviation = (counts * (features - mean).square()).sum(0).sqrt()
    scale = torch.where(deviation > 1e-6, deviation, 1)
    inputs = torch.cat([(features - mean) / scale, torch.ones_like(here)], 1)
    penalty = torch.full((inputs.shape[1], 1), ridge, dtype=features.dtype, device=features.device)
    penalty[-1] = 1e-3 * ridge  # a bias that is the same for all classes changes nothing, so H has no inverse without
    factor = torch.linalg.cholesky(0.5 * inputs.T @ (counts * inputs) + torch.diag(penalty[:, 0]))
    targets = F.one_hot(labels.clamp_min(0), classes).to(features.dtype)
    return Problem(inputs, targets, counts, mean, scale, penalty, factor)


class SolvedHead:
    """The newest ``size`` features with their labels, and the head that is solved on them.

    The processes of a ``world``, which share batches of ``batch_size``, have one buffer. The head's layer norm stays as
    it is.
    """

    def __init__(self, head: Head, size: int, device: torch.device, world: World, batch_size: int) -> None:
        self.head, self.size, self.world, self.part = head, size, world, batch_size // world.size
        self.features = torch.zeros(0, head.linear.in_features, device=device)
        self.labels = torch.zeros(0, dtype=torch.int64, device=device)
        self._problem: Problem | None = None
        self._weights: Tensor | None = None

    @property
    def is_full(self) -> bool:
        """Whether it has held as many features as it can."""
        return len(self.labels) == self.size

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Take this process's features [n, D] and their labels int64 [n], −1 for a row that holds none."""
        dtype = self.head.linear.weight.dtype
        features = features.to(dtype)
        if self.world.size > 1:  # every process sends as many rows, whatever it could read
            missing = self.part - len(labels)
            features = self.world.gather_tensor(F.pad(features, (0, 0, 0, missing))).flatten(0, 1)
            labels = self.world.gather_tensor(F.pad(labels, (0, missing), value=-1)).flatten()
        self.features = torch.cat([self.features.to(dtype), features])[-self.size :]
        self.labels = torch.cat([self.labels, labels])[-self.size :]

    def solve(self, head: Group) -> Group:
        """The parameters of the head at the optimum, from those of ``head``; the buffer must not be empty."""
        with torch.no_grad():
            normed = F.layer_norm(
                self.features, self.head.norm.normalized_shape, head["norm.weight"], head["norm.bias"], 1e-6
            )
            self._problem = problem_of(normed, self.labels, self.head.linear.out_features)
            self._weights = self._problem.solve(self._problem.to_standard(head))
            return head | self._problem.from_standard(self._weights)

    def inverse(self, vector: Group) -> Group:
        """H⁻¹ v of the last problem that was solved, for a group of the head's parameters; 0 for the layer norm's."""
        assert self._problem is not None
        assert self._weights is not None
        problem = self._problem
        with torch.no_grad():
            weight, bias = vector[_WEIGHT], vector[_BIAS]
            # a derivative by the head's own weights as one by those of standardised features, and back
            standard = torch.cat([((weight - bias[:, None] * problem.mean) / problem.scale).T, bias[None]])
            found = problem.from_standard(problem.inverse(self._weights, standard))
        return {name: torch.zeros_like(value) for name, value in vector.items()} | found

    def state(self) -> dict[str, Tensor]:
        """The buffer."""
        return {"features": self.features, "labels": self.labels}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Undoes :meth:`state`."""
        device = self.features.device
        self.features, self.labels = state["features"].to(device), state["labels"].to(device)
