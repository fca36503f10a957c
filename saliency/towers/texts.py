"""Texts through a CLIP's text tower, without paying for the padding.

Captions fill a fraction of the context (77 tokens for most CLIPs), and where attention is causal and the feature is
read at the end-of-text token, nothing behind that token can reach it. There the padding is cut off, and texts of about
one length go together: the same features but for rounding, at a fraction of the cost. Other text towers see all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transformer import text_global_pool
from torch import Tensor

from saliency.devices import copy_to


def cut_texts(tokenizer: Any, texts: Sequence[str]) -> NDArray[np.bool_]:
    """Which texts have more tokens than the context holds, bool [n]: open_clip cuts such without a word.

    All False of a tokenizer that does not say how long its context is, or shortens texts in a way of its own.
    """
    context = getattr(tokenizer, "context_length", None)
    cut = np.zeros(len(texts), np.bool_)
    if not context or getattr(tokenizer, "reduction_fn", None) is not None:
        return cut
    # A token stands for a byte at least, and a start and an end are added.
    for i in (i for i, text in enumerate(texts) if len(text.encode()) + 2 > context):
        padded, text = tokenizer(["", texts[i]], context_length=context + 1)
        cut[i] = bool(text[-1] != padded[-1])
    return cut


_AT_ONCE = {"cuda": 256}  # texts a forward pass; smaller ones of more equal length are faster on other devices
_AT_ONCE_ELSEWHERE = 32


def encode_tokens(model: Any, tokens: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Text features float32 [n, D], not normalised, of int tokens [n, context] by an open_clip model on ``device``.

    The tokens come on the CPU, where their length can be told without waiting for a GPU.
    """
    # open_clip's CLIP spreads its text tower over the model itself, other models keep it in ``text``
    tower = getattr(model, "text", model)
    pooling = getattr(tower, "text_pool_type" if tower is model else "pool_type", None)
    end = getattr(tower, "text_eos_id" if tower is model else "eos_id", None)
    size = _AT_ONCE.get(torch.device(device).type, _AT_ONCE_ELSEWHERE)
    if _is_causal(tower) and (pooling == "argmax" or (pooling == "eos" and end is not None)):
        lengths = _lengths(tokens, end if pooling == "eos" else None)
        order = lengths.argsort(stable=True)
        parts = []
        for rows in torch.split(order, size):
            short = copy_to(tokens[rows, : int(lengths[rows[-1]])], device)
            parts.append(_encode_short(tower, short, pooling, end))
        return torch.cat(parts)[copy_to(order.argsort(), device)].float()
    return torch.cat([model.encode_text(copy_to(part, device)) for part in torch.split(tokens, size)]).float()


def _is_causal(tower: Any) -> bool:
    """Whether this is open_clip's own text transformer with a causal mask and nothing appended to its tokens."""
    parts = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection", "attn_mask")
    appended = getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False)
    return all(hasattr(tower, part) for part in parts) and tower.attn_mask is not None and not appended


def _lengths(tokens: Tensor, end: int | None) -> Tensor:
    """How many tokens each text's feature depends on, int64 [n]: up to its end, or else its highest number."""
    ends = tokens.argmax(dim=-1) if end is None else (tokens == end).int().argmax(dim=-1)
    return ends + 1


def _encode_short(tower: Any, tokens: Tensor, pooling: str, end: int | None) -> Tensor:
    """The tower's own forward pass, for tokens that are fewer than the context."""
    count = tokens.shape[1]
    kind = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens).to(kind) + tower.positional_embedding[:count].to(kind)
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:count, :count]))
    pooled: Tensor = text_global_pool(x, tokens, pooling, eos_token_id=end)
    if tower.text_projection is None:
        return pooled
    linear = isinstance(tower.text_projection, torch.nn.Linear)
    projected: Tensor = tower.text_projection(pooled) if linear else pooled @ tower.text_projection
    return projected
