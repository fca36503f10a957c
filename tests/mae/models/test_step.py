"""The step computes what its loss depends on, and that loss and its gradients are those of the plain formulation."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block as TimmBlock
from torch import nn

from mae.masks.masking import Masking
from mae.models.blocks import Block
from mae.models.vit import MaskedAutoencoder

DEEP = {"image_size": 32, "patch_size": 4, "width": 32, "depth": 2, "heads": 2}
DECODER = {"decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2}


def autoencoder(**options):
    torch.manual_seed(0)
    model = MaskedAutoencoder(**DEEP | DECODER | options)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and tokens that are zero would hide mistakes
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def inputs(model, count=3, **masking):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, model.channels, *model.image_size, generator=generator)
    return images, Masking(**masking)(count, model.grid, generator=generator)


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("size", [32, (16, 40)])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("mask_ratio", [0.75, 0.4])
def test_loss_and_gradients_are_the_plain_ones(norm_pix, size, depth, mask_ratio):
    model = autoencoder(image_size=size, norm_pix=norm_pix, decoder_depth=depth)
    images, mask = inputs(model, mask_ratio=mask_ratio)
    names, weights = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    plain, fast = model.predict(images, mask).loss, model(images, mask)
    torch.testing.assert_close(fast, plain, rtol=1e-6, atol=1e-6)
    expected = torch.autograd.grad(plain, weights)
    for name, mine, theirs in zip(names, torch.autograd.grad(fast, weights), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_the_target_is_normalised_as_the_paper_says():
    model = autoencoder()
    patches = torch.randn(2, 5, 48) * 3 + 1
    patches[0, 0] = 0.3  # a flat one
    expected = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(model._target(patches), expected, rtol=1e-5, atol=1e-5)


def test_the_hidden_patches_are_the_masks():
    model = autoencoder()
    _, mask = inputs(model)
    assert torch.equal(torch.zeros_like(mask.hidden).scatter(1, mask.ids_hidden, True), mask.hidden)
    both = torch.cat([mask.ids_keep, mask.ids_hidden], 1)
    assert torch.equal(both.sort(1).values, torch.arange(64).expand(3, -1))


def test_hidden_patches_are_not_embedded_and_visible_ones_not_predicted():
    model = autoencoder()
    images, mask = inputs(model)
    rows = {}
    for name in ("decoder_pred", "decoder_norm", "decoder_embed"):
        model.get_submodule(name).register_forward_hook(lambda _, x, y, name=name: rows.update({name: y.shape[1]}))
    model.blocks[0].register_forward_hook(lambda _, x, y: rows.update(blocks=y.shape[1]))
    for n, block in enumerate(model.decoder_blocks):
        block.register_forward_hook(lambda _, x, y, n=n: rows.update({n: y.shape[1]}))
    model(images, mask)
    assert rows == {"blocks": 17, "decoder_embed": 17, 0: 65, 1: 48, "decoder_norm": 48, "decoder_pred": 48}


def test_a_block_is_timms():
    torch.manual_seed(0)
    theirs = TimmBlock(24, 3, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    mine = Block(24, 3)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 7, 24)
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine(x, skip=3), theirs(x)[:, 3:], rtol=1e-5, atol=1e-5)


def test_patches_are_projected_as_the_convolution_does():
    model = autoencoder()
    images, _ = inputs(model)
    torch.testing.assert_close(
        model.embed_patches(model.patchify(images)), model.patch_embed(images), rtol=1e-5, atol=1e-5
    )


def test_the_loss_of_some_hidden_patches_is_of_a_decoder_that_sees_no_others():
    model = autoencoder()
    images, mask = inputs(model)
    some = mask.ids_hidden[:, torch.randperm(48)[:20]]
    loss = model(images, mask, some)
    patches = model.patchify(images)
    errors = []
    for n in range(len(images)):  # the same decoder by hand, one image at a time
        latent = model.encode_visible(images[n : n + 1], mask.ids_keep[n : n + 1])
        tokens = torch.cat([model.decoder_embed(latent), model.mask_token.expand(1, 20, -1)], 1)
        where = torch.cat([torch.zeros(1, dtype=torch.int64), mask.ids_keep[n] + 1, some[n] + 1])
        x = tokens + model.decoder_pos_embed[:, where]
        for block in model.decoder_blocks:
            x = block(x)
        prediction = model.decoder_pred(model.decoder_norm(x))[:, 17:]
        errors.append(F.mse_loss(prediction, model._target(patches[n : n + 1, some[n]])))
    torch.testing.assert_close(loss, torch.stack(errors).mean(), rtol=1e-5, atol=1e-6)
    assert abs(loss.item() - model(images, mask).item()) > 1e-4
