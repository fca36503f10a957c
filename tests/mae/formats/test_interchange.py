"""Names of weights: published key sets written out by hand, and every way there and back to the bit."""

import argparse

import numpy as np
import pytest
import torch

from mae.formats.foreign import load_foreign
from mae.formats.interchange import (
    checked,
    config_from_transformers,
    encoder_weights,
    from_mae,
    from_timm,
    from_transformers,
    model_config,
    to_timm,
    to_transformers,
    transformers_config,
)
from mae.models.sizes import SIZES
from mae.models.vit import MaskedAutoencoder
from tests.tiny_mae import nano

BLOCK = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
PUBLISHED_ENCODER = {
    "cls_token",
    "pos_embed",
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
    "norm.weight",
    "norm.bias",
} | {f"blocks.0.{layer}.{kind}" for layer in BLOCK for kind in ("weight", "bias")}
PUBLISHED_DECODER = {
    "mask_token",
    "decoder_pos_embed",
    "decoder_embed.weight",
    "decoder_embed.bias",
    "decoder_norm.weight",
    "decoder_norm.bias",
    "decoder_pred.weight",
    "decoder_pred.bias",
} | {f"decoder_blocks.0.{layer}.{kind}" for layer in BLOCK for kind in ("weight", "bias")}


def random_model(seed=0, **options):
    torch.manual_seed(seed)
    model = nano(**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model


@pytest.fixture
def state():
    return random_model().state_dict()


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_our_names_are_the_published_ones(state):
    assert set(state) == PUBLISHED_ENCODER | PUBLISHED_DECODER
    assert set(encoder_weights(state)) == PUBLISHED_ENCODER == set(to_timm(state))


def test_a_vit_of_timm_has_the_names_too(state):
    import timm

    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)
    assert set(model.state_dict()) == set(to_timm(state))


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("part", [dict, encoder_weights])
def test_the_reference_and_back(state, wrapped, part):
    weights = part(state)
    assert equal(from_mae({"model": weights, "epoch": 3} if wrapped else weights), weights)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": {f"module.{name}": weight for name, weight in state.items()}},
        lambda state: {f"_orig_mod.{name}": weight for name, weight in state.items()},
        lambda state: {f"module._orig_mod.{name}": weight for name, weight in state.items()},
        lambda state: {"state_dict": {f"model.{name}": weight for name, weight in state.items()}, "epoch": 3},
        lambda state: {"module": state, "global_steps": 9},
        lambda state: {"model": {"module": state}},
    ],
    ids=["DDP", "compile", "both", "Lightning", "DeepSpeed", "nested"],
)
def test_what_training_wraps_around_weights_is_taken_off(state, wrap):
    assert equal(from_mae(wrap(state)), state)


def test_a_checkpoint_that_holds_itself_has_no_weights():
    checkpoint = {}
    checkpoint["model"] = checkpoint
    with pytest.raises(ValueError, match="holds no weights by name"):
        from_mae(checkpoint)


def test_numbers_of_numpy_and_paths_beside_the_weights(state, tmp_path):
    beside = {"best": np.float64(0.5), "step": np.int64(3), "args": argparse.Namespace(out=tmp_path, lr=np.float32(1))}
    torch.save({"model": dict(state), "config": {}} | beside, tmp_path / "a.pth")
    assert equal(load_foreign(tmp_path / "a.pth").state, state)


def test_timm_and_back(state):
    assert equal(from_timm(to_timm(state)), encoder_weights(state))


@pytest.mark.parametrize("part", [dict, encoder_weights])
def test_transformers_and_back(state, part):
    weights = to_transformers(part(state))
    assert equal(from_transformers(weights), part(state))


def test_the_joint_matrix_is_query_then_key_then_value(state):
    state["blocks.0.attn.qkv.bias"] = torch.arange(48.0)
    weights = to_transformers(state)
    for place, part in enumerate(("query", "key", "value")):
        bias = weights[f"vit.encoder.layer.0.attention.attention.{part}.bias"]
        assert bias.tolist() == list(range(16 * place, 16 * place + 16))


def test_transformers_names_are_the_published_folders(state):
    names = set(to_transformers(state))
    assert names >= {
        "vit.embeddings.cls_token",
        "vit.embeddings.position_embeddings",
        "vit.embeddings.patch_embeddings.projection.weight",
        "vit.encoder.layer.0.attention.attention.query.weight",
        "vit.encoder.layer.0.attention.output.dense.bias",
        "vit.encoder.layer.0.intermediate.dense.weight",
        "vit.encoder.layer.0.output.dense.weight",
        "vit.encoder.layer.0.layernorm_before.weight",
        "vit.layernorm.weight",
        "decoder.mask_token",
        "decoder.decoder_pos_embed",
        "decoder.decoder_embed.weight",
        "decoder.decoder_layers.0.attention.attention.value.bias",
        "decoder.decoder_pred.weight",
    }
    assert len(names) == len(state) + 2 * 2 * 2, "each attention's weight and bias are three"


