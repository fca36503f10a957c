"""Maps of pictures at hand are those that `build-saliency` stores."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import saliency_mae as sm
from pipelines.build.build_saliency import build_saliency
from pipelines.build.options import BuildOptions
from pipelines.plots import overlay
from saliency.maps import quantise
from saliency.table.table import SaliencyTable

CAPTIONS = ["a red circle", "two dogs on a sofa", "snow"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of JPEGs with captions, large enough to be decoded at a part of their size."""
    folder = tmp_path_factory.mktemp("photos")
    rng, lines = np.random.default_rng(0), []
    for i, caption in enumerate(CAPTIONS):
        small = Image.fromarray(rng.integers(0, 255, (6, 8, 3)).astype(np.uint8))
        small.resize((480 + 31 * i, 360), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=90)
        lines.append(json.dumps({"file_name": f"{i}.jpg", "caption": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def clip(tiny_clip):
    return sm.load_clip(tiny_clip, device="cpu")


def stored(photos, out, tiny_clip, **options):
    build_saliency(BuildOptions(str(photos), out, clip=tiny_clip, **options), quiet=True)
    return SaliencyTable(out)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 1},
        {"method": "legrad"},
        {"tiles": 2, "grid": 10},
        {"fit": "crop", "grid": 3},
    ],
    ids=str,
)
def test_a_path_has_the_map_that_is_stored(photos, clip, tiny_clip, tmp_path, options):
    table = stored(photos, tmp_path / "maps", tiny_clip, **options)
    files = [photos / f"{i}.jpg" for i in range(3)]
    found = sm.heatmap(clip, files, CAPTIONS, **options)
    cells, vmin, scale = quantise(np.stack([each.map for each in found]))
    rows = np.arange(3)
    assert np.array_equal(cells, table.maps(rows))
    assert np.array_equal(
        vmin[:, None, None] + scale[:, None, None] * cells.astype(np.float32) / 255, table.raw_maps(rows)
    )
    assert np.float32([each.score for each in found]).tolist() == table.clip_scores.tolist()
    assert np.array_equal(np.float32([each.box for each in found]), table.boxes(rows))
    assert [each.size for each in found] == [(360, 480), (360, 511), (360, 542)]


def test_one_picture_with_one_caption_and_with_several(photos, clip):
    path = str(photos / "0.jpg")
    alone = sm.heatmap(clip, path, CAPTIONS[0], batch_size=1)
    several = sm.heatmap(clip, path, CAPTIONS, batch_size=1)
    assert [each.caption for each in several] == CAPTIONS
    np.testing.assert_allclose(alone.map, several[0].map, atol=1e-5 * alone.strength)
    assert alone.score == pytest.approx(several[0].score, abs=1e-6)
    assert len({each.score for each in several}) == 3
    assert alone.map.dtype == np.float32
    assert alone.map.min() >= 0
    assert alone.strength == alone.map.max() > 0
    assert np.array_equal(np.asarray(alone), alone.map)
    assert repr(alone).startswith("Heatmap('a red circle', 4×4, score ")


def test_every_form_of_a_picture_has_the_same_map(photos, clip):
    image = Image.open(photos / "0.jpg").convert("RGB")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = sm.heatmap(clip, image, "snow").map
    for form in (array, array / 255, np.float32(array / 255), tensor, tensor / 255, tensor.double() / 255):
        assert np.array_equal(sm.heatmap(clip, form, "snow").map, expected)
    for batch in ([image, image], np.stack([array, array]), torch.stack([tensor, tensor]), [image, tensor]):
        first, second = sm.heatmap(clip, batch, ["snow", "fog"])
        assert np.allclose(first.map, expected, rtol=1e-4, atol=1e-9)
        assert second.caption == "fog"


def test_a_turned_or_transparent_image_is_made_upright_rgb(photos, clip):
    image = Image.open(photos / "0.jpg").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    turned = sm.heatmap(clip, Image.open(buffer), "snow")
    assert turned.size == (480, 360)
    assert np.array_equal(turned.map, sm.heatmap(clip, image.transpose(Image.Transpose.ROTATE_270), "snow").map)
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    white = Image.new("RGB", (64, 64), (255, 255, 255))
    assert np.array_equal(sm.heatmap(clip, clear, "snow").map, sm.heatmap(clip, white, "snow").map)


