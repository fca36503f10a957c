"""The keys and values that attention made of the tokens before: a cache, as decoders of text have it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae.models.blocks import Block


class Remembered:
    """The keys and values that a stack of blocks made of the tokens before, of at most ``length`` with the first ones.

    The ``first`` tokens of every portion, those that stand for the whole, take the first places for good.
    """

    def __init__(self, blocks: Iterable[nn.Module], length: int, first: int, like: Tensor, precision: str) -> None:
        kept = like.to(torch.bfloat16) if precision == "bf16" else like
        self._pasts = [_Past(cast(Block, block), length, kept) for block in blocks]
        self._first = first
        self.used = 0

    def clear(self) -> None:
        """Forget all."""
        self.used = 0

    def add(self, x: Tensor, wanted: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """What the blocks make of tokens x [first + K, D], which see themselves and all before, and are remembered.

        [first + K, D], or of the tokens ``wanted``, int64 [n], alone. ``bias``, [first + all K], is added to the logits
        of the attention to each token that is remembered.
        """
        *pasts, last = self._pasts
        used = self.used
        if not len(x):
            return x
        self.used += len(x) - self._first
        for past in pasts:
            x = past.block_on(x, self._first, used, bias=bias)
        return last.block_on(x, self._first, used, wanted, bias)

    @property
    def memory(self) -> int:
        """Bytes."""
        return sum(2 * past.keys.numel() * past.keys.element_size() for past in self._pasts)


class _Past:
    """The keys and values of one block, [heads, length, D / heads] each."""

    def __init__(self, block: Block, length: int, like: Tensor) -> None:
        heads = block.attn.num_heads
        self._block = block
        self.keys, self.values = (like.new_empty(heads, length, like.shape[-1] // heads) for _ in range(2))

    def block_on(
        self, x: Tensor, first: int, used: int, wanted: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """The block's output for tokens x [n, D], or those ``wanted``, which see the ``used`` ones before too."""
        block, end = self._block, used + len(x)
        heads = block.attn.qkv(block.norm1(x)).view(len(x), 3, len(self.keys), -1)
        query, key, value = heads.permute(1, 2, 0, 3).unbind(0)
        for kept, new in ((self.keys, key), (self.values, value)):
            kept[:, :first] = new[:, :first]
            kept[:, first + used : end] = new[:, first:]
        if wanted is not None:
            x, query = x[wanted], query[:, wanted]
            if not len(wanted):
                return x
        mask = None if bias is None else bias.to(query.dtype).expand(1, 1, query.shape[1], -1)
        keys, values = self.keys[None, :, :end], self.values[None, :, :end]
        seen = F.scaled_dot_product_attention(query[None], keys, values, attn_mask=mask)
        x = x + block.attn.proj(seen[0].transpose(0, 1).flatten(1))
        out: Tensor = x + block.mlp(block.norm2(x))
        return out