def test_values_and_types_are_kept(state):
    half = {name: weight.to(torch.bfloat16) for name, weight in state.items()}
    assert equal(from_transformers(to_transformers(half)), half)


def test_a_fine_tuned_model_leaves_its_head(state):
    tuned = encoder_weights(state) | {"head.weight": torch.zeros(5, 16), "head.bias": torch.zeros(5)}
    assert equal(from_mae({"model": tuned}), encoder_weights(state))
    assert equal(from_timm(tuned), encoder_weights(state))


def test_a_model_that_pools_before_its_norm_is_refused(state):
    tuned = encoder_weights(state)
    tuned["fc_norm.weight"], tuned["fc_norm.bias"] = tuned.pop("norm.weight"), tuned.pop("norm.bias")
    with pytest.raises(ValueError, match=r"fine-tuned .* \(fc_norm\)"):
        from_mae({"model": tuned})


@pytest.mark.parametrize("name", sorted(PUBLISHED_ENCODER | PUBLISHED_DECODER))
def test_a_missing_weight_is_named(state, name):
    del state[name]
    with pytest.raises(ValueError, match=f"{name} is missing"):
        checked(state)


@pytest.mark.parametrize("name", ["vit.encoder.layer.0.attention.attention.key.bias", "decoder.mask_token"])
def test_a_missing_weight_of_transformers_is_named(state, name):
    weights = to_transformers(state)
    del weights[name]
    with pytest.raises(ValueError, match=f"{name} is missing"):
        from_transformers(weights)


@pytest.mark.parametrize("number", ["2", "999999999"])
def test_a_missing_block_is_named(state, number):
    """However large the number of the next one is: nine digits took the names of a thousand million blocks."""
    state |= {
        name.replace("blocks.0", f"blocks.{number}"): w for name, w in state.items() if name.startswith("blocks.0")
    }
    with pytest.raises(ValueError, match=r"blocks\.1\.norm1\.weight is missing"):
        checked(state)


@pytest.mark.parametrize(
    "name",
    ["blocks.0.ls1.gamma", "reg_token", "blocks.0.attn.q_norm.weight", "decoder_blocks.x", "blocks.9999999999.x"],
)
def test_a_foreign_weight_is_named(state, name):
    with pytest.raises(ValueError, match=f"{name} is nothing that"):
        checked(state | {name: torch.zeros(1)})


@pytest.mark.parametrize("checkpoint", [[], 3, {"model": 3}, {"epoch": 3}, {"model": {"a": 3}}])
def test_what_holds_no_weights(checkpoint):
    with pytest.raises(ValueError, match="holds no weights"):
        from_mae(checkpoint)


def test_empty_weights_are_not_a_model():
    for read in (from_mae, from_timm, from_transformers):
        with pytest.raises(ValueError, match="is missing"):
            read({})


@pytest.mark.parametrize("name", ["tiny", "base", "huge"])
def test_the_dimensions_follow_from_the_weights(name):
    with torch.device("meta"):
        model = MaskedAutoencoder.from_size(name, 28 if name == "huge" else 32)
    assert model_config(model.state_dict()) == model._hub_mixin_config
    encoder = model_config(encoder_weights(model.state_dict()))
    assert (encoder["heads"], encoder["depth"]) == (SIZES[name].heads, SIZES[name].depth)
    assert (encoder["decoder_width"], encoder["decoder_depth"]) == (
        SIZES[name].decoder_width,
        SIZES[name].decoder_depth,
    )


def test_what_weights_do_not_tell_must_be_given():
    state = random_model(image_size=(32, 16)).state_dict()
    with pytest.raises(ValueError, match="8 patches are no square"):
        model_config(state)
    with pytest.raises(ValueError, match="how many heads a model of width 16 has"):
        model_config(state, image_size=(32, 16))
    config = model_config(state, image_size=(32, 16), heads=2, decoder_heads=2, norm_pix=False)
    MaskedAutoencoder(**config).load_state_dict(state)


@pytest.mark.parametrize("options", [{}, {"norm_pix": False}, {"mlp_ratio": 2.0}, {"channels": 1}])
def test_transformers_configuration_and_back(options):
    model = random_model(**options)
    theirs = transformers_config(model._hub_mixin_config)
    assert config_from_transformers(theirs, model.state_dict()) == model._hub_mixin_config


def test_transformers_has_square_images_only():
    with pytest.raises(ValueError, match="square images only, and this model's are 32×16"):
        transformers_config(nano((32, 16))._hub_mixin_config)


@pytest.mark.parametrize(
    ("change", "message"), [({"model_type": "vit"}, "of a 'vit'"), ({"hidden_act": "relu"}, "hidden_act is 'relu'")]
)
def test_another_models_configuration(state, change, message):
    with pytest.raises(ValueError, match=message):
        config_from_transformers(transformers_config(nano()._hub_mixin_config) | change, state)
