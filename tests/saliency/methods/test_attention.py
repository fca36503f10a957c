"""Attentions read from towers, against the plain implementation and autograd."""

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP

from saliency.methods.attention import block_attention, blocks, pooling_attention
from saliency.methods.gradcam import GraphCut, Place, Watch
from saliency.towers.heads import pool_tokens
from saliency.towers.tower import Tower
from tests.saliency.explicit_vit import Block, Pool, attend, tokens_before
from tests.tiny_clip import PREPROCESS, TEXT, VISION, make_tiny_clip

TRANSFORMERS = ["class token", "average", "timm", "timm class token", "attention", "coca", "timm map"]


def make_tower(kind):
    return Tower(make_tiny_clip(kind), open_clip.SimpleTokenizer(context_length=16))


def make_inputs(tower, count=2):
    return torch.randn(count, 3, tower.size, tower.size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_projections_are_the_attentions_own(kind):
    tower = make_tower(kind)
    inputs = make_inputs(tower)
    attention = pooling_attention(tower)
    tokens = tokens_before(tower, inputs)
    if "pool" in attention.name:
        expected = Pool(tower.model.visual).project(tokens[-1])
    else:
        expected = Block(blocks(tower)[-1][1]).project(tokens[-2])
    with Watch(attention.entry) as entry, torch.no_grad():
        tower.encode_images(inputs)
    found = [attention.query_heads(entry.seen), attention.keys(entry.seen), attention.values(entry.seen)]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["class token", "timm", "coca", "timm map"])
def test_gradients_at_the_output_are_those_of_the_attention_probabilities(kind):
    """∂s/∂A[i, j] = ∂s/∂o_i · v_j, with A made and differentiated in the plain implementation."""
    tower = make_tower(kind)
    inputs = make_inputs(tower)
    text = tower.encode_texts(["a dog"])
    attention = pooling_attention(tower)
    tokens = tokens_before(tower, inputs)
    if "pool" in attention.name:
        pool = Pool(tower.model.visual)
        queries, keys, values = pool.project(tokens[-1])
        probabilities = attend(queries, keys, values)[0].detach().requires_grad_(True)
        features = pool.finish(attend(queries, keys, values, probabilities)[1])
    else:
        block = Block(blocks(tower)[-1][1])
        queries, keys, values = block.project(tokens[-2])
        probabilities = attend(queries, keys, values)[0].detach().requires_grad_(True)
        features = pool_tokens(tower, block.finish(tokens[-2], attend(queries, keys, values, probabilities)[1]))
    (expected,) = torch.autograd.grad((features * text).sum(), probabilities)

    with Watch(attention.entry) as entry, GraphCut(attention.exit) as cut, torch.enable_grad():
        scores = tower.encode_images(inputs) * text
        (gradients,) = torch.autograd.grad(scores.sum(), cut.leaf)
    ours = attention.head_gradients(gradients) @ attention.values(entry.seen).transpose(-1, -2)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-4)
    assert expected.abs().max() > 1e-5


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_the_head_applied_to_the_last_tokens_is_the_towers_own(kind):
    tower = make_tower(kind)
    inputs = make_inputs(tower)
    with torch.no_grad():
        torch.testing.assert_close(pool_tokens(tower, tokens_before(tower, inputs)[-1]), tower.encode_images(inputs))


def test_hooks_are_gone_afterwards():
    tower = make_tower("class token")
    attention = pooling_attention(tower)
    with Watch(attention.entry), GraphCut(attention.exit):
        pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tower.model.modules())


def test_a_place_replaces_what_passes():
    layer = torch.nn.Linear(2, 2)
    handles = [Place(layer, "input").replace(lambda x: x + 1), Place(layer).replace(lambda y: 2 * y)]
    x = torch.ones(1, 2)
    torch.testing.assert_close(layer(x), 2 * torch.nn.functional.linear(x + 1, layer.weight, layer.bias))
    for handle in handles:
        handle.remove()


def test_what_is_not_plain_attention_is_refused():
    block = open_clip.transformer.CustomResidualAttentionBlock(16, 2, qk_norm=True)
    with pytest.raises(ValueError, match=r"resblocks\.3, a CustomResidualAttentionBlock"):
        block_attention("resblocks.3", block)
    tower = make_tower("convolutional")
    with pytest.raises(ValueError, match="ModifiedResNet has no transformer blocks"):
        blocks(tower)
    tower = make_tower("coca")
    tower.model.visual.attn_pool_contrastive = tower.model.visual.attn_pool
    with pytest.raises(ValueError, match="two attention pools"):
        pooling_attention(tower)
    tower = make_tower("timm map")
    tower.model.visual.trunk.attn_pool.pos_embed = torch.nn.Parameter(torch.zeros(100, 64))
    with pytest.raises(ValueError, match="AttentionPoolLatent, is not of a kind that is known"):
        pooling_attention(tower)


def test_the_head_norms_before_or_after_the_mean_as_the_tower_does():
    vision = VISION["average"] | {"final_ln_after_pool": True}
    towers = [CLIP(16, vision, TEXT), CustomTextCLIP(64, VISION["timm"] | {"timm_proj": "none"}, TEXT)]
    for model, size in zip(towers, (32, 160), strict=True):
        model.visual.preprocess_cfg = PREPROCESS | {"size": size}
        tower = Tower(model, open_clip.SimpleTokenizer(context_length=16))
        assert tower.layer.pooling == "average"
        inputs = make_inputs(tower)
        with torch.no_grad():
            torch.testing.assert_close(
                pool_tokens(tower, tokens_before(tower, inputs)[-1]), tower.encode_images(inputs)
            )
