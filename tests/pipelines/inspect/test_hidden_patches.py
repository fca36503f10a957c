"""Which patches would be hidden: the masks of a training, against loops, planted maps and chance in closed form."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

import cli
from mae.distributed import World
from pipelines.inspect.hidden_patches import asked_masks, look_at_masks, measure, object_areas, take_sample
from pipelines.inspect.hidden_verdict import RANDOM, Spread
from pipelines.inspect.options import InspectOptions
from pipelines.plots import grey_out
from pipelines.pretrain.model import new_model
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.plain import new_task, open_data
from pipelines.pretrain.settings import settings_of
from pipelines.sources.open_source import open_source
from pipelines.sources.source import Source
from pipelines.views.loaders import training_views
from saliency.table.manifest import NAME as MANIFEST
from saliency.table.table import SaliencyTable
from tests.tiny_mae import write_maps

SCENES = "shapes:12,size=32"
GRID = 4


def asked(**options):
    return InspectOptions("maps", masks=True, image_size=(32,), patch_size=8, **options)


def inspect(*words):
    return CliRunner().invoke(cli.app, ["inspect", *map(str, words)])


@pytest.fixture
def scene_maps(tmp_path):
    return write_maps(tmp_path / "maps", open_source(SCENES))


def planted(tmp_path, maps, masks):
    """A table of these maps [n, G, G], and their source, whose images nobody reads."""
    source = Source("planted", pa.array([str(i) for i in range(len(maps))]), images={}, masks=masks)
    return SaliencyTable(write_maps(tmp_path / "maps", source, maps=maps)), source


def cells_inside(shape, box, flip, grid):
    """The area of every cell of an array of this shape in every patch of a view, [patches, cells], by loops."""
    x0, y0, x1, y1 = box
    edges = [np.linspace(low, high, count + 1) for low, high, count in ((y0, y1, grid[0]), (x0, x1, grid[1]))]
    found = np.zeros((math.prod(grid), *shape))
    for row in range(grid[0]):
        for column in range(grid[1]):
            at = grid[1] - 1 - column if flip else column
            for i in range(shape[0]):
                tall = min(edges[0][row + 1], (i + 1) / shape[0]) - max(edges[0][row], i / shape[0])
                for j in range(shape[1]):
                    wide = min(edges[1][at + 1], (j + 1) / shape[1]) - max(edges[1][at], j / shape[1])
                    found[row * grid[1] + column, i, j] = max(tall, 0) * max(wide, 0)
    return found.reshape(math.prod(grid), -1)


# ---- what is measured


def test_the_masks_are_those_of_a_training_with_the_same_seed(scene_maps):
    """Every patch of the first epoch's masks, and every figure of both epochs."""
    options = asked(views=2, seed=3, salient_pick="weighted")
    table, source = SaliencyTable(scene_maps), open_source(SCENES)
    masks = replace(asked_masks(options), batch_size=4)
    sample = take_sample(table, source, options)
    shares, _, drawn = measure(table, sample, masks, None, np.arange(12))
    for reading in ("image", "mask", "salient", "random", "block"):
        strategy, of = (reading, "image") if reading in ("random", "block") else ("salient", reading)
        asked_for = PretrainOptions(
            SCENES,
            Path("run"),
            saliency=scene_maps,
            masking=strategy,
            salient_of=of,
            salient_pick="weighted",
            model="mini",
            image_size=(32,),
            patch_size=8,
            batch_size=4,
            epochs=2,
            seed=3,
            workers=0,
            warmup_epochs=0,
        )
        settings = settings_of(asked_for)
        data = open_data(replace(asked_for, masking="salient"), replace(settings, needs_maps=True, maps=scene_maps))
        task = new_task(asked_for, settings, data, new_model(asked_for), torch.device("cpu"), World())
        views = training_views(
            source, task.batches(), (32, 32), clip=None, sizes=None, seed=3, augment_on="workers",
            device=torch.device("cpu"), workers=0,
        )  # fmt: skip
        for step, batch in enumerate(views):
            task.training.step = step
            saliency = data.maps.on_views(batch, (GRID, GRID))
            hidden = task.training.draw_masks(4, saliency, 0).hidden
            epoch, held = step // 3, ((saliency * hidden).sum(1) / saliency.sum(1)).numpy()
            np.testing.assert_allclose(shares[reading]["map"][batch.indices, epoch], held, rtol=1e-5)
            if epoch == 0:
                np.testing.assert_array_equal(drawn.hidden[reading][batch.indices], hidden.view(4, GRID, GRID))


