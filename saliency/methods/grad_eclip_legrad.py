"""Grad-ECLIP and LeGrad: maps from the gradient at a tower's attention outputs.

Both ask how much more attention to a patch would raise the score, and differ in what they make of the attention that
is there: Grad-ECLIP puts a looser, query–key similarity in its place, LeGrad leaves it out and asks several layers.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saliency.methods.attention import Attention, block_attention, blocks, join_heads, pooling_attention
from saliency.methods.gradcam import GraphCut, Place, Watch, caption_gradients, trunk_precision
from saliency.towers.heads import pool_tokens, project_tokens
from saliency.towers.tower import Tower


def grad_eclip_maps(tower: Tower, inputs: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Grad-ECLIP (ICML 2024, arXiv 2502.18816) at the attention that gathers the image's feature.

    map_j = ReLU(Σ_i λ_ij Σ_c w_ic v_jc): w_i = ∂s/∂o_i at query token i, λ_ij the cosine of query i and key j over all
    heads, scaled to 0..1 over the patches j. The paper has one query, the class token; in an average-pooled tower
    every token gathers, and the same first-order step sums over them. In an attention pool the query is the learned
    one. Arguments and what is returned: :data:`saliency.methods.methods.Maps`.
    """
    attention = pooling_attention(tower)
    with Watch(attention.entry) as entry, GraphCut(attention.exit) as cut, torch.enable_grad(), trunk_precision(tower):
        scores = (tower.encode_images(inputs) * texts).sum(dim=-1)
    tokens = entry.seen.detach().float()
    patches = slice(tokens.shape[1] - tower.grid[0] * tower.grid[1], None)
    queries = join_heads(attention.query_heads(tokens))
    keys, values = join_heads(attention.keys(tokens)), join_heads(attention.values(tokens))  # [B, N, h·d]
    loose = F.normalize(queries, dim=-1) @ F.normalize(keys[:, patches], dim=-1).transpose(1, 2)  # [B, Q, H·W]
    low, high = loose.amin(dim=2, keepdim=True), loose.amax(dim=2, keepdim=True)
    loose = (loose - low) / (high - low).clamp_min(torch.finfo(loose.dtype).tiny)
    maps = []
    for gradients in caption_gradients(scores, cut.leaf):
        channels = join_heads(attention.head_gradients(gradients))  # [B, Q, h·d]
        maps.append((loose * (channels @ values[:, patches].transpose(1, 2))).sum(dim=1).relu())
    return torch.stack(maps).reshape(*scores.shape, *tower.grid), scores.detach()


def legrad_maps(tower: Tower, inputs: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """LeGrad (arXiv 2404.03214): the mean over layers l, heads and queries of ReLU(∂s^l/∂A^l), for each patch.

    s^l is the cosine of the caption with the feature of layer l's tokens: their mean through the tower's final norm
    and projection, as the paper has it for class-token towers; what the tower's own pooling makes of them in
    average- and attention-pooled ones. A^l is layer l's attention, or the attention pool's applied to layer l. Each
    layer has a graph of its own. Arguments and what is returned: :data:`saliency.methods.methods.Maps`.
    """
    with ExitStack() as stack, torch.enable_grad(), trunk_precision(tower):
        layers = [stack.enter_context(layer) for layer in _relevances(tower, texts)]
        scores = (tower.encode_images(inputs) * texts).sum(dim=-1)
    relevance = torch.stack([layer.relevance for layer in layers]).mean(dim=0)
    return relevance[..., -tower.grid[0] * tower.grid[1] :].reshape(*scores.shape, *tower.grid), scores.detach()


def legrad_name(tower: Tower) -> str:
    """What LeGrad reads, such as ``transformer.resblocks.0-11.attn``; ValueError if it can't read the tower."""
    found = _open_blocks(tower)
    first, last = found[0][0], found[-1][0].rpartition(".")[2]
    layers = first if len(found) == 1 else f"{first}-{last}"
    if tower.layer.pooling == "attention":
        return f"{layers} {pooling_attention(tower).name}"
    for name, block in found:
        block_attention(name, block)
    return f"{layers}.attn"


def _open_blocks(tower: Tower) -> list[tuple[str, nn.Module]]:
    found = blocks(tower)
    if any(getattr(block, "_compiled_call_impl", None) is not None for _, block in found):
        raise ValueError("LeGrad looks inside every block, and compiled blocks (--compile) don't show it")
    return found


def _relevances(tower: Tower, texts: Tensor) -> list[_LayerRelevance]:
    found = _open_blocks(tower)
    if tower.layer.pooling == "attention":
        pool = pooling_attention(tower)
        return [_PooledRelevance(tower, texts, pool, block) for _, block in found]
    last = found[-1][1]
    return [
        _BlockRelevance(tower, texts, block_attention(name, block), block, last=block is last) for name, block in found
    ]


class _LayerRelevance(ExitStack):
    """While entered, ``relevance`` float32 [K, B, N] is what the layer's last run says of each of its key tokens."""

    relevance: Tensor

    def __init__(self, tower: Tower, texts: Tensor, attention: Attention, block: nn.Module) -> None:
        super().__init__()
        self._tower, self._texts, self._attention, self._block = tower, texts, attention, block

    def __enter__(self) -> _LayerRelevance:
        super().__enter__()
        self.callback(Place(self._block).replace(self._finish).remove)
        return self

    def _finish(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError

    def _measure(self, features: Tensor, leaf: Tensor, entered: Tensor) -> None:
        values = self._attention.values(entered.detach().float())
        relevance = []
        for gradients in caption_gradients((features * self._texts).sum(dim=-1), leaf):
            outputs = self._attention.head_gradients(gradients)
            # head by head: all heads at once would hold B·h·N² numbers
            heads = [(outputs[:, h] @ values[:, h].transpose(1, 2)).relu().mean(dim=1) for h in range(values.shape[1])]
            relevance.append(torch.stack(heads).mean(dim=0))
        self.relevance = torch.stack(relevance)


class _BlockRelevance(_LayerRelevance):
    """Of a block's own attention, by the feature of the block's output."""

    def __init__(self, tower: Tower, texts: Tensor, attention: Attention, block: nn.Module, *, last: bool) -> None:
        super().__init__(tower, texts, attention, block)
        self._last = last

    def __enter__(self) -> _BlockRelevance:
        super().__enter__()
        self._entry = self.enter_context(Watch(self._attention.entry))
        self._cut = self.enter_context(GraphCut(self._attention.exit))
        return self

    def _finish(self, tokens: Tensor) -> Tensor:
        if self._tower.layer.pooling == "class token":
            features = F.normalize(project_tokens(self._tower, tokens.mean(dim=1)), dim=-1)
        else:
            features = pool_tokens(self._tower, tokens)
        self._measure(features, self._cut.leaf, self._entry.seen)
        if not self._last:  # the trunk goes on in its own precision, which the cut had changed to float32
            torch.set_autocast_enabled(tokens.device.type, self._tower.precision == "bf16")
        return tokens.detach()  # the next layer's graph is its own


class _PooledRelevance(_LayerRelevance):
    """Of the attention pool's attention, by the feature that it makes of a block's output."""

    def _finish(self, tokens: Tensor) -> Tensor:
        pool = self._attention
        with (
            torch.autocast(tokens.device.type, enabled=False),
            Watch(pool.entry) as entry,
            GraphCut(pool.exit) as cut,
        ):
            self._measure(pool_tokens(self._tower, tokens.float()), cut.leaf, entry.seen)
        return tokens
