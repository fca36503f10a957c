"""The linear probe of MAE, for several learning rates at once.

He et al. 2021 (arXiv 2111.06377, appendix A.1, table 10): on the features of a frozen encoder, a batch norm
without affine parameters and a linear layer, trained by LARS (You et al. 2017, arXiv 1708.03888; momentum 0.9, no
weight decay) with linear warm-up and half a cosine. What costs is the features, so every rate has a head of its own and
all heads see the same features, in one matrix product; each learns exactly what it would learn alone.

Shapes: B images, D the features' width, S rates, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm.optim
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae.optimisation import learning_rate

RATES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Base rates tried, the paper's first: its 0.1 is for 7000 steps of 16384 images. LARS moves weights by shares of their
size, so fewer and smaller batches want more (two thousand images in batches of 60: 100 to 300 were best)."""


class LinearSweep:
    """Linear heads on frozen features, one for each base learning rate in ``rates``; ``step`` counts those done.

    The peak rate of a head is its base rate · ``batch_size`` / 256. All heads start alike, from ``seed``.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        rates: Sequence[float],
        *,
        batch_size: int,
        total_steps: int,
        warmup_steps: float,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.rates, self.batch_size, self.step = tuple(rates), batch_size, 0
        self.total_steps, self.warmup_steps = total_steps, warmup_steps
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6).to(device)
        start = torch.empty(classes, width)
        nn.init.trunc_normal_(start, std=0.01, generator=torch.Generator().manual_seed(seed))
        self.weights = [start.to(device, copy=True).requires_grad_() for _ in rates]
        self.biases = [torch.zeros(classes, device=device).requires_grad_() for _ in rates]
        # One parameter a head, for LARS scales each parameter's step by its own norm; biases are not scaled.
        groups = [{"params": [weight], "always_adapt": True} for weight in self.weights]
        groups += [{"params": [bias], "always_adapt": False} for bias in self.biases]
        self.optimizer = timm.optim.Lars(groups, lr=1.0, momentum=0.9, trust_coeff=0.001)

    def update(self, features: Tensor, labels: Tensor) -> Tensor:
        """One step of every head on features [B, D], B ≥ 2, and labels int64 [B]; returns the losses, float32 [S]."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._learn(features, labels)
        self._move()
        return losses

    def _learn(self, features: Tensor, labels: Tensor, share: float = 1.0) -> Tensor:
        """Add up the gradients of a ``share`` of a step's images; returns their part of the losses, [S]."""
        self.norm.train()
        logits = self._logits(features)  # [S, B, C]
        losses = torch.stack([F.cross_entropy(each, labels) for each in logits]) * share
        # Heads share nothing, so the gradient of the sum is each head's own, and one that diverges harms no other.
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return losses.detach()

    def _move(self) -> None:
        """The step of the optimiser."""
        count = len(self.rates)
        for number, group in enumerate(self.optimizer.param_groups):
            peak = self.rates[number % count] * self.batch_size / 256
            group["lr"] = learning_rate(self.step, self.total_steps, self.warmup_steps, peak)
        self.optimizer.step()
        self.step += 1

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """What every head says of features [B, D], float32 [S, B, C]; the norm's statistics are those of training."""
        self.norm.eval()
        return self._logits(features)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on; tensors and plain values only."""
        heads = {"weights": [w.detach() for w in self.weights], "biases": [b.detach() for b in self.biases]}
        return {"step": self.step, "norm": self.norm.state_dict(), **heads, "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Undoes :meth:`state`."""
        self.step = int(state["step"])
        self.norm.load_state_dict(state["norm"])
        for mine, saved in (*zip(self.weights, state["weights"], strict=True),
                            *zip(self.biases, state["biases"], strict=True)):  # fmt: skip
            mine.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])

    def _logits(self, features: Tensor) -> Tensor:
        normed = self.norm(features.float())
        together = F.linear(normed, torch.cat(self.weights), torch.cat(self.biases))  # [B, S · C]
        return together.view(len(features), len(self.rates), -1).transpose(0, 1)
