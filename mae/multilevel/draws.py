"""Masks from T's scores, the chance of a draw, and the weights by which level 1's loss lets a derivative through.

Of the M hidden patches T chooses a share; the others are drawn uniformly from the patches that remain.

Shapes: B images, N patches, M of them hidden.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mae.masks.masking import mask_from_priorities, top_ranks, weighted_scores
from mae.models.mask import Mask, hidden_count

PATHS = ("weighted", "relative", "straight-through", "drawn", "drawn-relative")


class Choice(NamedTuple):
    """What T says of a batch."""

    probabilities: Tensor
    """[B, N]: how much each patch should be hidden, 0..1."""
    share: Tensor | None = None
    """Scalar 0..1 that T has learned: each hidden patch is T's choice with this probability; None: a fixed share is."""


class Drawn(NamedTuple):
    """A mask, and how many of each image's hidden patches T chose, int64 [B, 1]; None: all of them."""

    mask: Mask
    chosen: Tensor | None


def draw_masks(choice: Choice, mask_ratio: float, noise: Tensor, exploration: float = 0.0, share: float = 1.0) -> Drawn:
    """The masks of a batch.

    ``noise`` are numbers in [0, 1): [B, N], or with a share [B, 2 N + 1]. A fixed share is rounded to patches; a
    learned one gives each image a binomial number. The count that T chooses is drawn first, without replacement and
    with odds ∝ p^(1/exploration), or has the highest p if that is 0.
    """
    patches = choice.probabilities.shape[1]
    pick, hidden = noise[:, :patches], hidden_count(patches, mask_ratio)
    if choice.share is None and share == 1:
        return Drawn(top_mask(choice.probabilities, mask_ratio, pick, exploration), None)
    rest, chance = noise[:, patches : 2 * patches], noise[:, 2 * patches : 2 * patches + 1]
    if choice.share is None:
        chosen = torch.full_like(chance, round(share * hidden), dtype=torch.int64)
    else:
        below = count_log_chances(choice.share.detach(), hidden).exp().cumsum(0)
        chosen = (chance.double() > below.double()[:-1]).sum(1, keepdim=True)
    ranks = top_ranks(_scores(choice.probabilities, pick, exploration), pick)
    # What T chose stands above the rest, in the order in which it was drawn.
    priorities = torch.where(ranks < chosen, 1.0 + patches - ranks, rest)
    return Drawn(mask_from_priorities(priorities, mask_ratio), chosen)


def top_mask(probabilities: Tensor, mask_ratio: float, noise: Tensor, exploration: float = 0.0) -> Mask:
    """Hides the M highest of ``probabilities`` [B, N]; equal ones by ``noise`` [B, N], uniform in [0, 1).

    With ``exploration`` > 0 the M are drawn without replacement instead, each patch with odds ∝ p^(1/exploration).
    """
    scores = _scores(probabilities, noise, exploration)
    return mask_from_priorities(-top_ranks(scores, noise).float(), mask_ratio)


def _scores(probabilities: Tensor, noise: Tensor, exploration: float) -> Tensor:
    scores = probabilities.detach().float()
    return weighted_scores(scores, noise, exploration) if exploration > 0 else scores


def count_log_chances(share: Tensor, hidden: int) -> Tensor:
    """Logs of the binomial chances [M + 1] that T chooses 0, 1, … M of the hidden patches."""
    counts = torch.arange(hidden + 1, device=share.device, dtype=share.dtype)
    ways = math.lgamma(hidden + 1) - torch.lgamma(counts + 1) - torch.lgamma(hidden - counts + 1)
    return ways + counts * torch.log(share) + (hidden - counts) * torch.log1p(-share)


def draw_log_probability(scores: Tensor, mask: Mask, chosen: Tensor | None = None) -> Tensor:
    """Log of the chance [B] that draws without replacement, odds ∝ exp(``scores`` [B, N]), hide the patches of a mask.

    In the order in which they were drawn: a Plackett–Luce model of the masks of :func:`top_mask`. Of a mask whose first
    ``chosen`` [B, 1] patches were drawn so, those alone count: the others' chance does not depend on the scores.
    """
    drawn = scores.gather(1, mask.ids_hidden)  # the last one first
    kept = scores.gather(1, mask.ids_keep).logsumexp(1, keepdim=True)
    remaining = torch.cat([kept, drawn], 1).logcumsumexp(1)[:, 1:]
    terms = drawn - remaining
    if chosen is not None:
        places = torch.arange(terms.shape[1], device=terms.device)
        terms = terms * (places >= terms.shape[1] - chosen)
    return terms.sum(1)


def loss_weights(choice: Choice, drawn: Drawn, path: str, exploration: float = 1.0) -> Tensor:
    """What each patch's error [B, N] is multiplied by before the sum is divided by the number of hidden patches.

    ``weighted`` (the paper): h · p, h the mask, 1 = hidden. The loss is not plain MAE's, and its derivative by p is
    the error of a hidden patch; a visible one has none. ``relative``: the same, divided by the mean of p over the
    image's hidden patches: the weights of an image have mean 1, and raising or lowering all p alike changes nothing.
    ``straight-through``: h + p − stop(p). The loss is plain MAE's, and its derivative by p is the error of every patch,
    visible ones included, as if p itself were the mask. ``drawn``: h · P / stop(P), P the chance of the image's draw
    under ``exploration`` > 0. The loss is plain MAE's, and its derivative is the image's loss times that of log P (the
    score function), by which T learns what hiding other patches would change. ``drawn-relative``: the weights of
    ``relative``, times P / stop(P).
    """
    probabilities, mask = choice.probabilities, drawn.mask
    hidden = mask.hidden.to(probabilities.dtype)
    if path == "weighted":
        return hidden * probabilities
    if path == "straight-through":
        return hidden + probabilities - probabilities.detach()
    weights = hidden
    if path in ("relative", "drawn-relative"):
        weights = hidden * probabilities
        weights = weights * (hidden.sum(1, keepdim=True) / weights.sum(1, keepdim=True))
    if path in ("drawn", "drawn-relative"):
        tiny = torch.finfo(probabilities.dtype).tiny
        chance = draw_log_probability(torch.log(probabilities.clamp_min(tiny)) / exploration, mask, drawn.chosen)
        if choice.share is not None and drawn.chosen is not None:
            chance = chance + count_log_chances(choice.share, mask.ids_hidden.shape[1])[drawn.chosen[:, 0]]
        weights = weights * torch.exp(chance - chance.detach())[:, None]
    return weights
