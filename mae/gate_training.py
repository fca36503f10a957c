"""The gate's side of a joint step: it looks at the batch that the autoencoder is about to see, learns, and says whom
to hide. Nothing flows between the two but detached tensors: patch embeddings to the gate, masks to the autoencoder.

The second view is a random crop and flip of the first, made on the device from the same pixels: it costs no decoding
and nothing of the loader, one more patch embedding and the gate itself on twice the batch. Random numbers come from
generators that the caller seeds by step, so a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mae.gate import SIGNS, Gate, gate_priorities
from mae.gate_loss import GateLoss, GateObjective, gate_loss, teacher_loss
from mae.guard import Guard, NonFinite
from mae.masking import Mask, hidden_count, mask_from_priorities

_CROP_AREA = (0.4, 1.0)
"""Bounds of the second view's share of the first one's area: large enough that most objects stay in sight."""


@dataclass(frozen=True)
class GateSettings:
    """How the gate learns and what its masks do. ValueError names the option that is wrong."""

    ratio: float = 0.5
    """Share of each image's important patches that is hidden (or kept) because they are important, 0..1."""
    sign: str = "hide"
    """A key of SIGNS: hide the chosen important patches, or keep them visible."""
    objective: GateObjective = field(default_factory=GateObjective)
    learning_rate: float = 2e-3
    """The peak; it follows the autoencoder's warm-up and cosine."""
    weight_decay: float = 0.05
    warm_start: float = 0.2
    """Share of the training in which the teacher's weight falls linearly from ``objective.teacher`` to 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"--gate-ratio {self.ratio:g} must lie between 0 and 1")
        if self.sign not in SIGNS:
            raise ValueError(f"--gate-sign {self.sign!r} is not one of: {', '.join(SIGNS)}")
        if self.learning_rate <= 0 or self.weight_decay < 0 or not 0 <= self.warm_start <= 1:
            raise ValueError("the gate's learning rate must be above 0, its decay at least 0, its warm start in 0..1")


class GateTraining:
    """A gate in training beside an autoencoder: ``look`` at each batch of a step, then ``apply``.

    ``read`` makes patch embeddings [B, N, D] of normalised images [B, C, H, W], without positions
    (``MaskedAutoencoder.patch_embed``); it is called without gradients.
    """

    def __init__(
        self,
        gate: Gate,
        read: Callable[[Tensor], Tensor],
        settings: GateSettings,
        grid: tuple[int, ...],
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.gate = gate.to(self.device).train()
        self.read, self.settings, self.grid = read, settings, grid
        decayed = [p for p in gate.parameters() if p.ndim >= 2]
        others = [p for p in gate.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._skips_itself = self.device.type in ("cuda", "cpu")
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=self._skips_itself)
        self._guard = Guard(self.device)
        self._total = torch.zeros((), device=self.device)

    def look(
        self,
        images: Tensor,
        generator: torch.Generator,
        *,
        share: float = 1.0,
        progress: float = 0.0,
        saliency: Tensor | None = None,
    ) -> tuple[Tensor, GateLoss]:
        """Logits [B, N] of normalised images [B, C, H, W], and the terms of the loss; neither carries a graph.

        Gradients of ``share`` of the loss (the batch's share of the step's images) are added up until ``apply``.
        ``generator`` is the CPU's; ``progress`` 0..1 ends the warm start; ``saliency`` [B, N] is the teacher's map on
        these views.
        """
        count = len(images)
        with torch.no_grad():
            tokens = torch.cat([self.read(images), self.read(second_view(images, generator))]).float()
        with torch.autocast(self.device.type, enabled=False):  # so small that half precision gains nothing
            logits = self.gate(tokens, self.grid)
            terms = gate_loss(logits, tokens, self.grid, self.settings.objective)
            total = terms.total
            weight = self.teacher_weight(progress)
            if saliency is not None and weight > 0:
                total = total + weight * teacher_loss(logits[:count], saliency.to(self.device, non_blocking=True))
        (share * total).backward()  # type: ignore[no-untyped-call]
        self._total += share * total.detach()
        return logits[:count].detach(), GateLoss(*(term.detach() for term in terms))

    @torch.no_grad()
    def scores(self, images: Tensor) -> Tensor:
        """Logits [B, N] of normalised images [B, C, H, W], with nothing learnt from them: for pictures and use."""
        logits: Tensor = self.gate(self.read(images), self.grid)
        return logits

    def non_finite(self, step: int) -> NonFinite | None:
        """The first of the ``step`` steps done whose gate's loss or gradients were not finite; waits for the device."""
        return self._guard.report(step)

    def teacher_weight(self, progress: float) -> float:
        """The weight of the teacher's maps at training ``progress`` 0..1."""
        warm = self.settings.warm_start
        return self.settings.objective.teacher * (max(0.0, 1 - progress / warm) if warm else 0.0)

    def apply(self, rate: float) -> None:
        """One optimiser step at ``rate`` (0..1) times the peak; none from the first loss on that was not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.settings.learning_rate
        self._guard.look(self.gate, self._total)
        if self._skips_itself:
            self.optimizer.found_inf = self._guard.found  # type: ignore[attr-defined] # as GradScaler tells it
            self.optimizer.step()
        elif not self._guard.found:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._total = torch.zeros((), device=self.device)

    def masks(self, logits: Tensor, mask_ratio: float, generator: torch.Generator) -> Mask:
        """Masks of the images that ``logits`` [B, N] belong to; ``generator`` is the CPU's."""
        uniform, gumbel = torch.rand(2, *logits.shape, generator=generator).to(logits.device)
        hidden, settings = hidden_count(logits.shape[1], mask_ratio), self.settings
        priorities = gate_priorities(
            logits, settings.ratio, hidden, uniform, gumbel, sign=settings.sign, area=settings.objective.area
        )
        return mask_from_priorities(priorities, mask_ratio)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold: the gate's weights and its optimiser's state."""
        return {"gate": self.gate.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Undoes :meth:`state`."""
        self.gate.load_state_dict(state["gate"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._guard = Guard(self.device)


def second_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random crop of each image, 40 to 100 % of its area, half of them mirrored, resized to the same shape.

    images: float [B, C, H, W], or video [B, C, T, H, W], whose frames share the crop. Bilinear, on their device; the
    numbers come from ``generator``, the CPU's.
    """
    count = len(images)
    area, x, y, flip = torch.rand(4, count, generator=generator)
    low, high = _CROP_AREA
    side = (low + (high - low) * area).sqrt()
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = torch.where(flip < 0.5, -side, side)
    theta[:, 1, 1] = side
    theta[:, 0, 2] = (2 * x - 1) * (1 - side)
    theta[:, 1, 2] = (2 * y - 1) * (1 - side)
    theta = theta.to(images.device, images.dtype)
    flat = images.flatten(1, -3)
    places = F.affine_grid(theta, list(flat.shape), align_corners=False)
    return F.grid_sample(flat, places, padding_mode="border", align_corners=False).view_as(images)
