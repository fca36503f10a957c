"""A second, plain implementation of the image towers: attention probabilities made and kept, nothing hooked or cut.

What the gradients of the methods are compared with. Written from the transformers' equations; shares no code with
``saliency.methods.attention``.
"""

import torch


def heads_of(tokens, heads):
    batch, count, width = tokens.shape
    return tokens.view(batch, count, heads, width // heads).permute(0, 2, 1, 3)


def linear(tokens, weight, bias):
    return tokens @ weight.T + bias


def attend(queries, keys, values, probabilities=None):
    """(probabilities [B, h, Q, N], outputs of all heads side by side [B, Q, h·d])."""
    if probabilities is None:
        scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        probabilities = scores.exp() / scores.exp().sum(-1, keepdim=True)
    outputs = probabilities @ values
    return probabilities, outputs.permute(0, 2, 1, 3).flatten(2)


class Block:
    """One block of open_clip or timm, step by step."""

    def __init__(self, module):
        self.open_clip = hasattr(module, "ln_1")
        self.module = module
        attention = module.attn
        if self.open_clip:
            self.weight, self.bias, self.out = attention.in_proj_weight, attention.in_proj_bias, attention.out_proj
            self.scale, self.rest = module.ls_1, lambda x: x + module.ls_2(module.mlp(module.ln_2(x)))
        else:
            self.weight, self.bias, self.out = attention.qkv.weight, attention.qkv.bias, attention.proj
            self.scale, self.rest = module.ls1, lambda x: x + module.ls2(module.mlp(module.norm2(x)))
        self.heads = attention.num_heads

    def project(self, tokens):
        """Queries, keys and values [B, h, N, d]."""
        normed = self.module.ln_1(tokens) if self.open_clip else self.module.norm1(tokens)
        return [heads_of(part, self.heads) for part in linear(normed, self.weight, self.bias).chunk(3, dim=-1)]

    def finish(self, tokens, outputs):
        """From the block's input and its heads' outputs to the block's output."""
        return self.rest(tokens + self.scale(self.out(outputs)))


class Pool:
    """The attention pool of open_clip (CoCa) or timm (SigLIP)."""

    def __init__(self, visual):
        self.visual, self.open_clip = visual, not hasattr(visual, "trunk")
        self.module = visual.attn_pool if self.open_clip else visual.trunk.attn_pool

    def project(self, tokens):
        """Queries [B, h, Q, d], keys and values [B, h, N, d] for the last block's tokens."""
        pool = self.module
        if self.open_clip:
            attention, source = pool.attn, pool.ln_k(tokens)
            query = pool.ln_q(pool.query).expand(len(tokens), -1, -1)
            biases = attention.in_proj_bias.chunk(3)
            if attention.in_proj_weight is None:
                weights = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
            else:
                weights = attention.in_proj_weight.chunk(3)
            inputs = (query, source, source)
            parts = [linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]
            return [heads_of(part, attention.num_heads) for part in parts]
        source = self.visual.trunk.norm(tokens)[:, self.visual.trunk.num_prefix_tokens :]
        query = pool.q(pool.latent.expand(len(tokens), -1, -1))
        return [heads_of(part, pool.num_heads) for part in (query, *pool.kv(source).chunk(2, dim=-1))]

    def finish(self, outputs):
        """From the pool's heads' outputs [B, Q, h·d] to unit-length features [B, D]."""
        if self.open_clip:
            pooled = self.visual.ln_post(self.module.attn.out_proj(outputs))[:, 0] @ self.visual.proj
        else:
            pooled = self.module.proj(outputs)
            pooled = self.visual.head((pooled + self.module.mlp(self.module.norm(pooled)))[:, 0])
        return pooled / pooled.norm(dim=-1, keepdim=True)


def modules(visual):
    return list(visual.transformer.resblocks if hasattr(visual, "transformer") else visual.trunk.blocks)


def tokens_before(tower, inputs):
    """The tokens that enter each block, and those that leave the last one, without a graph."""
    seen = []
    found = modules(tower.model.visual)
    handles = [block.register_forward_pre_hook(lambda _m, args: seen.append(args[0])) for block in found]
    handles.append(found[-1].register_forward_hook(lambda _m, _args, output: seen.append(output)))
    with torch.no_grad():
        tower.model.encode_image(inputs)
    for handle in handles:
        handle.remove()
    return seen


def norm_and_project(visual, pooled):
    """A pooled token [..., C] → [..., D]."""
    if hasattr(visual, "trunk"):
        return visual.head(visual.trunk.norm(pooled))
    return visual.ln_post(pooled) @ visual.proj


def features(tower, tokens):
    """The last block's tokens [B, N, C] → unit-length features [B, D], for class-token and average pooling."""
    visual = tower.model.visual
    if tower.layer.pooling == "class token":
        pooled = norm_and_project(visual, tokens[:, 0])
    else:  # the norm comes before the mean in the towers of these tests
        pooled = norm_and_project(visual, tokens[:, tower.layer.prefix_tokens :]).mean(1)
    return pooled / pooled.norm(dim=-1, keepdim=True)
