"""NACLIP (arXiv 2404.08181): a caption's similarity to each patch, without a gradient.

A ViT's patches lose their place in its last block, where they gather the whole image. There attention is replaced:
keys attend to keys and, by a Gaussian prior, to their neighbours; the residual and the MLP are left out; and each
patch goes through the tower's final norm and projection into the space where captions are.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from saliency.methods.attention import Attention, join_heads, pooling_attention
from saliency.methods.backgrounds import caption_logits
from saliency.methods.gradcam import Watch, trunk_precision
from saliency.towers.heads import project_tokens
from saliency.towers.tower import Tower

NEIGHBOURHOOD = 5.0
"""Standard deviation of the prior in patches, as in the paper."""


def naclip_maps(tower: Tower, inputs: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """The probability 0..1 that a patch is the caption's and no background's: softmax(t·cos)_caption, patch by patch.

    t is the tower's own logit scale, as in zero-shot classification. Arguments and what is returned:
    :data:`saliency.methods.methods.Maps`.
    """
    attention = pooling_attention(tower)
    with Watch(attention.entry) as entry, torch.no_grad(), trunk_precision(tower):
        scores = (tower.encode_images(inputs) * texts).sum(dim=-1)
    with torch.no_grad():
        features = patch_features(tower, attention, entry.seen.float())
        maps = caption_logits(tower, features, texts).softmax(dim=-1)[..., 0]
    return maps.float().reshape(*scores.shape, *tower.grid), scores


def patch_features(tower: Tower, attention: Attention, tokens: Tensor) -> Tensor:
    """Unit-length features [B, H·W, D] of the patches, from the tokens that enter the last attention, [B, N, C]."""
    prefix = tokens.shape[1] - tower.grid[0] * tower.grid[1]
    prior = _prior(tower.grid, prefix, tokens.device).to(tokens.dtype)
    keys = attention.keys(tokens)
    gathered = F.scaled_dot_product_attention(keys, keys, attention.values(tokens), attn_mask=prior)
    leave = attention.exit.module(attention.output(join_heads(gathered[:, :, prefix:])))
    return F.normalize(project_tokens(tower, leave), dim=-1)


@lru_cache(maxsize=16)
def _prior(grid: tuple[int, int], prefix: int, device: torch.device) -> Tensor:
    """The prior on a device, made once: [prefix + H·W, prefix + H·W], 0 for the special tokens, which have no place."""
    return F.pad(neighbourhood(grid), (prefix, 0, prefix, 0)).to(device)


def neighbourhood(grid: tuple[int, int]) -> Tensor:
    """exp(−distance² / 2σ²) between every two cells of a grid, [H·W, H·W] in 0..1, row-major."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    cells = torch.stack([rows.flatten(), columns.flatten()], dim=1).float()
    squared = (cells[:, None] - cells[None]).square().sum(dim=2)  # exact, where cdist's square root is not
    return torch.exp(-squared / (2 * NEIGHBOURHOOD**2))
