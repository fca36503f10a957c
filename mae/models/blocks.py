"""Transformer blocks of a ViT (Dosovitskiy et al. 2020, arXiv 2010.11929), with the parameter names of timm's.

What a masked autoencoder needs beyond timm's: a block that computes its outputs for a part of the tokens alone.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mae.models.linear import Linear


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)); tokens [B, L, D]."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, skip: int = 0) -> Tensor:
        """Tokens [B, L-skip, D] of x [B, L, D]: the first ``skip`` tokens are looked at, but have no output."""
        x = x[:, skip:] + self.attn(self.norm1(x), skip)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Attention(nn.Module):
    """Multi-head self-attention by torch's fused kernels, queries, keys and values from one product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, skip: int = 0) -> Tensor:
        """[B, L-skip, D] of x [B, L, D]: the first ``skip`` tokens are keys and values only."""
        batch, length, width = x.shape
        heads = self.qkv(x).view(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, L, D / heads] each
        seen = F.scaled_dot_product_attention(query[:, :, skip:], key, value)
        out: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two layers with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] of [B, L, D]."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out
