"""Regions that a gate learns by contrast, without a prior: slots, and which patches belong to them.

As in SlotCon (Wen et al. 2022, arXiv 2205.15288) a patch is assigned softly to K prototypes, the slots, that all images
share. Two views of an image are to agree on what lies where (the assignments of a momentum gate, centred and sharpened
as in DINO, arXiv 2104.14294, are the targets), and the mean of a slot's patches is to be the same in both views, and
another than that of any other slot or image (InfoNCE). Which slots are background is not learnt: it is counted, how
much of a slot lies on the frame of an image. So the boundary prior decides on regions, and not on patches.

Shapes: B images in two views, stacked as [2B, …]: all first views, then all second; n patches that are read, K slots, E
the width of a patch's vector.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae.mask_learners.gate_exchange import Exchange

_VECTOR = 64
_SHARP, _SOFT, _CONTRAST = 0.04, 0.1, 0.2
"""Temperatures of the targets, of the assignments and of the contrast."""
_PATCHES = 2.0
"""How many patches of an image count as much as what is known of a slot from all images."""
_WEIGHT = 0.5
_COMPARED = 8
"""The slots of an image that are compared: those with most patches in both views."""
_KEPT = 0.9
_TINY = 1e-6


class Slots(nn.Module):
    """The vectors of patches and the prototypes that they are compared with, for a gate ``width`` wide."""

    centre: Tensor
    """Running mean of the momentum gate's similarities, float32 [K]."""
    on_frame: Tensor
    """Running share of each slot that lies on the frame of images, float32 [K]."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.vector = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, _VECTOR))
        self.prototypes = nn.Parameter(F.normalize(torch.randn(count, _VECTOR), dim=1))
        self.register_buffer("centre", torch.zeros(count))
        self.register_buffer("on_frame", torch.full((count,), 0.5))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors [B, n, E] of hidden states [B, n, width], and their cosines with the slots, [B, n, K]."""
        vectors = F.normalize(self.vector(hidden), dim=2)
        return vectors, vectors @ F.normalize(self.prototypes, dim=1).T

    def targets(self, cosines: Tensor) -> Tensor:
        """What a momentum gate's cosines [2B, n, K] assign patches to, centred and sharpened, [2B, n, K]."""
        return ((cosines - self.centre) / _SHARP).softmax(2)

    @torch.no_grad()
    def inner(self, cosines: Tensor, frame: Tensor) -> Tensor:
        """How little each patch's slots touch the frame, [B, n], standardised in every image.

        ``frame``, bool [n], says which patches do. The share of a slot on the frame is taken from this image, and from
        all images as far as the slot has few patches in this one.
        """
        assigned = (cosines / _SOFT).softmax(2)
        on_frame = torch.einsum("bnk,n->bk", assigned, frame.float()) + _PATCHES * self.on_frame
        share = on_frame / (assigned.sum(1) + _PATCHES)
        score = -torch.einsum("bnk,bk->bn", assigned, share)
        return (score - score.mean(1, keepdim=True)) / (score.std(1, keepdim=True) + _TINY)

    def combine(self, logits: Tensor, cosines: Tensor, frame: Tensor) -> Tensor:
        """The gate's own logits [B, n] and half a deviation of them by :meth:`inner`; their mean stays."""
        return logits + _WEIGHT * logits.detach().std(1, keepdim=True) * self.inner(cosines, frame)

    @torch.no_grad()
    def note(self, sums: Tensor, stop: Tensor) -> None:
        """A step's :func:`slot_sums` enter the running means; not where ``stop`` is 1."""
        pace = (1 - _KEPT) * (1 - stop)
        cosines, on_frame, all_of_it = sums
        self.centre.add_(pace * (cosines - self.centre))
        self.on_frame.add_(pace * (on_frame / all_of_it.clamp_min(_TINY) - self.on_frame))


class SlotView(NamedTuple):
    """What the slots have made of two views, by the gate in training and by its momentum copy."""

    vectors: Tensor
    """[2B, n, E]."""
    cosines: Tensor
    """[2B, n, K]."""
    momentum_vectors: Tensor
    targets: Tensor
    """[2B, n, K], of :meth:`Slots.targets`."""


def slot_sums(momentum_cosines: Tensor, targets: Tensor, frame: Tensor) -> Tensor:
    """What :meth:`Slots.note` is told of a batch, [3, K]: mean cosines, and each slot's share, on the frame and in all.

    The second views are zoomed, so that the frame is counted in the first ones alone.
    """
    first = targets[: len(targets) // 2]
    on_frame = torch.einsum("bnk,n->k", first, frame.float()) / first[..., 0].numel()
    return torch.stack([momentum_cosines.mean((0, 1)), on_frame, first.mean((0, 1))])


def agreement(view: SlotView, aligned_targets: Tensor, aligned_logs: Tensor) -> Tensor:
    """Cross-entropy of each view's assignments with the other's targets, a scalar.

    ``aligned_targets`` [B, n, K] are the first views' targets at the places of the second's patches;
    ``aligned_logs`` the first views' log-assignments (:func:`log_assignments`) there.
    """
    count = len(aligned_targets)
    second = log_assignments(view.cosines[count:])
    return -(aligned_targets * second + view.targets[count:] * aligned_logs).sum(2).mean() / 2


def log_assignments(cosines: Tensor) -> Tensor:
    """Log-probabilities [B, n, K] of the slots of patches with these cosines."""
    return (cosines / _SOFT).log_softmax(2)


def slot_contrast(view: SlotView, exchange: Exchange | None = None) -> Tensor:
    """InfoNCE of the slots of two views, a scalar: the mean over both directions.

    A slot's mean vector in one view is to be like that of the momentum gate in the other view of the image, and unlike
    those of the image's other slots and of all slots of other images. The eight slots of each image count that have
    most patches in both views, if these are two or more.
    """
    means = _slot_means(log_assignments(view.cosines).exp(), view.vectors)  # [2B, K, E]
    momentum = _slot_means(view.targets, view.momentum_vectors)
    slots = view.targets.shape[2]
    patches = F.one_hot(view.targets.argmax(2), slots).sum(1).float()  # [2B, K]
    common = torch.minimum(*patches.chunk(2))  # [B, K]
    most, chosen = common.topk(min(_COMPARED, slots), dim=1)
    there = (most >= 2).float()
    rows = chosen.repeat(2, 1)[..., None].expand(-1, -1, means.shape[2])
    means, momentum = (each.gather(1, rows).flatten(1) for each in (means, momentum))
    if exchange is not None:
        counted = exchange.counted(means)
        there = exchange.gather(there.repeat(2, 1))
        there = there[: len(there) // 2] * (1.0 if counted is None else counted[:, None])
        means, momentum = exchange.gather(means), exchange.gather(momentum)
    there = there.flatten()
    first, second = means.view(2, len(there), -1)
    other_first, other_second = momentum.view(2, len(there), -1)
    losses = [
        F.cross_entropy(
            (a @ b.T / _CONTRAST).masked_fill(there == 0, -1e4), torch.arange(len(a), device=a.device), reduction="none"
        )
        for a, b in ((first, other_second), (second, other_first))
    ]
    return (torch.stack(losses).mean(0) * there).sum() / there.sum().clamp_min(1)


def _slot_means(assigned: Tensor, vectors: Tensor) -> Tensor:
    return F.normalize(torch.einsum("bnk,bne->bke", assigned, vectors), dim=2)
