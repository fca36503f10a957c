"""Every method on every kind of tower: what it promises, and whom it refuses."""

from pathlib import Path

import open_clip
import pytest
import torch

from pipelines.build.options import BuildOptions
from pipelines.commandline.option import declared_options
from saliency.methods.methods import METHODS, POOLINGS, Method, check_method, layer_name, saliency_maps
from saliency.names import MOTION_METHODS
from saliency.towers.tower import Tower, load_tower
from tests.saliency.methods.test_attention import make_tower
from tests.tiny_clip import VISION, make_tiny_clip, save_tiny_clip

POOLING = {"timm": "average", "timm class token": "class token", "timm map": "attention", "coca": "attention"}
PAIRS = [(method, kind) for method in METHODS for kind in VISION]
ABLE = [(method, kind) for method, kind in PAIRS if POOLING.get(kind, kind) in METHODS[method].poolings]
UNABLE = [pair for pair in PAIRS if pair not in ABLE]


def make_pairs(tower, count=3):
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (count, 3, tower.size, tower.size), dtype=torch.uint8, generator=generator)
    return pixels, tower.encode_texts(["a dog", "two red cups", "snow on a hill"][:count])


@pytest.mark.parametrize(
    ("method", "kind"), [able for able in ABLE if able[0] != "scorecam" or able[1] == "class token"]
)
def test_many_captions_take_one_look(method, kind, monkeypatch):
    """K captions an image give the maps of one caption at a time, and each image goes through the tower once."""
    tower = make_tower(kind)
    pixels, _ = make_pairs(tower, 2)
    words = [["a dog", "snow"], ["two red cups", "a"], ["a hill", "the sea at night"]]
    texts = torch.stack([tower.encode_texts(each) for each in words])
    seen = []
    encode = tower.encode_images
    if method != "scorecam":  # it looks at masked images, for every caption
        monkeypatch.setattr(tower, "encode_images", lambda inputs: (seen.append(len(inputs)), encode(inputs))[1])
    maps, scores = saliency_maps(tower, pixels, texts, method=method)
    assert sum(seen) == (0 if method == "scorecam" else 2)
    assert maps.shape == (3, 2, *tower.grid)
    for captions, found, score in zip(texts, maps, scores, strict=True):
        alone, expected = saliency_maps(tower, pixels, captions, method=method)
        torch.testing.assert_close(found / maps.max(), alone / maps.max(), atol=1e-5, rtol=0)
        torch.testing.assert_close(score, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("method", "kind"), ABLE)
def test_maps_are_finite_and_follow_image_and_caption_alone(method, kind):
    tower = make_tower(kind)
    check_method(method, tower)
    pixels, texts = make_pairs(tower)
    maps, scores = saliency_maps(tower, pixels, texts, method=method)
    assert maps.dtype == scores.dtype == torch.float32
    assert maps.shape == (3, *tower.grid)
    assert maps.isfinite().all()
    assert (maps >= 0).all()
    assert not maps.requires_grad
    peak = maps.max()
    assert peak > 0
    with torch.no_grad():
        cosines = (tower.encode_images(tower.normalise(pixels)) * texts).sum(1)
    torch.testing.assert_close(scores, cosines, atol=1e-5, rtol=0)

    alone, score = saliency_maps(tower, pixels[1:2], texts[1:2], method=method)  # a pair's map is its own
    torch.testing.assert_close(alone[0] / peak, maps[1] / peak, atol=1e-5, rtol=0)
    torch.testing.assert_close(score[0], scores[1], atol=1e-5, rtol=0)
    other, _ = saliency_maps(tower, pixels[1:2], texts[2:3], method=method)
    assert (other[0] - maps[1]).abs().max() > 1e-3 * maps[1].max()  # and its caption's
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tower.model.modules())


@pytest.mark.parametrize(("method", "kind"), UNABLE)
def test_a_tower_that_a_method_cannot_read_is_refused(method, kind):
    tower = make_tower(kind)
    with pytest.raises(ValueError, match=f"--method {method} can't read a tower that pools by") as caught:
        check_method(method, tower)
    assert "\n" not in str(caught.value)
    advised = str(caught.value).partition("use one of ")[2].split(", ")
    assert "gradcam" in advised
    for able in advised:
        check_method(able, tower)


def test_a_method_is_a_row(monkeypatch):
    """A toy method, which numbers the cells: its maps and scores come through, and towers it can't read are refused."""

    def toy_maps(tower, inputs, texts):
        scores = (tower.encode_images(inputs) * texts).sum(-1)
        cells = torch.arange(1.0, tower.grid[0] * tower.grid[1] + 1).view(tower.grid)
        return cells.expand(*scores.shape, -1, -1), scores

    monkeypatch.setitem(METHODS, "toy", Method(toy_maps, ("class token",), "none"))
    tower = make_tower("class token")
    check_method("toy", tower)
    assert layer_name("toy", tower) == tower.layer.name
    maps, scores = saliency_maps(tower, *make_pairs(tower), method="toy")
    assert maps[:, 0, 0].tolist() == [1, 1, 1]
    assert not scores.requires_grad
    with pytest.raises(ValueError, match="--method toy can't read a tower that pools by average"):
        check_method("toy", make_tower("timm"))


