"""The video model against transformers' VideoMAE: weights copied over by hand, the same mask given to both, and folders
that either one wrote opened by the other."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import json

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from transformers import VideoMAEConfig, VideoMAEForPreTraining

from mae.formats.foreign import build, load_foreign
from mae.masks.masking import Masking
from mae.models.mask import Mask
from mae.models.video import VideoMaskedAutoencoder
from mae.training.checkpoints import load_model
from pipelines.errors import UserError
from pipelines.export.export import export

DEPTHS = {"blocks": ("videomae.encoder.layer", 3), "decoder_blocks": ("decoder.decoder_layers", 2)}
GRID = (4, 3, 3)


def reference(norm_pix: bool = True, **options) -> VideoMAEForPreTraining:
    """A small VideoMAE whose every weight is random, norms, biases and tokens too."""
    settings = {
        "image_size": 24,
        "patch_size": 8,
        "num_frames": 8,
        "tubelet_size": 2,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 64,
        "layer_norm_eps": 1e-6,
        "use_mean_pooling": False,
        "norm_pix_loss": norm_pix,
    }
    torch.manual_seed(0)
    model = VideoMAEForPreTraining(VideoMAEConfig(**settings | options)).eval()
    model.decoder.norm.eps = 1e-6  # the reference's own; transformers leaves torch's default
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def converted(theirs: VideoMAEForPreTraining) -> dict[str, Tensor]:
    """VideoMAE's weights under our names, by hand: positions are its buffers, keys have no bias."""
    state = theirs.state_dict()
    weights = {
        "pos_embed": theirs.videomae.embeddings.position_embeddings,
        "decoder_pos_embed": theirs.position_embeddings,
        "mask_token": state["mask_token"],
        "decoder_embed.weight": state["encoder_to_decoder.weight"],
    }
    whole = {
        "patch_embed.proj": "videomae.embeddings.patch_embeddings.projection",
        "norm": "videomae.layernorm",
        "decoder_norm": "decoder.norm",
        "decoder_pred": "decoder.head",
    }
    parts = {
        "norm1": "layernorm_before",
        "attn.proj": "attention.output.dense",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    for ours, (blocks, depth) in DEPTHS.items():
        for n in range(depth):
            whole |= {f"{ours}.{n}.{part}": f"{blocks}.{n}.{name}" for part, name in parts.items()}
            inner = f"{blocks}.{n}.attention.attention"
            weights[f"{ours}.{n}.attn.qkv.weight"] = torch.cat(
                [state[f"{inner}.{part}.weight"] for part in ("query", "key", "value")]
            )
            bias = state[f"{inner}.query.bias"]
            weights[f"{ours}.{n}.attn.qkv.bias"] = torch.cat(
                [bias, torch.zeros_like(bias), state[f"{inner}.value.bias"]]
            )
    for ours, name in whole.items():
        weights |= {f"{ours}.{kind}": state[f"{name}.{kind}"] for kind in ("weight", "bias")}
    return weights


def same_size(norm_pix: bool = True) -> VideoMaskedAutoencoder:
    return VideoMaskedAutoencoder(
        image_size=24,
        patch_size=8,
        frames=8,
        tubelet=2,
        width=32,
        depth=3,
        heads=4,
        decoder_width=16,
        decoder_depth=2,
        decoder_heads=2,
        norm_pix=norm_pix,
        positions="table",
    )


def ours(theirs: VideoMAEForPreTraining) -> VideoMaskedAutoencoder:
    model = same_size(theirs.config.norm_pix_loss)
    model.load_state_dict(converted(theirs), strict=True)
    return model.eval()


def clips(seed: int = 0) -> Tensor:
    """Normalised clips [B, 3, T, H, W]."""
    return torch.randn(3, 3, 8, 24, 24, generator=torch.Generator().manual_seed(seed))


def masks(kind: str) -> Mask:
    return Masking(kind, mask_ratio=0.67)(3, GRID, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("kind", ["tube", "random"])
def test_loss_and_prediction_are_equal(norm_pix: bool, kind: str) -> None:
    theirs = reference(norm_pix)
    model, videos, mask = ours(theirs), clips(), masks(kind)
    with torch.no_grad():
        expected = theirs(videos.transpose(1, 2), bool_masked_pos=mask.hidden)
        loss, prediction = model.predict(videos, mask)
        quick = model(videos, mask)
    at_hidden = prediction[mask.hidden].view(3, -1, prediction.shape[-1])
    torch.testing.assert_close(at_hidden, expected.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(loss, expected.loss, rtol=0, atol=1e-5)
    torch.testing.assert_close(quick, expected.loss, rtol=0, atol=1e-5)


def test_gradients_are_equal() -> None:
    theirs = reference()
    model, videos, mask = ours(theirs), clips(), masks("tube")
    theirs(videos.transpose(1, 2), bool_masked_pos=mask.hidden).loss.backward()
    model(videos, mask).backward()
    for name in ("patch_embed.proj.weight", "decoder_pred.weight", "mask_token"):
        other = {
            "patch_embed.proj.weight": theirs.videomae.embeddings.patch_embeddings.projection.weight,
            "decoder_pred.weight": theirs.decoder.head.weight,
            "mask_token": theirs.mask_token,
        }[name]
        torch.testing.assert_close(model.get_parameter(name).grad, other.grad, rtol=0, atol=1e-5)


def test_tokens_without_a_mask_are_equal() -> None:
    theirs = reference()
    with torch.no_grad():
        expected = theirs.videomae(clips().transpose(1, 2)).last_hidden_state
        torch.testing.assert_close(ours(theirs).encode(clips()), expected, rtol=0, atol=1e-5)


def test_a_folder_of_transformers_opens_here(tmp_path) -> None:
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    model = build(load_foreign(tmp_path))
    expected = ours(theirs).state_dict()
    assert isinstance(model, VideoMaskedAutoencoder)
    assert model.state_dict().keys() == expected.keys()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-7 if "pos_embed" in name else 0)


def test_what_is_exported_opens_there_and_predicts_the_same(tmp_path) -> None:
    torch.manual_seed(1)
    model = same_size().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pos_embed" not in name:  # keys' biases are random too: they change no attention
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "ours")
    export(tmp_path / "ours", "transformers", tmp_path / "theirs")
    theirs, info = VideoMAEForPreTraining.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    theirs.decoder.norm.eps = 1e-6
    mask = masks("tube")
    with torch.no_grad():
        expected = theirs.eval()(clips().transpose(1, 2), bool_masked_pos=mask.hidden).loss
        torch.testing.assert_close(model(clips(), mask), expected, rtol=0, atol=1e-5)
    assert load_model(tmp_path / "ours").frames == 8


def test_a_model_with_other_positions_is_not_exported(tmp_path) -> None:
    VideoMaskedAutoencoder(24, 8, 8, 2, 32, 1, 4, 16, 1, 2).save_pretrained(tmp_path / "ours")
    with pytest.raises(UserError, match="its own table of positions"):
        export(tmp_path / "ours", "transformers", tmp_path / "theirs")
    with pytest.raises(UserError, match="--to timm is for models of images"):
        export(tmp_path / "ours", "timm", tmp_path / "theirs")


def test_a_folder_that_is_not_whole_is_refused(tmp_path) -> None:
    reference(use_mean_pooling=True).save_pretrained(tmp_path / "pooled")
    with pytest.raises(ValueError, match="use_mean_pooling"):
        load_foreign(tmp_path / "pooled")
    reference().videomae.save_pretrained(tmp_path / "encoder")
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert config["model_type"] == "videomae"
    with pytest.raises(ValueError, match="missing"):
        load_foreign(tmp_path / "encoder")
