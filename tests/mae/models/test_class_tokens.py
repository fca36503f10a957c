"""Several class tokens: the encoder against transformers' Pixio, both fast paths, pooling, files, streams, video."""

import pytest
import torch

from mae.evaluation.classifier import vision_transformer
from mae.evaluation.kept_encoder import KeptEncoder
from mae.formats.interchange import from_timm, model_config, to_timm
from mae.mask_learners.attention import Teacher
from mae.masks.masking import Masking
from mae.models.video import VideoMaskedAutoencoder, inflate
from mae.models.vit import MaskedAutoencoder
from mae.recovery.stream_encoder import StreamEncoder
from mae.training.flops import training_flops
from tests.tiny_mae import nano

TOKENS = 5


def drawn(model):
    """With weights that all differ, positions and biases too."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 8)
    return model.eval()


def several(tokens=TOKENS, **options):
    torch.manual_seed(0)
    return drawn(nano(class_tokens=tokens, **options))


def images(count=2):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_one_is_the_model_that_there_was():
    torch.manual_seed(0)
    one = nano(class_tokens=1)
    torch.manual_seed(0)
    usual = nano()
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), usual.state_dict().values(), strict=True))
    assert one.pos_embed.shape == (1, 17, 16)
    assert torch.equal(one.features(images(), "cls"), usual.encode(images())[:, 0])


@torch.no_grad()
def test_the_encoder_is_pixios():
    pixio = pytest.importorskip("transformers.models.pixio")
    model = several()
    config = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 4, "patch_size": 8}
    theirs = pixio.PixioModel(
        pixio.PixioConfig(image_size=32, n_cls_tokens=TOKENS, qkv_bias=True, layer_norm_eps=1e-6, **config)
    )
    state = model.state_dict()
    parts = {"layernorm_before": "norm1", "layernorm_after": "norm2", "attention.o_proj": "attn.proj"}
    parts |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    weights = {"embeddings.cls_token": state["cls_token"], "embeddings.position_embeddings": state["pos_embed"]}
    for kind in ("weight", "bias"):
        weights[f"embeddings.patch_embeddings.projection.{kind}"] = state[f"patch_embed.proj.{kind}"]
        weights[f"layernorm.{kind}"] = state[f"norm.{kind}"]
        weights |= {f"layers.0.{name}.{kind}": state[f"blocks.0.{ours}.{kind}"] for name, ours in parts.items()}
        joint = zip("qkv", state[f"blocks.0.attn.qkv.{kind}"].chunk(3), strict=True)
        weights |= {f"layers.0.attention.{name}_proj.{kind}": part for name, part in joint}
    theirs.load_state_dict(weights)
    found = theirs.eval()(images())
    assert torch.allclose(model.encode(images()), found.last_hidden_state, atol=1e-5)
    assert torch.allclose(model.features(images(), "cls"), found.pooler_output, atol=1e-5), "their mean"


@torch.no_grad()
def test_the_fast_loss_is_the_plain_one_and_costs_what_is_counted():
    model = several()
    mask = Masking()(2, (4, 4), generator=torch.Generator())
    plain = model.predict(images(), mask)
    assert plain.prediction.shape == (2, 16, 192)
    assert model(images(), mask).item() == pytest.approx(plain.loss.item(), rel=1e-5)
    assert training_flops(model, 0.75) > training_flops(nano(), 0.75)
    tokens = model.encode(images())
    assert tokens.shape == (2, 21, 16)
    assert torch.allclose(model.features(images()), tokens[:, TOKENS:].mean(1))
    kept = KeptEncoder(model, 0.5, "center")
    assert kept.count == 8
    seen = model.encode_visible(images(), kept.kept(images()))
    assert torch.equal(kept.features(images(), "cls"), seen[:, :TOKENS].mean(1))


@torch.no_grad()
def test_timm_holds_them_as_a_class_token_and_registers():
    model = several()
    weights = to_timm(model.state_dict())
    assert (weights["cls_token"].shape[1], weights["reg_token"].shape[1]) == (1, TOKENS - 1)
    back = from_timm(weights)
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in back.items())
    config = model_config(back, heads=2)
    assert config["class_tokens"] == TOKENS
    network = vision_transformer(model.state_dict(), dict(model._hub_mixin_config), 0.0).eval()
    assert torch.allclose(network.forward_features(images()), model.encode(images()), atol=1e-5)


@torch.no_grad()
def test_it_is_saved_and_loaded(tmp_path):
    several().save_pretrained(tmp_path)
    loaded = MaskedAutoencoder.from_pretrained(tmp_path)
    assert loaded.class_tokens == TOKENS
    assert torch.equal(loaded.encode(images()), several().encode(images()))


@torch.no_grad()
def test_a_teachers_attention_is_the_mean_of_the_class_tokens():
    model = several()
    positions = model.pos_embed
    found = Teacher(model)(model.patchify(images()), positions)
    x = torch.cat([model.cls_token.expand(2, -1, -1), model.embed(images())], 1) + positions
    block = model.blocks[0]
    query, key, _ = block.attn.qkv(block.norm1(x)).view(2, 21, 3, 2, 8).permute(2, 0, 3, 1, 4)
    rows = (query @ key.transpose(2, 3) / 8**0.5).softmax(3)[:, :, :TOKENS, TOKENS:]
    assert torch.allclose(found, rows.mean((1, 2)), atol=1e-6)


@torch.no_grad()
def test_videos_have_them_too_and_streams_replace_them():
    torch.manual_seed(0)
    options = {"frames": 4, "tubelet": 2, "width": 16, "depth": 2, "heads": 2, "decoder_width": 16}
    options |= {"decoder_depth": 2, "decoder_heads": 2, "image_size": 16, "patch_size": 8}
    model = drawn(VideoMaskedAutoencoder(**options, class_token=True, class_tokens=TOKENS))
    clips = torch.randn(2, 3, 4, 16, 16)
    mask = Masking("tube", mask_ratio=0.5)(2, model.grid, generator=torch.Generator())
    assert model(clips, mask).item() == pytest.approx(model.predict(clips, mask).loss.item(), rel=1e-5)
    assert model.encode(clips).shape == (2, 8 + TOKENS, 16)
    assert VideoMaskedAutoencoder(**options, class_tokens=TOKENS).class_tokens == 0
    video = inflate(several(), 4)
    assert video.class_tokens == TOKENS
    still = images()[:, :, None].expand(-1, -1, 4, -1, -1)
    assert torch.allclose(video.embed(still), several().embed(images()).repeat(1, 2, 1), atol=1e-5)
    frames = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    stream = StreamEncoder(model)
    stream.push(frames)
    assert stream.window()[0].shape == (1, TOKENS + 4, 16)
