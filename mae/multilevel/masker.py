"""Network T of MLO-MAE (arXiv 2402.18128): patch embeddings in, the probability that each patch should be hidden out.

The M patches of highest probability are hidden. That choice has no derivative; the loss of level 1 lets one through in
one of four ways, see :func:`loss_weights`. Two networks: the paper's MLP, which fits one grid, and the gate
(``mae.masks.gate``), or any other network from (embeddings, grid) to logits.

Shapes: B images, N patches of width D.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mae.masks.masking import mask_from_priorities, top_ranks, weighted_scores
from mae.models.mask import Mask

PATHS = ("weighted", "relative", "straight-through", "drawn")


class MlpMasker(nn.Module):
    """The paper's: flatten → Linear(512) → ReLU → Linear(N) → sigmoid, with 512·(N·D + N + 1) + N parameters.

    77 M for the 14×14 patches of a ViT-B at 224 px, 101 M for the 16×16 of the paper's CIFAR models.
    """

    def __init__(self, patches: int, width: int, hidden: int = 512) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(patches * width, hidden), nn.ReLU(), nn.Linear(hidden, patches))

    def forward(self, tokens: Tensor) -> Tensor:
        """Probabilities [B, N] of patch embeddings [B, N, D]."""
        return torch.sigmoid(self.layers(tokens.flatten(1)))


class GridMasker(nn.Module):
    """Any network from patch embeddings [B, N, D] and their grid to logits [B, N], such as the gate, as T.

    An image's logits are taken relative to their mean.
    """

    def __init__(self, network: nn.Module, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.grid = network, grid

    def forward(self, tokens: Tensor) -> Tensor:
        """Probabilities [B, N]."""
        logits: Tensor = self.network(tokens, self.grid)
        # Which patch is above which is all that a mask asks; left free, what all patches share was seen to carry the
        # probabilities of all of them to 0, where nothing is learned any more.
        return torch.sigmoid(logits - logits.mean(1, keepdim=True))


def top_mask(probabilities: Tensor, mask_ratio: float, noise: Tensor, exploration: float = 0.0) -> Mask:
    """Hides the M highest of ``probabilities`` [B, N]; equal ones by ``noise`` [B, N], uniform in [0, 1).

    With ``exploration`` > 0 the M are drawn without replacement instead, each patch with odds ∝ p^(1/exploration).
    """
    scores = probabilities.detach().float()
    if exploration > 0:
        scores = weighted_scores(scores, noise, exploration)
    return mask_from_priorities(-top_ranks(scores, noise).float(), mask_ratio)


def draw_log_probability(scores: Tensor, mask: Mask) -> Tensor:
    """Log of the chance [B] that draws without replacement, odds ∝ exp(``scores`` [B, N]), hide the patches of a mask.

    In the order in which they were drawn: a Plackett–Luce model of the masks of :func:`top_mask`.
    """
    drawn = scores.gather(1, mask.ids_hidden)  # the last one first
    kept = scores.gather(1, mask.ids_keep).logsumexp(1, keepdim=True)
    remaining = torch.cat([kept, drawn], 1).logcumsumexp(1)[:, 1:]
    return (drawn - remaining).sum(1)


def loss_weights(probabilities: Tensor, mask: Mask, path: str, exploration: float = 1.0) -> Tensor:
    """What each patch's error [B, N] is multiplied by before the sum is divided by the number of hidden patches.

    ``weighted`` (the paper): h · p, h the mask, 1 = hidden. The loss is not plain MAE's, and its derivative by p is
    the error of a hidden patch; a visible one has none. ``relative``: the same, divided by the mean of p over the
    image's hidden patches, so that raising or lowering all p alike changes nothing. ``straight-through``:
    h + p − stop(p). The loss is plain MAE's, and its derivative by p is the error of every patch, visible ones
    included, as if p itself were the mask. ``drawn``: h · P / stop(P), P the chance of the image's draw under
    ``exploration`` > 0. The loss is plain MAE's, and its derivative is the image's loss times that of log P (the score
    function): the only path by which T learns what hiding other patches would change.
    """
    hidden = mask.hidden.to(probabilities.dtype)
    if path == "weighted":
        return hidden * probabilities
    if path == "relative":
        weights = hidden * probabilities
        return weights * (hidden.sum(1, keepdim=True) / weights.sum(1, keepdim=True))
    if path == "drawn":
        tiny = torch.finfo(probabilities.dtype).tiny
        chance = draw_log_probability(torch.log(probabilities.clamp_min(tiny)) / exploration, mask)
        return hidden * torch.exp(chance - chance.detach())[:, None]
    return hidden + probabilities - probabilities.detach()