@pytest.mark.parametrize(
    ("picture", "line"),
    [
        ("nothing.jpg", "nothing.jpg can't be read: No such file or directory"),
        (np.zeros((3, 8, 8), np.uint8), r"a picture as array has the shape [H, W, 3], not [3, 8, 8]"),
        (torch.zeros(8, 8, 3), r"a picture as tensor has the shape [3, H, W], not [8, 8, 3]"),
        (torch.full((3, 8, 8), 2.0), "pixels lie in 2..2: floats go from 0 to 1, and are not normalised"),
        (torch.full((3, 8, 8), float("nan")), "pixels lie in nan..nan"),
        (np.zeros((8, 8, 3), np.int64), "pixels are int64: give uint8 in 0..255, or floats in 0..1"),
        (np.zeros((3, 8, 3), np.uint8), "too small"),
        (7, "int is no picture"),
    ],
    ids=["missing", "array", "tensor", "range", "nan", "integers", "small", "number"],
)
def test_what_is_no_picture_is_one_line(clip, picture, line):
    with pytest.raises(sm.UserError) as error:
        sm.heatmap(clip, [picture], ["snow"])
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_torn_file_is_named(clip, tmp_path):
    (tmp_path / "torn.jpg").write_bytes(b"torn")
    with pytest.raises(sm.UserError, match="torn.jpg can't be used: not an image"):
        sm.heatmap(clip, tmp_path / "torn.jpg", "snow")


def test_captions_and_images_have_to_fit(photos, clip):
    files = [photos / "0.jpg", photos / "1.jpg"]
    for captions, said in (("snow", "one caption"), (["snow"], "1 captions"), (CAPTIONS, "3 captions")):
        with pytest.raises(sm.UserError, match=f"2 images and {said}: give a list with a caption for each image"):
            sm.heatmap(clip, files, captions)
    with pytest.raises(sm.UserError, match="the caption ' ' says nothing"):
        sm.heatmap(clip, files, ["snow", " "])


def test_options_are_refused_as_the_command_refuses_them(photos, clip):
    file = photos / "0.jpg"
    with pytest.raises(sm.UserError, match="--method 'cam' is not one of: gradcam, grad-eclip"):
        sm.heatmap(clip, file, "snow", "cam")
    with pytest.raises(sm.UserError, match="--grid is 300; it must be between 1 and 256"):
        sm.heatmap(clip, file, "snow", grid=300)
    with pytest.raises(sm.UserError, match="--clip no-clip needs --pretrained"):
        sm.load_clip("no-clip", device="cpu")


def test_a_map_on_its_image(photos, clip):
    heat = sm.heatmap(clip, photos / "0.jpg", "snow", fit="crop")
    laid = heat.on_image()
    assert laid.shape == (360, 480)
    assert laid[:, :60].max() == laid[:, -60:].max() == 0  # beside the central square
    assert laid[:, 60:-60].max() == pytest.approx(heat.strength, rel=0.01)
    assert heat.on_image((36, 48)).shape == (36, 48)


def test_an_overlay_is_the_one_of_the_galleries(photos, clip):
    path = photos / "0.jpg"
    heat, pixels = sm.heatmap(clip, path, "snow"), np.asarray(Image.open(path))
    drawn = sm.overlay(path, heat)
    assert drawn.size == (480, 360)
    assert np.array_equal(np.asarray(drawn), overlay(pixels, heat.on_image()))
    assert np.array_equal(np.asarray(sm.overlay(pixels, heat.map)), np.asarray(drawn))
    empty = np.asarray(sm.overlay(path, np.zeros((2, 2))))
    assert np.abs(empty - 0.45 * pixels).max() < 3  # darker, without a colour
    for wrong in (-heat.map, heat.map[0], heat.map * np.nan):
        with pytest.raises(sm.UserError, match=r"a map is an array \[h, w\] of finite numbers ≥ 0"):
            sm.overlay(path, wrong)
