"""The last block for the class token alone, beside the whole block: the same scores, maps and gradients."""

from types import SimpleNamespace

import pytest
import torch

from saliency.methods.gradcam import GraphCut, Place, read_layer
from saliency.towers.class_token import class_token_alone
from saliency.towers.tower import Tower
from tests.tiny_clip import make_tiny_clip


def make_tower(kind):
    model = make_tiny_clip(kind)
    for parameter in model.visual.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Tower(model, None)


def whole(tower, inputs, texts):
    """Activations, gradients and scores through the tower as it is."""
    with GraphCut(Place(tower.layer.module)) as cut, torch.enable_grad():
        scores = (tower.encode_images(inputs) * texts).sum(dim=1)
        (gradients,) = torch.autograd.grad(scores.sum(), cut.leaf)
    return tower.to_grid(cut.leaf.detach()), tower.to_grid(gradients), scores.detach()


@pytest.mark.parametrize("kind", ["class token", "timm class token", "average", "attention", "coca", "convolutional"])
def test_nothing_but_the_cost_changes(kind):
    tower = make_tower(kind)
    inputs = torch.randn(3, 3, tower.size, tower.size)
    texts = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    expected, (activations, gradients, scores) = whole(tower, inputs, texts), read_layer(tower, inputs, texts[None])
    found = (activations, *gradients, *scores)
    assert expected[1].abs().max() > 0
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6 * float(theirs.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("kind", ["class token", "timm class token"])
def test_the_mlp_sees_one_token_while_entered_and_all_of_them_after(kind):
    tower = make_tower(kind)
    visual = tower.model.visual
    block = visual.trunk.blocks[-1] if hasattr(visual, "trunk") else visual.transformer.resblocks[-1]
    seen = []
    block.mlp.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape[1]))
    inputs = torch.randn(2, 3, tower.size, tower.size)
    with torch.no_grad():
        with class_token_alone(tower):
            alone = tower.encode_images(inputs)
        after = tower.encode_images(inputs)
    tokens = tower.grid[0] * tower.grid[1] + tower.layer.prefix_tokens
    assert seen == [1, tokens]
    torch.testing.assert_close(alone, after)


def test_an_error_leaves_the_tower_as_it_was():
    tower = make_tower("class token")
    with pytest.raises(RuntimeError, match="on purpose"), class_token_alone(tower):
        raise RuntimeError("on purpose")
    assert "forward" not in vars(tower.model.visual.transformer.resblocks[-1])


def test_where_every_token_counts_nothing_is_left_out():
    tower = make_tower("average")
    with class_token_alone(tower):
        assert "forward" not in vars(tower.model.visual.transformer.resblocks[-1])


def test_it_can_be_entered_twice():
    tower = make_tower("class token")
    inputs = torch.randn(2, 3, tower.size, tower.size)
    with torch.no_grad():
        expected = tower.encode_images(inputs)
        with class_token_alone(tower):
            with class_token_alone(tower):
                pass
            torch.testing.assert_close(tower.encode_images(inputs), expected)
        torch.testing.assert_close(tower.encode_images(inputs), expected)


def test_a_trunk_that_reads_two_tokens_keeps_both():
    """DeiT's distilled trunks pool "token", and read the distillation token beside it."""
    import timm

    trunk = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, num_classes=0, depth=1)
    tower = SimpleNamespace(
        layer=SimpleNamespace(pooling="class token"), model=SimpleNamespace(visual=SimpleNamespace(trunk=trunk))
    )
    with class_token_alone(tower):
        assert "forward" not in vars(trunk.blocks[-1])
