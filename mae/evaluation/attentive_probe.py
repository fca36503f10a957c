"""The attentive probe: several learned queries pool a frozen encoder's patch tokens, and a linear layer classifies.

Efficient probing of Psomas et al. 2025 (arXiv 2506.10178). For patch tokens X [N, D] of an image, learned queries
U [M, D] and values W [D, D], whose rows fall into M groups W_m of D / M each:

    A = softmax(U Xᵀ / √D), over the N tokens        [M, N]
    y_m = W_m Xᵀ A_mᵀ, and y their concatenation     [D]

There is no projection of queries or keys, and query m pools the m-th group of values alone. Pooling commutes with the
values, so that tokens are pooled first: W_m (A X)_m costs M products a token in the place of D. After that it is MAE's
linear probe (:mod:`mae.evaluation.linear_probe`): a batch norm without affine parameters, a linear layer, LARS, and a
head with queries and values of its own for every learning rate.

Shapes: B images of N tokens with D features, S rates, M queries, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mae.evaluation.linear_probe import LinearSweep

QUERIES = 32
"""The paper's number."""
_DEVIATION = 0.02


def query_count(width: int, most: int = QUERIES) -> int:
    """How many queries there are for tokens of a width: the largest number up to ``most`` that divides it."""
    return next(count for count in range(min(most, width), 0, -1) if width % count == 0)


def attentive_pool(tokens: Tensor, queries: Tensor, values: Tensor) -> Tensor:
    """What queries [S, M, D] pool of tokens [B, N, D], as ``values`` [S, D, D] give it: float32 [S, B, D]."""
    sets, count, width = queries.shape
    scores = tokens @ queries.flatten(0, 1).T / width**0.5  # [B, N, S · M]
    pooled = scores.softmax(1).transpose(1, 2) @ tokens  # [B, S · M, D]
    pooled = pooled.reshape(len(tokens), sets, count, width)
    grouped = values.reshape(sets, count, width // count, width)
    return torch.einsum("bsmd,smkd->sbmk", pooled, grouped).flatten(2)


class AttentiveSweep(LinearSweep):
    """Attentive probes of tokens [B, N, D], one for each base learning rate; as :class:`LinearSweep` otherwise."""

    def __init__(
        self, width: int, classes: int, rates: Sequence[float], *, queries: int = QUERIES, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(width, classes, rates, seed=seed, **options)
        device = self.weights[0].device
        self.norm = nn.BatchNorm1d(len(self.rates) * width, affine=False, eps=1e-6).to(device)
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randn(query_count(width, queries), width, generator=generator) * _DEVIATION
        bound = width**-0.5  # as torch starts a linear layer
        values = torch.rand(width, width, generator=generator) * 2 * bound - bound
        self.queries, self.values = (
            [start.to(device, copy=True).requires_grad_() for _ in self.rates] for start in (starts, values)
        )
        for parameter in (*self.queries, *self.values):
            self.optimizer.add_param_group({"params": [parameter], "always_adapt": True})

    def update_in_parts(self, parts: Iterable[tuple[Tensor, Tensor]], count: int) -> Tensor:
        """One step of every head on ``count`` images in parts, of which only one has its tokens at a time.

        Each is tokens [B, N, D], B ≥ 2, and labels int64 [B]. Returns the mean losses, float32 [S].
        """
        self.optimizer.zero_grad(set_to_none=True)
        losses = sum(self._learn(tokens, labels, len(labels) / count) for tokens, labels in parts)
        self._move()
        return torch.as_tensor(losses)

    def state(self) -> dict[str, Any]:
        """As of :class:`LinearSweep`, with queries and values."""
        own = {"queries": [q.detach() for q in self.queries], "values": [v.detach() for v in self.values]}
        return super().state() | own

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Undoes :meth:`state`."""
        super().load_state(state)
        for name in ("queries", "values"):
            for mine, saved in zip(getattr(self, name), state[name], strict=True):
                mine.copy_(saved)

    def _logits(self, features: Tensor) -> Tensor:
        pooled = attentive_pool(features.float(), torch.stack(self.queries), torch.stack(self.values))  # [S, B, D]
        sets, count, width = pooled.shape
        normed = self.norm(pooled.transpose(0, 1).reshape(count, -1)).view(count, sets, width).transpose(0, 1)
        return torch.baddbmm(torch.stack(self.biases)[:, None], normed, torch.stack(self.weights).transpose(1, 2))
