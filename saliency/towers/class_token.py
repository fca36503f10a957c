"""The last block of a tower that pools by its class token, computed for that token alone.

Nothing behind the last block reads a patch token there, so its queries, its output projection and its MLP need only be
computed for the class token; the keys and values of all tokens stay, and so does every gradient. Scores and maps are
the same, for a sixth of the block: a map then costs less than the forward pass it would take to score the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from saliency.towers.tower import Tower


@contextmanager
def class_token_alone(tower: Tower) -> Iterator[None]:
    """While entered, the tower's last block gives its class token only, [B, 1, C], if the tower pools by it."""
    block = _last_block(tower)
    forward = None if block is None else _forward_alone(block)
    if forward is None:
        yield
        return
    before = vars(block).get("forward")
    block.forward = forward
    try:
        yield
    finally:
        del block.forward  # the class's own again
        if before is not None:
            block.forward = before


def _last_block(tower: Tower) -> Any:
    import timm.models.vision_transformer as timm_vit

    if tower.layer.pooling != "class token":
        return None
    visual: Any = tower.model.visual
    if hasattr(visual, "trunk"):
        trunk = visual.trunk
        # other trunks may read more than token 0: DeiT's distilled ones do
        plain = type(trunk) is timm_vit.VisionTransformer and trunk.global_pool == "token"
        return trunk.blocks[-1] if plain else None
    return visual.transformer.resblocks[-1] if visual.pool_type == "tok" and visual.attn_pool is None else None


def _forward_alone(block: Any) -> Callable[..., Tensor] | None:
    """The block's forward pass for its first token; None for a block of another kind."""
    import timm.models.vision_transformer as timm_vit
    from open_clip.transformer import ResidualAttentionBlock

    if type(block) is ResidualAttentionBlock and not hasattr(block, "ln_1_kv"):

        def open_clip_forward(tokens: Tensor, *_: object, attn_mask: Tensor | None = None) -> Tensor:
            normed = block.ln_1(tokens)
            attended = block.attention(q_x=normed[:, :1], k_x=normed, v_x=normed, attn_mask=attn_mask)
            first = tokens[:, :1] + block.ls_1(attended)
            whole: Tensor = first + block.ls_2(block.mlp(block.ln_2(first)))
            return whole

        return open_clip_forward
    if type(block) is timm_vit.Block:

        def timm_forward(tokens: Tensor, *_: object, **__: object) -> Tensor:
            first = tokens[:, :1] + block.ls1(block.attn(block.norm1(tokens))[:, :1])
            whole: Tensor = first + block.ls2(block.mlp(block.norm2(first)))
            return whole

        return timm_forward
    return None
