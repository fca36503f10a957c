"""Grad-ECLIP and LeGrad against their equations, with attention made and differentiated in plain torch."""

import pytest
import torch

from saliency.methods.grad_eclip_legrad import grad_eclip_maps, legrad_maps
from tests.saliency.explicit_vit import Block, Pool, attend, features, modules, norm_and_project, tokens_before
from tests.saliency.methods.test_attention import TRANSFORMERS, make_inputs, make_tower


def setting(kind):
    tower = make_tower(kind)
    inputs = make_inputs(tower)
    return tower, inputs, tower.encode_texts(["a dog", "two cups"]), tokens_before(tower, inputs)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_grad_eclip_follows_its_equation(kind):
    tower, inputs, texts, tokens = setting(kind)
    if tower.layer.pooling == "attention":
        pool = Pool(tower.model.visual)
        queries, keys, values = pool.project(tokens[-1])
        outputs = attend(queries, keys, values)[1].detach().requires_grad_(True)
        image = pool.finish(outputs)
    else:
        block = Block(modules(tower.model.visual)[-1])
        queries, keys, values = block.project(tokens[-2])
        outputs = attend(queries, keys, values)[1].detach().requires_grad_(True)
        image = features(tower, block.finish(tokens[-2], outputs))
    (weights,) = torch.autograd.grad((image * texts).sum(), outputs)

    queries, keys, values = (x.permute(0, 2, 1, 3).flatten(2) for x in (queries, keys, values))
    cells = tower.grid[0] * tower.grid[1]
    expected = torch.zeros(len(inputs), cells)
    for b in range(len(inputs)):
        for i in range(queries.shape[1]):
            cosines = torch.cosine_similarity(queries[b, i : i + 1], keys[b, -cells:], dim=-1)
            loose = (cosines - cosines.min()) / (cosines.max() - cosines.min())
            expected[b] += loose * (weights[b, i] * values[b, -cells:]).sum(-1)
    [maps], [scores] = grad_eclip_maps(tower, inputs, texts[None])
    torch.testing.assert_close(maps.flatten(1), expected.relu(), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(scores, (image * texts).sum(1).detach(), atol=1e-5, rtol=0)
    assert maps.max() > 1e-4
    if tower.layer.pooling == "class token":  # the paper's own case: no query but the class token counts
        assert not weights[:, 1:].any()


@pytest.mark.parametrize("kind", ["class token", "average", "timm", "timm class token"])
def test_legrad_differentiates_each_layers_attention_by_its_own_score(kind):
    tower, inputs, texts, tokens = setting(kind)
    expected = torch.zeros(len(inputs), tower.grid[0] * tower.grid[1])
    found = modules(tower.model.visual)
    for module, entering in zip(found, tokens[:-1], strict=True):
        block = Block(module)
        queries, keys, values = block.project(entering)
        probabilities = attend(queries, keys, values)[0].detach().requires_grad_(True)
        output = block.finish(entering, attend(queries, keys, values, probabilities)[1])
        if tower.layer.pooling == "class token":
            pooled = norm_and_project(tower.model.visual, output.mean(1))
            image = pooled / pooled.norm(dim=-1, keepdim=True)
        else:
            image = features(tower, output)
        (gradients,) = torch.autograd.grad((image * texts).sum(), probabilities)
        expected += gradients.clamp(min=0).mean(dim=(1, 2))[:, tower.layer.prefix_tokens :] / len(found)
    [maps], [scores] = legrad_maps(tower, inputs, texts[None])
    torch.testing.assert_close(maps.flatten(1), expected, atol=1e-7, rtol=1e-3)
    torch.testing.assert_close(scores, (tower.encode_images(inputs) * texts).sum(1), atol=1e-5, rtol=0)
    assert expected.max() > 1e-6


@pytest.mark.parametrize("kind", ["attention", "coca", "timm map"])
def test_legrad_differentiates_the_pools_attention_to_every_layer(kind):
    tower, inputs, texts, tokens = setting(kind)
    cells = tower.grid[0] * tower.grid[1]
    expected = torch.zeros(len(inputs), cells)
    pool = Pool(tower.model.visual)
    for leaving in tokens[1:]:
        queries, keys, values = pool.project(leaving)
        probabilities = attend(queries, keys, values)[0].detach().requires_grad_(True)
        image = pool.finish(attend(queries, keys, values, probabilities)[1])
        (gradients,) = torch.autograd.grad((image * texts).sum(), probabilities)
        expected += gradients.clamp(min=0).mean(dim=(1, 2))[:, -cells:] / (len(tokens) - 1)
    [maps], _ = legrad_maps(tower, inputs, texts[None])
    torch.testing.assert_close(maps.flatten(1), expected, atol=1e-7, rtol=1e-3)
    assert expected.max() > 1e-6


def test_legrad_changes_nothing_that_passes():
    """Cut, detached and looked at, every layer still gives what it gave."""
    tower, inputs, texts, tokens = setting("class token")
    seen = []
    handles = [m.register_forward_pre_hook(lambda _m, args: seen.append(args[0])) for m in modules(tower.model.visual)]
    legrad_maps(tower, inputs, texts[None])
    for handle in handles:
        handle.remove()
    for ours, before in zip(seen, tokens[:-1], strict=True):
        torch.testing.assert_close(ours, before, atol=1e-5, rtol=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tower.model.modules())