def test_figures_against_loops(tmp_path):
    rng = np.random.default_rng(0)
    maps, objects = rng.random((5, 3, 3)), [rng.random((6, 9)) < 0.3 for _ in range(4)]
    table, source = planted(tmp_path, maps, [*objects, None])
    options = asked(views=3, salient_ratio=0.5, salient_of="mask")
    sample, masks = take_sample(table, source, options), asked_masks(options)
    areas = object_areas(source, sample, masks.grid, [])
    shares, sets, drawn = measure(table, sample, masks, areas, np.arange(5))
    stored = table.raw_maps(np.arange(5))
    for pair in range(5):
        for view in range(3):
            box, flip = sample.boxes[pair, view].tolist(), bool(sample.flips[pair, view])
            mass = cells_inside((3, 3), box, flip, masks.grid) @ stored[pair].ravel()
            ordered = np.sort(mass)[::-1].cumsum()
            assert sets[pair, view] * 16 == np.argmax(ordered >= ordered[-1] / 2) + 1
            if pair < 4:
                area = cells_inside((6, 9), box, flip, masks.grid) @ objects[pair].ravel()
                np.testing.assert_allclose(areas[pair, view] / areas[pair, view].sum(), area / area.sum(), atol=1e-5)
            if view > 0:
                continue
            for row in masks.rows:
                hidden = drawn.hidden[row][pair].ravel()
                assert hidden.sum() == 12
                assert shares[row]["map"][pair, 0] == pytest.approx(mass[hidden].sum() / mass.sum(), abs=1e-5)
                if pair < 4:
                    inside = area[hidden].sum() / area.sum()
                    assert shares[row]["object"][pair, 0] == pytest.approx(inside, abs=1e-5)
                    assert shares[row]["whole_object"][pair, 0] == (inside >= 0.99)
            forced = drawn.forced["mask"][pair].ravel()
            assert set(np.flatnonzero(forced)) == set(np.argsort(mass)[-6:])
            assert shares["mask"]["map_forced"][pair, 0] == pytest.approx(mass[forced].sum() / mass.sum(), abs=1e-5)
    assert areas[4].isnan().all()
    assert np.isnan(shares["mask"]["object"][4]).all()
    assert set(drawn.forced) == {"mask"}


@pytest.fixture(scope="module")
def planted_look(tmp_path_factory):
    """200 maps with one cell, which is the object, and so many salient patches that all of it is hidden."""
    rng = np.random.default_rng(1)
    maps = np.zeros((200, 8, 8), np.float32)
    maps[np.arange(200), rng.integers(0, 8, 200), rng.integers(0, 8, 200)] = 1
    masks = [np.kron(each, np.ones((5, 7))) > 0 for each in maps]
    table, source = planted(tmp_path_factory.mktemp("planted"), maps, masks)
    options = InspectOptions("maps", masks=True, image_size=(64,), patch_size=8, salient_ratio=0.75)
    look = look_at_masks(table, source, options)
    return look, object_areas(source, look.sample, look.found.grid, [])


def test_all_of_a_planted_map_and_object_is_hidden(planted_look):
    found, areas = planted_look[0].found, planted_look[1]
    for reading in ("image", "mask"):
        for figure in ("map", "map_forced", "object", "whole_object"):
            value = found.figures[reading][figure]
            assert (value.mean, value.low, value.high) == (1, 1, 1), (reading, figure)
        assert found.differences[reading]["whole_object"].above_zero
    assert found.forced["image"] == Spread(48, 48, 48, 48)
    assert found.forced["mask"] == Spread(36, 36, 36, 36)
    assert (found.pairs, found.views, found.hidden, found.views_judged) == (200, 4, 48, 800)
    unseen = int((areas.sum(-1) == 0).sum())
    assert 0 < unseen < 400
    assert found.views_without_object == found.views_without_map == unseen
    assert (
        found.verdict()
        == "Against random masks: --salient-of image, mask, salient or salient-only hides more of the object."
    )


def test_random_masks_hide_by_chance(planted_look):
    """Of the map as much as of all patches; the whole object as often as a hypergeometric draw has all its patches."""
    found, areas = planted_look[0].found, planted_look[1]
    for figure in ("map", "object"):
        value = found.figures[RANDOM][figure]
        assert value.low < 0.75 < value.high
    counts = (areas > 0).sum(-1).flatten()
    chances = [math.comb(64 - k, 48 - k) / math.comb(64, 48) for k in counts.tolist() if k]
    value = found.figures[RANDOM]["whole_object"]
    assert value.low < np.mean(chances) < value.high < 0.5


def test_a_reading_of_the_salient_set_leaves_the_rest_of_it_visible(tmp_path):
    """Of two equal cells that are the whole map, half of the patches are hidden: nothing else is ever left over."""
    maps = np.zeros((6, 2, 2), np.float32)
    maps[:, 0] = 1
    table, _ = planted(tmp_path, maps, None)
    look = look_at_masks(
        table, None, asked(salient_of="salient-only", salient_mass=1.0, salient_ratio=0.5, mask_ratio=0.5)
    )
    size, forced = look.found.salient_set, look.found.forced["salient-only"]
    assert forced.mean == pytest.approx(size.mean * 8, abs=1)
    assert look.found.figures["salient-only"]["map"].mean < 0.75
    assert set(look.found.figures) == {"salient-only", "random", "block", "grid", "center"}


