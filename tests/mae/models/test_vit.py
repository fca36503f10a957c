"""The masked autoencoder: names, shapes, patches, positions, determinism, saving, precision, errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mae.masks.masking import Masking, mask_from_priorities
from mae.models.mask import Mask
from mae.models.sizes import SIZES
from mae.models.tokens import sincos_positions
from mae.models.vit import MaskedAutoencoder

BLOCK = [
    "norm1.weight",
    "norm1.bias",
    "attn.qkv.weight",
    "attn.qkv.bias",
    "attn.proj.weight",
    "attn.proj.bias",
    "norm2.weight",
    "norm2.bias",
    "mlp.fc1.weight",
    "mlp.fc1.bias",
    "mlp.fc2.weight",
    "mlp.fc2.bias",
]
NAMES = [
    "cls_token",
    "pos_embed",
    "mask_token",
    "decoder_pos_embed",
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
    *(f"blocks.0.{name}" for name in BLOCK),
    "norm.weight",
    "norm.bias",
    "decoder_embed.weight",
    "decoder_embed.bias",
    *(f"decoder_blocks.0.{name}" for name in BLOCK),
    "decoder_norm.weight",
    "decoder_norm.bias",
    "decoder_pred.weight",
    "decoder_pred.bias",
]


def tiny(**options: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"image_size": 16, "patch_size": 4, "width": 16, "depth": 1, "heads": 2}
    decoder = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
    return MaskedAutoencoder(**(settings | decoder | options))


def batch(model: MaskedAutoencoder, count: int = 2) -> tuple[Tensor, Mask]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, model.channels, *model.image_size, generator=generator)
    return images, Masking()(count, model.grid, generator=generator)


def test_parameters_carry_the_names_of_the_published_checkpoints() -> None:
    model = tiny()
    assert sorted(model.state_dict()) == sorted(NAMES)
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == {
        "pos_embed",
        "decoder_pos_embed",
    }


@pytest.mark.parametrize(
    ("name", "millions", "patch_size"),
    [
        ("mini", 0.8, 16),
        ("tiny", 5.5, 16),
        ("small", 21.7, 16),
        ("base", 85.8, 16),
        ("large", 303.3, 16),
        ("huge", 630.8, 14),
    ],
)
def test_sizes_have_the_papers_encoders(name: str, millions: float, patch_size: int) -> None:
    with torch.device("meta"):
        model: Any = MaskedAutoencoder.from_size(name)
    encoder = [p for n, p in model.named_parameters() if not n.startswith(("decoder", "mask_token"))]
    assert sum(p.numel() for p in encoder) / 1e6 == pytest.approx(millions, abs=0.1)
    assert model.patch_size == patch_size
    assert model.blocks[0].attn.num_heads == SIZES[name].heads
    assert model.decoder_blocks[0].attn.num_heads == SIZES[name].decoder_heads
    assert (len(model.decoder_blocks), model.decoder_norm.weight.numel()) == SIZES[name][4:2:-1]


def test_from_size_passes_its_options_on() -> None:
    with torch.device("meta"):
        model = MaskedAutoencoder.from_size("huge", (32, 64), patch_size=8, norm_pix=False)
    assert (model.grid, model.norm_pix, model.patch_size) == ((4, 8), False, 8)


@pytest.mark.parametrize(("size", "grid"), [(16, (4, 4)), ((8, 20), (2, 5)), ([20, 8], (5, 2)), (4, (1, 1))])
def test_any_multiple_of_the_patch_size(size: Any, grid: tuple[int, int]) -> None:
    model = tiny(image_size=size)
    patches = math.prod(grid)
    assert model.grid == grid
    images = torch.rand(2, 3, *model.image_size)
    tokens = model.encode(images)
    assert tokens.shape == (2, 1 + patches, 16)
    assert model.features(images).shape == model.features(images, "cls").shape == (2, 16)
    if patches > 1:
        images, mask = batch(model)
        output = model.predict(images, mask)
        assert output.loss.shape == ()
        assert output.prediction.shape == (2, patches, 48)
        assert model.reconstruct(images, mask).shape == images.shape


def test_other_channels() -> None:
    model = tiny(channels=1)
    images, mask = batch(model)
    assert model.predict(images, mask).prediction.shape == (2, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 18}, "--image-size 18×18 must be a multiple of --patch-size 4"),
        ({"image_size": (16, 18)}, "--image-size 16×18 must be a multiple of --patch-size 4"),
        ({"image_size": 0}, "--image-size 0×0 must be a multiple of --patch-size 4"),
        ({"width": 18}, "encoder's width 18 must be a multiple of 4 and of its 2 heads"),
        ({"decoder_width": 16, "decoder_heads": 3}, "decoder's width 16 must be a multiple of 4 and of its 3 heads"),
    ],
)
def test_what_does_not_divide_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(ValueError, match="--model 'big' is not one of: mini, tiny, small, base, large, huge"):
        MaskedAutoencoder.from_size("big")
    with pytest.raises(ValueError, match="pool 'max' is not one of: mean, cls"):
        tiny().features(torch.rand(1, 3, 16, 16), "max")


@pytest.mark.parametrize("shape", [(2, 3, 16, 20), (2, 1, 16, 16), (3, 16, 16)])
def test_images_of_another_shape_are_an_error(shape: tuple[int, ...]) -> None:
    model = tiny()
    with pytest.raises(ValueError, match=r"images of shape \["):
        model.encode(torch.rand(shape))
    with pytest.raises(ValueError, match=r"images of shape \["):
        model.patchify(torch.rand(shape))


def test_patches_are_rows_of_pixels_with_channels_inside_and_undo() -> None:
    model = tiny(image_size=(8, 12))
    images = torch.rand(2, 3, 8, 12)
    patches = model.patchify(images)
    for n, i, j, c in [(0, 0, 0, 0), (1, 2, 3, 1), (5, 3, 1, 2), (4, 1, 2, 0)]:
        row, column = divmod(n, 3)
        expected = images[:, c, 4 * row + i, 4 * column + j]
        assert torch.equal(patches[:, n, (4 * i + j) * 3 + c], expected)
    assert torch.equal(model.unpatchify(patches), images)


def test_patch_tokens_are_in_the_order_of_the_patches() -> None:
    model = tiny(image_size=(8, 12))
    images = torch.rand(1, 3, 8, 12)
    changed = images.clone()
    changed[:, :, 4:, 8:] += 1  # the last patch
    embedded = (model.patch_embed(images) - model.patch_embed(changed)).abs().sum(-1)
    assert (embedded[0] > 0).tolist() == [False] * 5 + [True]


def test_positions_tell_rows_from_columns() -> None:
    positions = sincos_positions((2, 3), 8)[0]
    assert positions.shape == (7, 8)
    assert not positions[0].any()
    column = torch.tensor([0.0, 1, 2, 0, 1, 2])
    row = torch.tensor([0.0, 0, 0, 1, 1, 1])
    assert torch.allclose(positions[1:, 0], column.sin())
    assert torch.allclose(positions[1:, 2], column.cos())
    assert torch.allclose(positions[1:, 4], row.sin())
    assert torch.allclose(positions[1:, 6], row.cos())
    assert torch.allclose(positions[1:, 1], (column / 100).sin())


def test_encode_is_deterministic_in_training_mode_too() -> None:
    model = tiny().train()
    images, _ = batch(model)
    state = torch.get_rng_state()
    tokens = model.encode(images)
    assert torch.equal(tokens, model.encode(images))
    assert torch.equal(tokens, model.eval().encode(images))
    assert torch.equal(state, torch.get_rng_state()), "no random numbers are drawn"


def test_encode_is_the_encoder_with_nothing_hidden() -> None:
    model = tiny(depth=2)
    images, _ = batch(model)
    tokens = model.encode(images)
    order = torch.randperm(16).expand(2, -1)
    visible = model.encode_visible(images, order)
    assert torch.allclose(visible[:, 0], tokens[:, 0], atol=1e-6)
    assert torch.allclose(visible[:, 1:], tokens[:, 1:][:, order[0]], atol=1e-6)
    assert torch.allclose(model.features(images), tokens[:, 1:].mean(1))
    assert torch.equal(model.features(images, "cls"), tokens[:, 0])


def test_the_hidden_patches_reach_the_target_and_nothing_else() -> None:
    model = tiny()
    images, mask = batch(model)
    hidden = model.unpatchify(mask.hidden[:, :, None].expand(-1, -1, 48).float())
    prediction = model.predict(images, mask)
    changed = model.predict(images + hidden * torch.rand_like(images), mask)
    assert torch.equal(prediction.prediction, changed.prediction)
    assert not torch.equal(prediction.loss, changed.loss)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_loss_is_the_mean_squared_error_of_the_hidden_patches(norm_pix: bool) -> None:
    model = tiny(norm_pix=norm_pix)
    images, mask = batch(model)
    output = model.predict(images, mask)
    errors = []
    for image in range(2):
        for n in range(16):
            row, column = divmod(n, 4)
            patch = images[image, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].permute(1, 2, 0).flatten()
            if norm_pix:
                patch = (patch - patch.mean()) / (patch.var(unbiased=True) + 1e-6).sqrt()
            if mask.hidden[image, n]:
                errors.append((output.prediction[image, n] - patch).square().mean())
    assert len(errors) == 24
    assert output.loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


def test_every_weight_that_learns_gets_a_gradient() -> None:
    model = tiny()
    model(*batch(model)).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, name


def test_a_step_learns() -> None:
    model = tiny()
    images, mask = batch(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    first = model(images, mask).item()
    for _ in range(30):
        optimizer.zero_grad()
        model(images, mask).backward()
        optimizer.step()
    assert model(images, mask).item() < 0.9 * first


@pytest.mark.parametrize("norm_pix", [True, False])
def test_reconstruct_leaves_visible_pixels_exactly(norm_pix: bool) -> None:
    model = tiny(norm_pix=norm_pix, image_size=(16, 24))
    images, mask = batch(model)
    result = model.reconstruct(images, mask)
    assert not result.requires_grad
    same = (model.patchify(result) == model.patchify(images)).all(-1)
    assert torch.equal(same, ~mask.hidden)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_reconstruct_of_a_perfect_prediction_is_the_image(norm_pix: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(norm_pix=norm_pix)
    images, mask = batch(model)
    patches = model.patchify(images)
    if norm_pix:
        patches = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    monkeypatch.setattr(model, "decode", lambda latent, ids_restore, grid=None: patches)
    assert torch.allclose(model.reconstruct(images, mask), images, atol=1e-5)
    assert model.predict(images, mask).loss.item() < 1e-10


def test_a_flat_patch_keeps_the_loss_finite() -> None:
    model = tiny()
    images, mask = batch(model)
    loss = model(torch.full_like(images, 0.5), mask)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("size", [16, (8, 20)])
def test_save_and_load_to_the_bit(size: Any, tmp_path: Path) -> None:
    model = tiny(image_size=size, norm_pix=False, mlp_ratio=2.0)
    images, mask = batch(model)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"config.json", "model.safetensors"}
    loaded = MaskedAutoencoder.from_pretrained(tmp_path)
    assert (loaded.image_size, loaded.grid, loaded.norm_pix) == (model.image_size, model.grid, False)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert torch.equal(loaded(images, mask), model(images, mask))
    assert torch.equal(loaded.encode(images), model.encode(images))


def test_load_refuses_to_leave_weights_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["blocks.0.attn.qkv.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"blocks\.0\.attn\.qkv\.weight"):
        MaskedAutoencoder.from_pretrained(tmp_path)
    assert MaskedAutoencoder.from_pretrained(tmp_path, strict=False).grid == (4, 4)


def test_loss_is_float32_under_bf16_autocast() -> None:
    model = tiny()
    images, mask = batch(model)
    with torch.autocast("cpu", torch.bfloat16):
        output = model.predict(images, mask)
    assert output.prediction.dtype == torch.bfloat16, "autocast was on"
    assert output.loss.dtype == torch.float32
    # The loss of that very prediction, taken in float32 outside of autocast: no bit was lost on the way.
    patches = model.patchify(images)
    target = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    expected = (output.prediction.float() - target)[mask.hidden].square().mean()
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.reconstruct(images, mask).dtype == torch.float32


def test_hidden_patches_are_where_the_mask_says() -> None:
    model = tiny(norm_pix=False)
    images, _ = batch(model)
    mask = mask_from_priorities(torch.arange(16.0).expand(2, -1), 0.25)  # the last row of patches
    difference = (model.reconstruct(images, mask) != images).any(1)
    assert not difference[:, :12].any()
    assert difference[:, 12:].float().mean() > 0.99


def test_initial_weights() -> None:
    model: Any = tiny(width=64, heads=4, image_size=32, patch_size=8)
    projection = model.patch_embed.proj.weight
    bound = math.sqrt(6 / (64 + 3 * 8 * 8))  # Xavier, as a linear layer from 192 to 64
    assert 0.95 * bound < projection.abs().max() <= bound
    bound = math.sqrt(6 / (64 + 3 * 64))
    assert 0.95 * bound < model.blocks[0].attn.qkv.weight.abs().max() <= bound
    assert not model.decoder_pred.bias.any()
    assert not model.blocks[0].mlp.fc1.bias.any()
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.4)
    assert bool(model.mask_token.any())
    assert model.norm.eps == model.blocks[0].norm1.eps == model.decoder_norm.eps == 1e-6
