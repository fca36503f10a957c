"""A tower's attentions, seen as what saliency needs of them: queries, keys, values, and the gradient at their output.

With A the attention probabilities of a head, o = A·v its output and y = W_out [o_1 … o_h] + b the attention's output,
a score s has ∂s/∂o = W_outᵀ ∂s/∂y and ∂s/∂A[i, j] = ∂s/∂o_i · v_j, exactly. So the gradient at y says all, A is never
made, and the model's fused attention stays as it is. y is read where it enters the block's layer scale (an identity
where a model has none), never at the attention module itself, whose output may be a tuple or bypassed by a fast path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from saliency.methods.gradcam import Place
from saliency.towers.tower import Tower


@dataclass(frozen=True)
class Projection:
    """Tokens [B, N, C] → heads [B, h, N, d]: a linear map, and the norm that some models put on queries and keys."""

    weight: Tensor
    bias: Tensor | None
    heads: int
    norm: Callable[[Tensor], Tensor] | None = None

    def __call__(self, tokens: Tensor) -> Tensor:
        """Float32 tokens [B, N, C] → [B, h, N, d]."""
        split = split_heads(F.linear(tokens, self.weight, self.bias), self.heads)
        return self.norm(split) if self.norm else split


@dataclass(frozen=True)
class Attention:
    """One multi-head attention: its projections and the places where its tokens enter and its output y leaves.

    ``latent`` are the learned query tokens [Q, C] of an attention pool; without them tokens attend to each other.
    """

    name: str
    queries: Projection
    keys: Projection
    values: Projection
    output: nn.Linear
    entry: Place
    exit: Place
    latent: Tensor | None = None

    def query_heads(self, tokens: Tensor) -> Tensor:
        """Queries [B, h, Q, d] for tokens float32 [B, N, C]."""
        return self.queries(tokens if self.latent is None else self.latent.expand(len(tokens), -1, -1))

    def head_gradients(self, gradients: Tensor) -> Tensor:
        """∂s/∂y float32 [B, Q, D] → ∂s/∂o float32 [B, h, Q, d]."""
        return split_heads(gradients @ self.output.weight, self.values.heads)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """[B, N, h·d] → [B, h, N, d]."""
    return tokens.reshape(*tokens.shape[:2], heads, -1).transpose(1, 2)


def join_heads(heads: Tensor) -> Tensor:
    """[B, h, N, d] → [B, N, h·d]."""
    return heads.transpose(1, 2).flatten(2)


def blocks(tower: Tower) -> list[tuple[str, nn.Module]]:
    """The (name, module) of a transformer tower's blocks, first to last; ValueError for a tower without."""
    visual: Any = tower.model.visual
    if hasattr(visual, "transformer"):
        return [(f"transformer.resblocks.{i}", block) for i, block in enumerate(visual.transformer.resblocks)]
    if hasattr(visual, "trunk") and hasattr(visual.trunk, "blocks"):
        return [(f"trunk.blocks.{i}", block) for i, block in enumerate(visual.trunk.blocks)]
    raise ValueError(f"an image tower of class {type(visual).__name__} has no transformer blocks")


def block_attention(name: str, block: nn.Module) -> Attention:
    """The self-attention of a block of open_clip or timm; ValueError if it computes anything but plain attention."""
    import timm.models.vision_transformer as timm_vit
    from open_clip.transformer import ResidualAttentionBlock

    module: Any = block
    if type(block) is ResidualAttentionBlock:
        queries, keys, values = _torch_projections(module.attn)
        entry, leave = Place(module.ln_1), Place(module.ls_1, "input")
        return Attention(f"{name}.attn", queries, keys, values, module.attn.out_proj, entry, leave)
    plain = type(block) is timm_vit.Block and type(module.attn) is timm_vit.Attention
    if plain and getattr(module.attn, "gate", None) is None and isinstance(module.attn.norm, nn.Identity):
        queries, keys, values = _timm_projections(module.attn)
        entry, leave = Place(module.norm1), Place(module.ls1, "input")
        return Attention(f"{name}.attn", queries, keys, values, module.attn.proj, entry, leave)
    raise ValueError(f"the attention of {name}, a {type(block).__name__}, is not of a kind that can be read")


def pooling_attention(tower: Tower) -> Attention:
    """The attention that gathers the image's feature: the pool's own, else the last block's.

    ValueError if the tower has none that can be read.
    """
    visual: Any = tower.model.visual
    if tower.layer.pooling != "attention":
        return block_attention(*blocks(tower)[-1])
    if hasattr(visual, "trunk"):
        return _timm_pool(visual.trunk.attn_pool)
    if visual.attn_pool_contrastive is not None:
        raise ValueError("an image tower with two attention pools can't be read")
    return _open_clip_pool(visual.attn_pool)


def _torch_projections(attention: Any) -> tuple[Projection, Projection, Projection]:
    if attention.in_proj_weight is None:  # keys of another width than queries
        found: list[Any] = [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
    else:
        found = list(attention.in_proj_weight.chunk(3))
    biases = [None] * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
    first, second, third = (Projection(w, b, attention.num_heads) for w, b in zip(found, biases, strict=True))
    return first, second, third


def _timm_projections(attention: Any) -> tuple[Projection, Projection, Projection]:
    weights, heads = attention.qkv.weight.chunk(3), attention.num_heads
    biases = [None] * 3 if attention.qkv.bias is None else attention.qkv.bias.chunk(3)
    return (
        Projection(weights[0], biases[0], heads, attention.q_norm),
        Projection(weights[1], biases[1], heads, attention.k_norm),
        Projection(weights[2], biases[2], heads),
    )


def _open_clip_pool(pool: Any) -> Attention:
    queries, keys, values = _torch_projections(pool.attn)
    latent = pool.ln_q(pool.query)
    return Attention("attn_pool", queries, keys, values, pool.attn.out_proj, Place(pool.ln_k), Place(pool), latent)


def _timm_pool(pool: Any) -> Attention:
    from timm.layers import AttentionPoolLatent

    known = type(pool) is AttentionPoolLatent and pool.pos_embed is None
    if not (known and isinstance(pool.q, nn.Linear) and isinstance(pool.proj, nn.Linear)):
        raise ValueError(f"the attention pool trunk.attn_pool, a {type(pool).__name__}, is not of a kind that is known")
    key_weight, value_weight = pool.kv.weight.chunk(2)
    key_bias, value_bias = (None, None) if pool.kv.bias is None else pool.kv.bias.chunk(2)
    return Attention(
        "trunk.attn_pool",
        Projection(pool.q.weight, pool.q.bias, pool.num_heads, pool.q_norm),
        Projection(key_weight, key_bias, pool.num_heads, pool.k_norm),
        Projection(value_weight, value_bias, pool.num_heads),
        pool.proj,
        Place(pool, "input"),
        Place(pool.proj_drop, "input"),
        pool.latent[0],
    )