# ---- the command


def test_the_command_prints_writes_and_draws(scene_maps, tmp_path, monkeypatch):
    sheets = {}
    sheet = "pipelines.inspect.galleries.contact_sheet"
    monkeypatch.setattr(sheet, lambda path, columns, title: sheets.update(columns))
    monkeypatch.setitem(sys.modules, "pipelines.build.remade_maps", None)  # no CLIP is loaded: importing it fails
    words = ("--image-size", 32, "--patch-size", 8, "--gallery", tmp_path / "g.png", "--gallery-size", 5)
    done = inspect(scene_maps, "--masks", "--source", SCENES, *words, "--json", tmp_path / "h.json")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    readings = [f"of {row}" for row in ("image", "mask", "salient", "salient-only")]
    assert any(line.startswith("minus random:") for line in lines)
    for start in (*readings, "random", "block", "grid", "center", "  image", "  salient-only"):
        (row,) = [line for line in lines if line.startswith(f"{start}  ") and "±" in line]
        assert row.count("±") == (4 if start in readings else 3)
        assert len(row) <= 80
    assert "12 of 16 (4×4)" in done.stdout
    assert f"--saliency {scene_maps} --salient-ratio 0.25 --out run" in done.stderr
    numbers = json.loads((tmp_path / "h.json").read_text())["hidden_patches"]
    assert numbers["grid"] == [4, 4]
    assert numbers["figures"]["image"]["object"].keys() == {"mean", "low", "high"}
    assert numbers["asked"]["salient_ratio"] == 0.25
    assert list(sheets)[:4] == ["image", "caption", "map", "true mask"]
    assert list(sheets)[4:] == ["of image", "of mask", "of salient", "of salient-only", "random"]
    for picture, image in zip(sheets["of image"], sheets["image"], strict=True):
        magenta, grey = ((picture == colour).all(-1).sum() for colour in ((220, 0, 150), (128, 128, 128)))
        assert (magenta, grey) == (4 * 64, 8 * 64)
        assert image.shape == (32, 32, 3)
    assert len(sheets["random"]) == 5


def test_without_objects_only_the_map_is_measured(scene_maps, tmp_path):
    done = inspect(scene_maps, "--masks", "--image-size", 32, "--patch-size", 8, "--json", tmp_path / "h.json")
    assert done.exit_code == 0, done.output
    assert "not looked at, because the images are not at hand: give --source" in " ".join(done.stdout.split())
    numbers = json.loads((tmp_path / "h.json").read_text())["hidden_patches"]
    assert set(numbers["figures"]["random"]) == {"map"}
    assert numbers["views_judged"] == 0
    assert "hides more of the map" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--masks --salient-ratio 0.8", "--salient-ratio 0.8 is above --mask-ratio 0.75"),
        ("--masks --image-size 100", "--image-size 100×100 must be a multiple of --patch-size 16"),
        ("--masks --salient-mass 0.5 --salient-of image", "--salient-mass has no effect with --salient-of image"),
        ("--masks --temperature 2", "--temperature has no effect with --salient-pick top"),
        ("--masks --require auc", "--require has no effect with --masks"),
        ("--masks --device cpu", "--device has no effect with --masks"),
        ("--salient-ratio 0.25", "--salient-ratio has no effect without --masks"),
        ("--views 2 --limit 3", "--views has no effect without --masks"),
        ("--masks --salient-of object", "--salient-of 'object' is not one of: image, mask, salient"),
        ("--masks --gallery g.png", "--gallery needs the images"),
    ],
)
def test_mistakes_are_one_line(scene_maps, words, message):
    done = inspect(scene_maps, *words.split())
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_masks_are_of_maps(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    for what in (SCENES, tmp_path):
        done = inspect(what, "--masks")
        assert (done.exit_code, done.stderr) == (2, f"error: --masks looks at maps, and {what} is no maps folder\n")


def test_maps_of_clips_hide_as_much_as_a_training_on_videos(scene_maps):
    options = asked()
    table = SaliencyTable(scene_maps)
    assert look_at_masks(table, None, options, clips=True).found.hidden == 15
    assert look_at_masks(table, None, options).found.hidden == 12
    assert not (scene_maps / MANIFEST).exists()


def test_patches_are_painted_in_a_colour():
    painted = grey_out(np.zeros((4, 4, 3), np.uint8), np.array([[True, False], [False, False]]), (1, 2, 3))
    assert (painted[:2, :2] == (1, 2, 3)).all()
    assert painted.sum() == 4 * 6
