import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from saliency.methods import saliency_maps
from saliency.towers import Tower, load_tower
from tests.tiny_clip import make_tiny_clip, save_tiny_clip

LAYERS = {
    "class token": ("transformer.resblocks.1.ln_1", (4, 4)),
    "average": ("transformer.resblocks.1.ln_1", (4, 4)),
    "attention": ("transformer.resblocks.1", (4, 4)),
    "convolutional": ("layer4", (2, 2)),
    "timm": ("trunk.blocks.5.norm1", (10, 10)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_the_layer_follows_the_pooling(kind, tmp_path):
    tower = load_tower(f"local-dir:{save_tiny_clip(tmp_path, kind)}")
    assert (tower.layer.name, tower.grid) == LAYERS[kind]


@pytest.mark.parametrize("kind", ["class token", "attention", "convolutional", "timm"])
def test_the_cut_changes_no_gradient(kind):
    """Against autograd through the whole model, uncut, at the same layer."""
    model = make_tiny_clip(kind)
    tower = Tower(model, open_clip.SimpleTokenizer(context_length=16))
    pixels = torch.randint(0, 256, (3, 3, tower.size, tower.size), dtype=torch.uint8)
    texts = tower.encode_texts(["a", "b c", "d"])
    maps, scores = saliency_maps(tower, pixels, texts)

    model.requires_grad_(True)
    kept = []
    handle = tower.layer.module.register_forward_hook(lambda _m, _i, out: kept.append(out))
    full = (tower.encode_images(tower.normalise(pixels)) * texts).sum(1)
    handle.remove()
    (gradients,) = torch.autograd.grad(full.sum(), kept[0])
    activations, gradients = tower.to_grid(kept[0]), tower.to_grid(gradients)
    expected = (gradients.mean((2, 3), keepdim=True) * activations).sum(1).relu()
    torch.testing.assert_close(maps, expected.detach(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(scores, full.detach())


def test_a_map_does_not_depend_on_its_batch():
    tower = Tower(make_tiny_clip(), open_clip.SimpleTokenizer(context_length=16))
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    texts = tower.encode_texts(["a", "b", "c", "d"])
    together, _ = saliency_maps(tower, pixels, texts)
    alone = torch.cat([saliency_maps(tower, pixels[i : i + 1], texts[i : i + 1])[0] for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(together[0], together[1])


def test_texts_and_images_must_be_pairs():
    tower = Tower(make_tiny_clip(), open_clip.SimpleTokenizer(context_length=16))
    with pytest.raises(ValueError, match="2 images but 1 texts"):
        saliency_maps(tower, torch.zeros(2, 3, 32, 32, dtype=torch.uint8), tower.encode_texts(["a"]))


def test_nothing_before_the_layer_keeps_a_graph():
    tower = Tower(make_tiny_clip(), open_clip.SimpleTokenizer(context_length=16))
    seen = []
    handle = tower.model.visual.transformer.resblocks[0].register_forward_hook(lambda _m, _i, out: seen.append(out))
    saliency_maps(tower, torch.zeros(1, 3, 32, 32, dtype=torch.uint8), tower.encode_texts(["a"]))
    handle.remove()
    assert seen[0].grad_fn is None
    assert not any(p.requires_grad for p in tower.model.parameters())
    assert not tower.layer.module._forward_hooks


def test_preprocessing_equals_open_clips(tmp_path):
    clip = f"local-dir:{save_tiny_clip(tmp_path)}"
    _, _, transform = open_clip.create_model_and_transforms(clip)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8))
    tower = load_tower(clip)
    ours = tower.normalise(torch.from_numpy(tower.squash(image).copy())[None])[0]
    torch.testing.assert_close(ours, transform(image), atol=1e-5, rtol=0)


def test_a_crop_box_shows_that_part():
    tower = Tower(make_tiny_clip(), open_clip.SimpleTokenizer(context_length=16))
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, 32:] = 200
    assert (tower.squash(Image.fromarray(pixels), (0.5, 0, 1, 1)) == 200).all()


def test_weights_hash_tells_weights_apart(tmp_path):
    hashes = {Tower(make_tiny_clip(seed=s), open_clip.SimpleTokenizer()).weights_sha256 for s in (0, 0, 1)}
    assert len(hashes) == 2


def test_open_ai_weights_get_quick_gelu(tmp_path):
    """open_clip only warns when a tag was trained with QuickGELU and the model's name does not say so."""
    weights = tmp_path / "w.safetensors"
    from safetensors.torch import save_file

    config = open_clip.get_model_config("ViT-B-32")
    assert not config.get("quick_gelu")
    assert open_clip.get_pretrained_cfg("ViT-B-32", "openai")["quick_gelu"]
    with pytest.MonkeyPatch.context() as patch:
        asked = {}

        def create(name, pretrained, **options):
            asked.update(options, name=name, pretrained=pretrained)
            return make_tiny_clip()

        patch.setattr(open_clip, "create_model", create)
        load_tower("ViT-B-32", "openai")
        assert asked["force_quick_gelu"] is True
        save_file({"x": torch.zeros(1)}, weights)
        load_tower("ViT-B-32", "laion2b_s34b_b79k")
        assert asked["force_quick_gelu"] is False


@pytest.mark.parametrize(
    ("clip", "pretrained", "message"),
    [
        ("ViT-B-16", None, "needs --pretrained"),
        ("ViT-Z-99", "openai", "not an open_clip model"),
        ("ViT-B-16", "nonsense", "neither a file nor a tag of ViT-B-16; its tags: .*openai"),
        ("ViT-B-16", "openai", "can't be downloaded.*local-dir:FOLDER"),
        ("hf-hub:nobody/nothing", None, "can't be downloaded"),
        ("local-dir:/no/such/folder", None, "can't be loaded.*open_clip_config.json"),
    ],
)
def test_what_is_not_there_is_one_line(clip, pretrained, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_tower(clip, pretrained)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["no weights", "no config", "truncated", "other architecture"])
def test_a_damaged_local_dir_is_one_line(tmp_path, damage):
    save_tiny_clip(tmp_path)
    weights, config = tmp_path / "open_clip_model.safetensors", tmp_path / "open_clip_config.json"
    if damage == "no weights":
        weights.unlink()
    elif damage == "no config":
        config.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        content = json.loads(config.read_text())
        content["model_cfg"]["vision_cfg"]["width"] = 64
        config.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="can't be loaded") as caught:
        load_tower(f"local-dir:{tmp_path}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
