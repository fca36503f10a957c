import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipelines.errors import UserError
from pipelines.sources.open_source import open_source
from pipelines.sources.source import Source
from pipelines.views.image_views import EpochBatches, InOrder, Views, load_views
from pipelines.views.joined_maps import JoinedMaps, join_maps
from saliency.maps import FULL
from saliency.table.table import SaliencyTable
from tests.tiny_mae import write_maps

PIXELS, GRID = 64, (8, 8)


def png(array, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


def turned_jpeg(array):
    """The picture as a camera held on its side stores it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(array).transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=98, exif=exif)
    return buffer.getvalue()


def drawn_maps(count, side, seed=0):
    """Maps whose every row and column differ, from 0 to 255, as they are stored."""
    maps = np.random.default_rng(seed).integers(0, 256, (count, side, side)).astype(np.uint8)
    maps[:, 0, 0], maps[:, 1, 1] = 0, 255
    return maps


def pictured(maps, box, width, height, encode):
    """Images whose pixels are their maps: the map laid on ``box``, black elsewhere."""
    images = []
    for cells in maps:
        canvas = np.zeros((height, width), np.uint8)
        x0, y0, x1, y1 = (round(end * side) for end, side in zip(box, (width, height) * 2, strict=True))
        enlarged = Image.fromarray(cells).resize((x1 - x0, y1 - y0), Image.Resampling.NEAREST)
        canvas[y0:y1, x0:x1] = np.asarray(enlarged)
        images.append(encode(np.stack([canvas] * 3, -1)))
    return Source("pictures", pa.array([f"{i:03d}" for i in range(len(maps))]), images)


def patch_means(images):
    patches = images.double().mean(1).reshape(len(images), GRID[0], PIXELS // GRID[0], GRID[1], PIXELS // GRID[1])
    return patches.mean((2, 4)).flatten(1)


@pytest.mark.parametrize(
    ("box", "width", "height", "encode"),
    [
        (FULL, 320, 320, png),
        (FULL, 480, 240, png),
        (FULL, 240, 480, turned_jpeg),
        ((0.25, 0.0, 0.75, 1.0), 480, 240, png),
    ],
    ids=["square", "wide", "turned", "map of the centre"],
)
@pytest.mark.parametrize("augment", [True, False])
def test_an_image_and_its_map_go_through_the_same_view(tmp_path, box, width, height, encode, augment):
    maps = drawn_maps(40, 5)
    source = pictured(maps, box, width, height, encode)
    joined = join_maps(write_maps(tmp_path, source, maps=maps, boxes=[box] * 40), source, on_missing="error")
    views = Views(source, (PIXELS, PIXELS), augment=augment)
    (batch,) = load_views(views, EpochBatches(40, 40, 1, 1, seed=0), workers=0)
    found = joined.on_views(batch, GRID)
    assert found.shape == (40, 64)
    assert found.dtype == torch.float32
    pixels = patch_means(batch.images)
    assert float((found - pixels).abs().mean()) < 3

    # the test can fail: other views of the map are far off
    def error(boxes, flips, indices=batch.indices):
        batch_of = replace(batch, boxes=boxes, flips=flips, indices=indices)
        return float((joined.on_views(batch_of, GRID) - pixels).abs().mean(1)[chosen].mean())

    if augment:
        chosen = batch.flips
        assert 5 < int(chosen.sum()) < 35
        assert error(batch.boxes, torch.zeros_like(batch.flips)) > 20
        chosen = torch.ones(40, dtype=torch.bool)
        assert error(torch.tensor(FULL).expand(40, 4), batch.flips) > 20
    chosen = torch.ones(40, dtype=torch.bool)
    assert error(batch.boxes, batch.flips, np.roll(batch.indices, 1)) > 20
    assert error(batch.boxes, batch.flips) < 3


@pytest.fixture
def scenes():
    return open_source("shapes:12,size=32")


def test_maps_are_joined_by_key_and_caption_in_any_order(tmp_path, scenes):
    maps = np.random.default_rng(1).random((12, 4, 4))
    order = np.random.default_rng(2).permutation(12)
    write_maps(tmp_path, scenes.select(order), maps=maps[order])
    joined = join_maps(tmp_path, scenes, on_missing="error")
    assert joined.missing == 0
    np.testing.assert_array_equal(order[joined.rows], np.arange(12))
    selected = join_maps(tmp_path, scenes.select([7, 3]), on_missing="error")
    np.testing.assert_array_equal(order[selected.rows], [7, 3])


def test_a_source_without_captions_is_joined_by_key(tmp_path, scenes):
    write_maps(tmp_path, scenes)
    bare = Source("bare", scenes.keys, scenes.images)
    assert join_maps(tmp_path, bare, on_missing="error").rows.tolist() == list(range(12))


def test_missing_maps_are_named_or_flat(tmp_path, scenes):
    write_maps(tmp_path, scenes.select(range(4)))
    with pytest.raises(UserError) as caught:
        join_maps(tmp_path, scenes, on_missing="error")
    named = ", ".join(scenes.keys.to_pylist()[4:9])
    assert f"8 of 12 images have no map in {tmp_path}, first: {named};" in str(caught.value)
    assert "--on-missing random" in str(caught.value)
    joined = join_maps(tmp_path, scenes, on_missing="random")
    assert joined.missing == 8
    (batch,) = load_views(Views(scenes, (32, 32), augment=True), InOrder(12, 12), workers=0)
    saliency = joined.on_views(batch, (4, 4))
    assert saliency[:4].std(1).min() > 0
    assert not saliency[4:].any()


@pytest.mark.parametrize("on_missing", ["error", "random"])
def test_maps_of_another_source_are_refused(tmp_path, scenes, on_missing):
    write_maps(tmp_path, open_source("shapes:12,size=32,split=other"))
    with pytest.raises(UserError, match=r"no image of shapes:12,size=32 has a map.*shapes-train-size32-000000.*other"):
        join_maps(tmp_path, scenes, on_missing=on_missing)


@pytest.mark.parametrize("captioned", [12, 5])
def test_maps_of_other_captions_are_hinted_at(tmp_path, scenes, captioned):
    captions = ["something else"] * captioned + scenes.captions.to_pylist()[captioned:]
    write_maps(tmp_path, scenes, captions=captions)
    with pytest.raises(UserError, match="maps of other captions: check --captions"):
        join_maps(tmp_path, scenes, on_missing="error")


def test_a_folder_of_something_else(tmp_path, scenes):
    with pytest.raises(UserError, match="holds no saliency maps"):
        join_maps(tmp_path, scenes, on_missing="error")


def test_a_table_of_no_rows(tmp_path, scenes):
    write_maps(tmp_path, scenes.select([]), maps=np.zeros((0, 4, 4)))
    with pytest.raises(UserError, match=r"no image of .* has a map"):
        join_maps(tmp_path, scenes, on_missing="random")


def test_it_can_be_looked_up_for_any_part_of_a_batch(tmp_path, scenes):
    table = SaliencyTable(write_maps(tmp_path, scenes))
    joined = JoinedMaps(table, np.arange(12))
    views = Views(scenes, (32, 32), augment=False)
    (whole,) = load_views(views, InOrder(12, 12), workers=0)
    parts = list(load_views(views, InOrder(12, 5), workers=0))
    together = torch.cat([joined.on_views(part, (4, 4)) for part in parts])
    torch.testing.assert_close(together, joined.on_views(whole, (4, 4)))
    np.testing.assert_allclose(together.reshape(-1, 4, 4), table.raw_maps(np.arange(12)), rtol=1e-4, atol=1e-6)


def test_maps_that_are_not_numbers_are_refused(tmp_path, scenes, monkeypatch):
    folder = write_maps(tmp_path, scenes)
    assert join_maps(folder, scenes, on_missing="error").missing == 0
    strengths = np.where(np.arange(12) == 3, np.nan, 1).astype(np.float32)
    monkeypatch.setattr(SaliencyTable, "strengths", property(lambda _: strengths))
    with pytest.raises(UserError, match="1 of 12 saliency values"):
        join_maps(folder, scenes, on_missing="error")
