"""What follows a tower's last block, applied to any tokens: the final norm, the pooling, the projection.

Methods that score the tokens of a middle layer, or each patch by itself, read them through the tower's own head.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from saliency.towers.tower import Tower


def project_tokens(tower: Tower, tokens: Tensor) -> Tensor:
    """Tokens float32 [..., C] → features [..., D] of the joint space, each as if it were the pooled token.

    Not of unit length. For towers that pool by class token or by average.
    """
    visual: Any = tower.model.visual
    if not hasattr(visual, "trunk"):
        features: Tensor = visual.ln_post(tokens)
        return features if visual.proj is None else features @ visual.proj
    trunk = visual.trunk
    return visual.head(trunk.head(trunk.fc_norm(trunk.norm(tokens))))  # type: ignore[no-any-return]


def pool_tokens(tower: Tower, tokens: Tensor) -> Tensor:
    """Tokens float32 [B, N, C] as the last block gives them → the tower's own unit-length image features [B, D]."""
    visual: Any = tower.model.visual
    if hasattr(visual, "trunk"):
        pooled: Tensor = visual.head(visual.trunk.forward_head(visual.trunk.norm(tokens)))
    elif visual.attn_pool is not None:
        queries = visual.ln_post(visual.attn_pool(tokens))
        chosen = queries[:, 0] if visual.pool_type == "tok" else queries[:, 1:].mean(dim=1)
        pooled = chosen if visual.proj is None else chosen @ visual.proj
    elif tower.layer.pooling == "class token":
        pooled = project_tokens(tower, tokens[:, 0])
    elif visual.final_ln_after_pool:
        pooled = project_tokens(tower, tokens[:, 1:].mean(dim=1))
    else:
        pooled = project_tokens(tower, tokens[:, 1:]).mean(dim=1)
    return F.normalize(pooled, dim=-1)