def test_the_refusals_are_those_that_are_documented():
    refused = {(method, pooling) for method, row in METHODS.items() for pooling in set(POOLINGS) - set(row.poolings)}
    assert refused == {
        *((method, "convolutional") for method in ("grad-eclip", "legrad", "clip-es", "naclip")),
        *((method, "attention") for method in ("clip-es", "naclip", "hirescam", "eigengradcam")),
    }


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="--method is 'lime'; it must be one of gradcam, grad-eclip, .*scorecam"):
        check_method("lime", make_tower("class token"))


@pytest.mark.parametrize("method", ["grad-eclip", "legrad", "naclip"])
def test_blocks_of_an_unknown_kind_are_refused_with_what_to_use(method):
    model = make_tiny_clip()
    model.visual.transformer.resblocks[-1] = open_clip.transformer.CustomResidualAttentionBlock(32, 2, qk_norm=True)
    tower = Tower(model, open_clip.SimpleTokenizer(context_length=16))
    check_method("gradcam", tower)
    message = (
        r"can't read this tower: the attention of transformer\.resblocks\.1, a Custom.*; use one of gradcam, clip-es"
    )
    with pytest.raises(ValueError, match=message):
        check_method(method, tower)


def test_legrad_refuses_compiled_blocks():
    tower = make_tower("class token")
    tower.model.visual.transformer.resblocks[0].compile()
    check_method("grad-eclip", tower)
    with pytest.raises(ValueError, match="compiled blocks"):
        check_method("legrad", tower)


@pytest.mark.parametrize(
    ("method", "kind", "name"),
    [
        ("gradcam", "class token", "transformer.resblocks.1.ln_1"),
        ("scorecam", "coca", "transformer.resblocks.1"),
        ("clip-es", "timm", "trunk.blocks.5.norm1"),
        ("naclip", "average", "transformer.resblocks.1.attn"),
        ("grad-eclip", "timm class token", "trunk.blocks.5.attn"),
        ("grad-eclip", "coca", "attn_pool"),
        ("legrad", "class token", "transformer.resblocks.0-1.attn"),
        ("legrad", "timm map", "trunk.blocks.0-5 trunk.attn_pool"),
    ],
)
def test_a_method_says_what_it_reads(method, kind, name):
    assert layer_name(method, make_tower(kind)) == name


@pytest.mark.parametrize(("method", "kind"), [pair for pair in ABLE if pair[1] in ("class token", "coca")])
def test_a_bfloat16_trunk_moves_the_maps_little(method, kind):
    model = make_tiny_clip(kind)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    exact = Tower(model, tokenizer, precision="fp32")
    pixels, texts = make_pairs(exact)
    maps, scores = saliency_maps(exact, pixels, texts, method=method)
    rough, rough_scores = saliency_maps(Tower(model, tokenizer, precision="bf16"), pixels, texts, method=method)
    assert rough.dtype == rough_scores.dtype == torch.float32
    assert not torch.equal(rough, maps)  # else nothing ran in bfloat16
    torch.testing.assert_close(rough_scores, scores, atol=0.02, rtol=0)
    assert torch.corrcoef(torch.stack([rough.flatten(), maps.flatten()]))[0, 1] > 0.95


@pytest.mark.parametrize("kind", ["coca", "timm map", "timm class token"])
def test_towers_of_other_kinds_load(kind, tmp_path):
    tower = load_tower(f"local-dir:{save_tiny_clip(tmp_path, kind)}")
    assert tower.layer.pooling == POOLING[kind]
    pixels, _ = make_pairs(tower)
    features = tower.encode_images(tower.normalise(pixels))
    assert features.shape == (3, tower.encode_texts(["a"]).shape[1])
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))


def test_the_help_and_the_documentation_name_every_method():
    (declared,) = (each for each in declared_options(BuildOptions) if each.name == "method")
    assert declared.choices == (*METHODS, *MOTION_METHODS)
    guide, results = (
        (Path(__file__).parents[3] / "docs" / shelf / "maps.md").read_text() for shelf in ("guide", "results")
    )
    for method, row in METHODS.items():
        assert guide.count(f"| `{method}` |") == 1, method  # its equation
        assert row.paper in guide, method
        assert results.count(f"| `{method}` |") == 4, method  # what it was measured at, and its cost
