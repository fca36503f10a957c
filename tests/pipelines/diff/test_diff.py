"""``diff``: what came, went and changed between two tables, how far their maps agree, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

import cli
from pipelines.build.build_saliency import build_saliency
from pipelines.build.options import BuildOptions
from pipelines.diff.agreement import overlap
from pipelines.diff.diff import diff
from pipelines.diff.options import DiffOptions
from saliency.maps import FULL, quantise
from saliency.table.table import Row, write_shard

METADATA = {"schema_version": 1, "grid": 4, "clip": "x", "method": "gradcam"}
LEFT = (0.0, 0.0, 0.5, 1.0)


def maps_of(seeds):
    return np.stack([np.random.default_rng(seed).random((4, 4)) * (seed > 0) for seed in seeds]).astype(np.float32)


def write(folder, pairs, **metadata):
    """A table of (key, seed of its map, image, score, box), in shards of three; seed 0 gives an empty map."""
    for start in range(0, len(pairs), 3):
        some = pairs[start : start + 3]
        rows = [Row(key, None, f"a {key}", f"{image:064x}", 8, 8, box, score) for key, _, image, score, box in some]
        name = f"train-{start // 3:05d}-of-{-(-len(pairs) // 3):05d}.parquet"
        write_shard(folder / "data" / name, rows, *quantise(maps_of([pair[1] for pair in some])), METADATA | metadata)
    return folder


def pair(key, seed=1, image=1, score=0.25, box=FULL):
    return key, seed, image, score, box


@pytest.fixture
def tables(tmp_path):
    before = [pair("same"), pair("went"), pair("map"), pair("image"), pair("score"), pair("part"), pair("empty")]
    after = [pair("empty", 0), pair("part", box=LEFT), pair("score", score=0.5), pair("came"), pair("image", image=2)]
    after += [pair("map", 2, score=0.25 + 1e-7), pair("same")]
    return write(tmp_path / "a", before), write(tmp_path / "b", after, method="legrad")


def test_every_pair_is_accounted_for(tables, tmp_path):
    before, after = map(str, tables)
    found = diff(DiffOptions(before, after, out=tmp_path / "out"), quiet=True)
    assert (found.came, found.went, found.common, found.same) == (1, 1, 6, 1)
    assert found.changed == {"image": 1, "map": 3, "clip_score": 1}
    assert (found.flat, found.other_parts) == (1, 1)
    assert found.settings == {"method": ("gradcam", "legrad")}
    score, measured = found.agreement["clip_score"], found.agreement["correlation"]
    assert (score.count, score.mean, score.quantiles[-1]) == (6, pytest.approx(0.25 / 6), 0.25)
    expected = np.corrcoef(*maps_of([1, 2]).reshape(2, 16))[0, 1]
    assert (measured.count, measured.quantiles[0]) == (4, pytest.approx(expected, abs=0.01))
    assert measured.quantiles[3:] == (1, 1, 1, 1)
    assert [(each.key, each.caption) for each in found.worst] == [("map", "a map")]
    lines = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert {(line["pair"], line["key"], *line.get("changed", ())) for line in lines} == {
        ("came", "came"), ("went", "went"), ("changed", "map", "map"), ("changed", "image", "image"),
        ("changed", "score", "clip_score"), ("changed", "part", "map"), ("changed", "empty", "map"),
    }  # fmt: skip
    assert {line["key"]: line["correlation"] for line in lines if line["pair"] == "changed"}["part"] is None
    written = json.loads((tmp_path / "out" / "diff.json").read_text())
    assert (written["came"], written["worst"][0]["key"]) == (1, "map")
    assert [path.name for path in found.files] == ["diff.json", "pairs.jsonl", "worst.png"]


def test_backwards_is_the_same_the_other_way_round(tables):
    there, back = (diff(DiffOptions(str(a), str(b)), quiet=True) for a, b in (tables, tables[::-1]))
    assert (there.came, there.went, there.changed) == (back.went, back.came, back.changed)
    assert there.agreement["iou"] == back.agreement["iou"]


def test_the_overlap_is_that_of_sets_of_cells():
    first, second = maps_of(range(1, 30)), maps_of(range(31, 60))
    for area, count in ((0.2, 3), (0.5, 8), (0.01, 1)):
        sets = [[set(np.argsort(each.ravel())[-count:]) for each in maps] for maps in (first, second)]
        expected = [len(one & other) / len(one | other) for one, other in zip(*sets, strict=True)]
        np.testing.assert_allclose(overlap(first, second, area), expected)


def test_cells_that_tie_share_their_places():
    """Half of four cells are two: three that tie have two thirds of a place each."""
    first, second = np.float32([[[1, 1, 1, 0]]]), np.float32([[[1, 1, 0, 0]]])
    assert overlap(first, first, 0.5) == pytest.approx(1)
    assert overlap(first, second, 0.5) == pytest.approx((2 / 3 + 2 / 3) / (1 + 1 + 2 / 3))


def test_the_picture_shows_images_where_they_are(tmp_path):
    for name, method in (("a", "gradcam"), ("b", "legrad")):
        build_saliency(BuildOptions("shapes:6", tmp_path / name, method=method), quiet=True)
    options = DiffOptions(str(tmp_path / "a"), str(tmp_path / "b"), out=tmp_path / "out", worst=2)
    first = diff(options, quiet=True)
    with_images = (tmp_path / "out" / "worst.png").read_bytes()
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    manifest["origin"]["source"] = "nowhere/at/all"
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    assert diff(options, quiet=True) == first
    assert len(first.worst) == 2
    assert (tmp_path / "out" / "worst.png").read_bytes() != with_images
    nothing = diff(DiffOptions(str(tmp_path / "a"), str(tmp_path / "a"), out=tmp_path / "out"), quiet=True)
    assert (nothing.same, nothing.worst, len(nothing.files)) == (6, (), 2)
    assert not (tmp_path / "out" / "worst.png").exists()


def other_grid(after):
    shutil.rmtree(after)
    write_shard(
        after / "data" / "train-00000-of-00001.parquet",
        [],
        *quantise(np.zeros((0, 2, 2), np.float32)),
        METADATA | {"grid": 2},
    )


def other_schema(after):
    shutil.rmtree(after)
    write(after, [pair("x")], schema_version=3)


def other_files(after):
    (after.parent / "out").mkdir()
    (after.parent / "out" / "mine.txt").touch()


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (other_grid, "only maps of one grid can be compared; build with --grid 4"),
        (other_schema, "has schema version 3, not 1"),
        (lambda after: shutil.rmtree(after / "data"), "holds no saliency maps"),
        (lambda after: next((after / "data").iterdir()).unlink(), "are not a complete table"),
        (other_files, "holds other files (found mine.txt)"),
    ],
)
def test_what_cannot_be_compared_is_one_line(tables, spoil, line, tmp_path):
    before, after = tables
    spoil(after)
    done = CliRunner().invoke(cli.app, ["diff", str(before), str(after), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    (told,) = done.stderr.splitlines()
    assert told.startswith("error: ")
    assert line in told
