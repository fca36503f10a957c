"""The model and its masks against transformers' ViTMAE, weights copied over and the same noise given to both."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from transformers import ViTMAEConfig, ViTMAEForPreTraining
from transformers.models.vit_mae.modeling_vit_mae import (
    ViTMAEDecoder,
    ViTMAEEmbeddings,
    build_2d_sinusoidal_position_embedding,
)

from mae.masks.masking import mask_from_priorities
from mae.models.tokens import sincos_positions
from mae.models.vit import MaskedAutoencoder

DEPTH = {"vit.layers": 3, "decoder.decoder_layers": 2}
WHOLE = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "decoder_embed": "decoder.decoder_embed",
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.decoder_pos_embed",
    "decoder_norm": "decoder.decoder_norm",
    "decoder_pred": "decoder.decoder_pred",
}
PARTS = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.o_proj",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def reference(norm_pix: bool, mask_ratio: float = 0.75) -> ViTMAEForPreTraining:
    """A small ViTMAE whose every weight is random, norms, biases and tokens too."""
    config = ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=DEPTH["vit.layers"],
        num_attention_heads=4,
        intermediate_size=128,
        image_size=24,
        patch_size=4,
        decoder_num_attention_heads=2,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=DEPTH["decoder.decoder_layers"],
        decoder_intermediate_size=64,
        layer_norm_eps=1e-6,
        mask_ratio=mask_ratio,
        norm_pix_loss=norm_pix,
    )
    torch.manual_seed(0)
    model = ViTMAEForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def converted(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """ViTMAE's weights under the names of the published checkpoints, the three attention matrices joined."""
    names = dict(WHOLE)
    weights = {}
    for ours, layers in (("blocks", "vit.layers"), ("decoder_blocks", "decoder.decoder_layers")):
        for n in range(DEPTH[layers]):
            names |= {f"{ours}.{n}.{part}": f"{layers}.{n}.{name}" for part, name in PARTS.items()}
            for kind in ("weight", "bias"):
                parts = [theirs[f"{layers}.{n}.attention.{letter}_proj.{kind}"] for letter in "qkv"]
                weights[f"{ours}.{n}.attn.qkv.{kind}"] = torch.cat(parts)
    for name, source in names.items():
        if source in theirs:
            weights[name] = theirs[source]
        else:
            weights |= {f"{name}.{kind}": theirs[f"{source}.{kind}"] for kind in ("weight", "bias")}
    assert sum(w.numel() for w in weights.values()) == sum(w.numel() for w in theirs.values())
    return weights


def ours(theirs: ViTMAEForPreTraining) -> MaskedAutoencoder:
    model = MaskedAutoencoder(
        image_size=24,
        patch_size=4,
        width=32,
        depth=DEPTH["vit.layers"],
        heads=4,
        decoder_width=16,
        decoder_depth=DEPTH["decoder.decoder_layers"],
        decoder_heads=2,
        norm_pix=theirs.config.norm_pix_loss,
    )
    model.load_state_dict(converted(theirs.state_dict()), strict=True)
    return model.eval()


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("mask_ratio", [0.75, 0.6])
def test_loss_prediction_and_mask_are_equal(norm_pix: bool, mask_ratio: float) -> None:
    theirs = reference(norm_pix, mask_ratio)
    model = ours(theirs)
    images, noise = torch.randn(3, 3, 24, 24), torch.rand(3, 36)
    with torch.no_grad():
        expected = theirs(images, noise=noise)
        mask = mask_from_priorities(noise, mask_ratio)
        loss, prediction = model.predict(images, mask)
    assert torch.equal(mask.hidden, expected.mask.bool())
    assert torch.equal(mask.ids_restore, expected.ids_restore)
    torch.testing.assert_close(prediction, expected.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(loss, expected.loss, rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_gradients_are_equal(norm_pix: bool) -> None:
    theirs = reference(norm_pix)
    model = ours(theirs)
    images, noise = torch.randn(2, 3, 24, 24), torch.rand(2, 36)
    theirs(images, noise=noise).loss.backward()
    model(images, mask_from_priorities(noise, 0.75)).backward()
    for name, mine in model.named_parameters():
        if name in ("patch_embed.proj.weight", "mask_token", "decoder_pred.weight", "blocks.0.mlp.fc1.weight"):
            source = theirs.get_parameter(
                WHOLE.get(name) or WHOLE.get(name.removesuffix(".weight"), "vit.layers.0.mlp.fc1") + ".weight"
            )
            torch.testing.assert_close(mine.grad, source.grad, rtol=1e-4, atol=1e-5)


def test_encoding_is_equal_with_nothing_hidden() -> None:
    theirs = reference(norm_pix=True, mask_ratio=0.0)
    images = torch.randn(2, 3, 24, 24)
    order = torch.arange(36.0).expand(2, -1)
    with torch.no_grad():
        expected = theirs.vit(images, noise=order).last_hidden_state
        torch.testing.assert_close(ours(theirs).encode(images), expected, rtol=0, atol=1e-5)


def test_patches_are_equal() -> None:
    theirs = reference(norm_pix=True)
    images = torch.randn(2, 3, 24, 24)
    patches = ours(theirs).patchify(images)
    assert torch.equal(patches, theirs.patchify(images))
    assert torch.equal(ours(theirs).unpatchify(patches), theirs.unpatchify(patches))


def test_positions_are_equal() -> None:
    config = reference(norm_pix=True).config
    model = MaskedAutoencoder(24, 4, 32, 1, 4, 16, 1, 2)
    # The parts, because a whole ViTMAE that is built rather than loaded has positions of zero (transformers 5.23).
    embeddings, decoder = ViTMAEEmbeddings(config), ViTMAEDecoder(config, num_patches=36)
    embeddings.initialize_weights()
    assert bool(embeddings.position_embeddings.any())
    assert bool(decoder.decoder_pos_embed.any())
    torch.testing.assert_close(model.pos_embed, embeddings.position_embeddings, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.decoder_pos_embed, decoder.decoder_pos_embed, rtol=0, atol=1e-6)
    assert not model.pos_embed.requires_grad
    assert not model.decoder_pos_embed.requires_grad


@pytest.mark.parametrize("grid", [(3, 7), (5, 2)])
def test_positions_of_a_grid_that_is_not_square_are_equal(grid: tuple[int, int]) -> None:
    rows_first = build_2d_sinusoidal_position_embedding(*grid, embed_dim=24, cls_token=True)
    columns_first = torch.cat([rows_first[:, 12:], rows_first[:, :12]], dim=1)
    torch.testing.assert_close(sincos_positions(grid, 24)[0], columns_first, rtol=0, atol=1e-6)
