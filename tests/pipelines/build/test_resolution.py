"""Finer maps through the whole line: built at another input size and through windows, read back, pretrained with."""

import numpy as np
import pytest
import torch

from pipelines.build.build_saliency import BuildOptions, build_saliency
from pipelines.build.remade_maps import Remaker
from pipelines.errors import UserError
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.pretrain import pretrain
from pipelines.sources.images import decode_rgb
from pipelines.sources.open_source import open_source
from saliency.methods.windows import map_windows, squash_windows
from saliency.table.table import SaliencyTable
from saliency.towers.tower import load_tower

SCENES = "shapes:6,size=48"


def build(out, clip, **options):
    build_saliency(BuildOptions(SCENES, out, **{"clip": clip, "batch_size": 4} | options), quiet=True)
    return SaliencyTable(out)


@pytest.mark.parametrize(
    ("options", "grid"),
    [
        ({}, 4),
        ({"tiles": 2}, 6),
        ({"tiles": 3}, 8),
        ({"clip_size": 64}, 8),
        ({"clip_size": 64, "tiles": 3}, 16),
        ({"tiles": 3, "grid": 5}, 5),
        ({"grid": 28}, 28),
    ],
)
def test_the_grid_is_the_finest_there_is_unless_told(tmp_path, tiny_clip, options, grid):
    table = build(tmp_path / "maps", tiny_clip, **options)
    assert table.grid == grid
    assert table.raw_maps(np.arange(6)).shape == (6, grid, grid)
    assert table.metadata["tiles"] == options.get("tiles", 1)
    assert table.metadata["image_size"] == options.get("clip_size", 32)


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_maps_are_those_of_the_windows(tmp_path, tiny_clip, fit):
    table = build(tmp_path / "maps", tiny_clip, tiles=2, clip_size=48, fit=fit)
    tower, source = load_tower(tiny_clip, size=48), open_source(SCENES)
    for i in (0, 5):
        box = tuple(float(value) for value in table.boxes(np.asarray([i]))[0])
        looks = squash_windows(tower, decode_rgb(source.read_image(i)), box, 2)
        texts = tower.encode_texts([source.caption(i)])
        raw, score = map_windows(tower, torch.from_numpy(looks)[None], texts, method="gradcam", tiles=2, grid=9)
        np.testing.assert_allclose(table.raw_maps(np.asarray([i])), raw.numpy(), atol=float(raw.max()) / 400)
        assert table.clip_scores[i] == pytest.approx(score.item(), abs=1e-5)


def test_the_batch_size_is_of_no_matter(tmp_path, tiny_clip):
    tables = [build(tmp_path / str(size), tiny_clip, tiles=2, batch_size=size) for size in (1, 4, 6)]
    stored = [table.maps(np.arange(6)).astype(int) for table in tables]
    for other in stored[1:]:
        assert np.abs(other - stored[0]).max() <= 1


def test_maps_can_be_made_again_from_what_their_table_says(tmp_path, tiny_clip):
    table = build(tmp_path / "maps", tiny_clip, tiles=2, clip_size=40)
    source, again = open_source(SCENES), Remaker(table)
    looks = [again.look(source.read_image(i)) for i in range(6)]
    made = again.maps(looks, [source.caption(i) for i in range(6)])
    stored = table.raw_maps(np.arange(6))
    np.testing.assert_allclose(made, stored, atol=stored.max() / 200)


@pytest.mark.parametrize(
    ("change", "named"), [({"tiles": 3}, "tiles 2 → 3"), ({"clip_size": 64}, "image_size 32 → 64")]
)
def test_other_windows_are_other_settings(tmp_path, tiny_clip, change, named):
    build(tmp_path / "maps", tiny_clip, tiles=2, grid=6)
    with pytest.raises(UserError, match=f"other settings.*{named}"):
        build(tmp_path / "maps", tiny_clip, **{"tiles": 2, "grid": 6} | change)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"clip_size": 33}, "--clip-size is 33.*take 32 or 40"), ({"clip_size": 0}, "--clip-size is 0")],
)
def test_a_size_that_does_not_suit_is_the_users_mistake(tmp_path, tiny_clip, options, message):
    with pytest.raises(UserError, match=message):
        build(tmp_path / "maps", tiny_clip, **options)
    assert not (tmp_path / "maps").exists()


def test_pretraining_takes_maps_finer_than_its_patches(tmp_path, tiny_clip):
    build(tmp_path / "maps", tiny_clip, tiles=3, grid=28)
    options = PretrainOptions(
        SCENES, tmp_path / "run", saliency=tmp_path / "maps", model="tiny", image_size=(32, 32), patch_size=8,
        batch_size=3, epochs=1, workers=0,
    )  # fmt: skip
    pretrain(options, quiet=True)
    assert (tmp_path / "run" / "metrics.jsonl").exists()
