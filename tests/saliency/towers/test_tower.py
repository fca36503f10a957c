import json
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from PIL import Image

from saliency.methods.methods import saliency_maps
from saliency.towers.input_size import set_input_size
from saliency.towers.tower import Tower, load_tower
from tests.tiny_clip import PREPROCESS, TEXT, VISION, make_tiny_clip, save_tiny_clip

KINDS = sorted(VISION)

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


@pytest.mark.parametrize("size", [(1500, 1000), (64, 70), (63, 500), (10, 300), (20, 20)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_whole_images_are_resized_as_by_pillow(size, interpolation):
    tower = Tower(make_tiny_clip(), open_clip.SimpleTokenizer(context_length=16))
    tower.interpolation = interpolation
    coarse = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)  # steeper than photographs
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    theirs = np.asarray(image.resize((32, 32), getattr(Image.Resampling, interpolation.upper()))).transpose(2, 0, 1)
    difference = np.abs(tower.squash(image).astype(int) - theirs)
    assert difference.max() <= 1
    assert difference.mean() < 0.04
    assert difference.max() == 0 or min(size) >= 64


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


# another input size


def positions(model):
    """Where a tower keeps its position embeddings, as [grid's cells, C] without those of tokens that are no patches."""
    visual = model.visual
    if hasattr(visual, "trunk"):
        prefix = 0 if visual.trunk.no_embed_class else visual.trunk.num_prefix_tokens
        return visual.trunk.pos_embed[0, :prefix], visual.trunk.pos_embed[0, prefix:]
    kept = visual.attnpool if hasattr(visual, "attnpool") else visual
    return kept.positional_embedding[:1], kept.positional_embedding[1:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.5, 1.5, 2])
def test_another_size_interpolates_the_position_embeddings(kind, factor, tmp_path):
    """Against Pillow's bicubic filter, channel by channel; all other weights are as they were."""
    clip = f"local-dir:{save_tiny_clip(tmp_path, kind)}"
    own = load_tower(clip)
    tower = load_tower(clip, size=int(own.size * factor))
    grid = tuple(int(cells * factor) for cells in own.grid)
    assert (tower.size, tower.grid, tower.layer.name) == (int(own.size * factor), grid, own.layer.name)
    assert tuple(tower.model.visual.preprocess_cfg["size"]) == (tower.size, tower.size)

    (token, before), (same_token, after) = positions(own.model), positions(tower.model)
    channels = before.T.reshape(-1, *own.grid).numpy()
    resized = [Image.fromarray(c).resize(grid[::-1], Image.Resampling.BICUBIC) for c in channels]
    expected = torch.from_numpy(np.stack([np.asarray(c) for c in resized])).flatten(1).T
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(token, same_token)
    states = own.model.state_dict(), tower.model.state_dict()
    assert states[0].keys() == states[1].keys()
    moved = {name for name in states[0] if not _equal(states[0][name], states[1][name])}
    assert len(moved) == 1


def _equal(one, other):
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_at_another_size_are_finer_and_follow_the_image(kind, tmp_path):
    clip = f"local-dir:{save_tiny_clip(tmp_path, kind)}"
    own = load_tower(clip)
    tower = load_tower(clip, size=2 * own.size)
    pixels = torch.randint(0, 256, (2, 3, tower.size, tower.size), dtype=torch.uint8)
    maps, scores = saliency_maps(tower, pixels, tower.encode_texts(["a", "b"]))
    assert maps.shape == (2, 2 * own.grid[0], 2 * own.grid[1])
    assert maps.isfinite().all()
    assert scores.isfinite().all()
    assert not torch.equal(maps[0], maps[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_models_own_size_changes_not_a_bit(kind, tmp_path):
    clip = f"local-dir:{save_tiny_clip(tmp_path, kind)}"
    plain = load_tower(clip)
    asked = load_tower(clip, size=plain.size)
    pixels = torch.randint(0, 256, (2, 3, plain.size, plain.size), dtype=torch.uint8)
    texts = plain.encode_texts(["a", "b"])
    for one, other in zip(saliency_maps(plain, pixels, texts), saliency_maps(asked, pixels, texts), strict=True):
        assert torch.equal(one, other)
    assert (plain.size, plain.grid, plain.weights_sha256) == (asked.size, asked.grid, asked.weights_sha256)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "convolutional"])
def test_another_size_is_open_clips_own(kind, tmp_path):
    """A checkpoint that open_clip itself loads at another size; it refuses its ResNets."""
    clip = f"local-dir:{save_tiny_clip(tmp_path, kind)}"
    size = 2 * load_tower(clip).size
    ours, theirs = load_tower(clip, size=size).model.state_dict(), open_clip.create_model(clip, force_image_size=size)
    assert all(_equal(ours[name], value) for name, value in theirs.state_dict().items())


def test_the_weights_are_the_same_at_any_size(tmp_path):
    clip = f"local-dir:{save_tiny_clip(tmp_path)}"
    assert load_tower(clip, size=48).weights_sha256 == load_tower(clip).weights_sha256


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("class token", 44, "patches of 8 pixels do not fill: take 40 or 48 .*own size is 32"),
        ("convolutional", 100, "patches of 32 pixels do not fill: take 96 or 128 .*own size is 64"),
        ("timm", 170, "patches of 16 pixels do not fill: take 160 or 176 .*own size is 160"),
        ("class token", 4, "--clip-size is 4; it must be between 8 and 4096"),
        ("class token", 0, "--clip-size is 0; it must be between 8 and 4096"),
        ("class token", 100_000, "it must be between 8 and 4096"),
    ],
)
def test_a_size_that_does_not_suit_names_those_that_do(kind, size, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        load_tower(f"local-dir:{save_tiny_clip(tmp_path, kind)}", size=size)
    assert "\n" not in str(caught.value)


def test_a_trunk_with_fixed_positions_is_refused():
    model = make_tiny_clip("timm")
    kept = SimpleNamespace(pos_embed=1, patch_embed=SimpleNamespace(feat_ratio=lambda: 16))
    with pytest.raises(ValueError, match="can't be set for a timm trunk of class SimpleNamespace.*--tiles"):
        set_input_size(SimpleNamespace(trunk=kept, preprocess_cfg=model.visual.preprocess_cfg), 160, 320)


def test_a_model_whose_own_size_its_patches_do_not_fill_keeps_it():
    """As SigLIP's 384 pixels in patches of 14."""
    model = CLIP(16, VISION["class token"] | {"image_size": 36}, TEXT)
    model.visual.preprocess_cfg = PREPROCESS | {"size": 36}
    assert Tower(model, open_clip.SimpleTokenizer(), size=36).grid == (4, 4)
    assert Tower(model, open_clip.SimpleTokenizer(), size=40).grid == (5, 5)
