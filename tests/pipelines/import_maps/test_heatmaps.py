"""Tables of another tool's maps: lists, nested lists, images and files, matched by key and caption."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import saliency_mae as sm
from pipelines.errors import UserError
from tests.pipelines.import_maps.test_fixations import written
from tests.pipelines.import_maps.test_import_maps import photos, rejects, run
from tests.pipelines.import_maps.test_map_files import RAMP, encoded, npy


@pytest.fixture
def source(tmp_path):
    return photos(tmp_path / "photos", 2)


def imported(source, file, out, **options):
    maps = sm.import_maps(source, file, out, grid=options.pop("grid", 4), quiet=True, **options)
    return maps.open()


SQUARE = np.arange(16, dtype=np.float32).reshape(4, 4)


@pytest.mark.parametrize("kind", ["flat", "fixed", "nested", "json", "embedded", "bytes", "files"])
def test_maps_of_every_form(source, tmp_path, kind, hf_cache):
    pixels = SQUARE.astype(np.uint8)
    flat = pa.array([SQUARE.ravel().tolist()] * 2, pa.list_(pa.float32()))
    data = encoded(pixels * 17)
    column = {
        "flat": flat,
        "fixed": flat.cast(pa.list_(pa.float32(), 16)),
        "nested": pa.array([SQUARE.tolist()] * 2, pa.list_(pa.list_(pa.float64()))),
        "embedded": pa.array([{"bytes": data, "path": "a.png"}] * 2),
        "bytes": pa.array([data, npy(SQUARE)]),
        "files": pa.array(["m/a.png", "m/b.npy"]),
        "json": pa.array([SQUARE.tolist()] * 2),
    }[kind]
    file = tmp_path / ("maps.jsonl" if kind == "json" else "maps.parquet")
    rows = {"image": pa.array(["0.png", "1.png"]), "heatmap": column}
    if kind == "json":
        written(file, pa.table(rows).to_pylist())
    else:
        pq.write_table(pa.table(rows), file)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.png").write_bytes(data)
    (tmp_path / "m" / "b.npy").write_bytes(npy(SQUARE))
    found = imported(source, file, tmp_path / "out", made_by="DeepGaze IIE")
    for row in found:
        peak = 1 if (kind in ("embedded", "files", "bytes") and row.key == "0.png") or kind == "embedded" else 15
        np.testing.assert_allclose(row.map, SQUARE / 15 * peak, atol=peak / 250)
    assert (found.metadata["method"], found.metadata["made_by"]) == ("imported: heatmaps", "DeepGaze IIE")


def test_a_flat_list_of_the_images_own_size(source, tmp_path):
    halves = np.zeros((24, 32))
    halves[:, 16:] = 2
    rows = [{"image": f"{i}.png", "heatmap": halves.ravel().tolist()} for i in range(2)]
    found = imported(source, written(tmp_path / "maps.jsonl", rows), tmp_path / "out", grid=2)
    np.testing.assert_allclose(found["0.png"].map, [[0, 2], [0, 2]], atol=1e-6)


def test_lists_that_are_no_maps_reject_their_pair(tmp_path):
    source = photos(tmp_path / "photos", 5)
    bad = [[1.0] * 15, [[1.0, 2.0], [1.0]], [1.0, None, 1.0, 1.0], None, [1.0] * 9]
    kinds = {"flat": [bad[0], bad[2], bad[3], bad[4]], "nested": [bad[1]]}
    rows = [{"image": f"{i}.png", "heatmap": value} for i, value in enumerate(kinds["flat"])]
    sm.import_maps(source, written(tmp_path / "a.parquet", rows), tmp_path / "a", max_rejected=0.9, quiet=True)
    assert rejects(tmp_path / "a") == {
        "0.png": "its map has 15 numbers: neither those of a square nor of its 32×24 image",
        "1.png": "its map is a list with gaps, or with rows of different lengths",
        "2.png": "its row holds no map",
        "4.png": "no map has its key",
    }
    rows = [{"image": "0.png", "heatmap": bad[1]}, {"image": "1.png", "heatmap": [[1.0]]}]
    sm.import_maps(source, written(tmp_path / "b.parquet", rows), tmp_path / "b", max_rejected=0.9, quiet=True)
    assert rejects(tmp_path / "b")["0.png"] == "its map is a list with gaps, or with rows of different lengths"


def test_maps_of_captions_go_to_their_captions(tmp_path):
    source = photos(tmp_path / "photos", 2, captions=False)
    lines = [{"file_name": f"{i}.png", "captions": [f"a {i}", f"b {i}"]} for i in range(2)]
    (source / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [
        {"key": "0.png", "caption": "b 0", "saliency": [0.0, 0.0, 0.0, 2.0]},
        {"key": "0.png", "caption": "a 0", "saliency": [1.0, 0.0, 0.0, 0.0]},
        {"key": "1.png", "caption": None, "saliency": [3.0, 0.0, 0.0, 0.0]},
    ]
    file = written(tmp_path / "maps.parquet", rows)
    found = imported(source, file, tmp_path / "out", grid=2, captions="all")
    assert found["0.png", "a 0"].map.tolist() == [[1, 0], [0, 0]]
    assert found["0.png", "b 0"].map.tolist() == [[0, 0], [0, 2]]
    assert found["1.png", "a 1"].map.tolist() == found["1.png", "b 1"].map.tolist() == [[3, 0], [0, 0]]
    written(file, [row | {"caption": "c"} for row in rows])
    with pytest.raises(UserError, match="4 of 4 pairs"):
        imported(source, file, tmp_path / "other", captions="all")
    assert set(rejects(tmp_path / "other").values()) == {"its key has maps of other captions"}
    written(file, [{name: value for name, value in row.items() if name != "caption"} for row in rows])
    with pytest.raises(UserError, match=r"has 2 maps of '0.png' and no column 'caption' that tells them apart"):
        imported(source, file, tmp_path / "untold")


def test_named_columns_and_what_they_hold(source, tmp_path):
    rows = [{"photo": f"{i}.png", "x": 1.0, "y": 2.0, "wanted": [1.0, 2.0, 3.0, 4.0]} for i in range(2)]
    file = written(tmp_path / "maps.parquet", rows)
    named = {"key_column": "photo", "map_column": "wanted"}
    assert imported(source, file, tmp_path / "out", grid=2, **named)["0.png"].map.tolist() == [[1, 2], [3, 4]]
    words = ["import-maps", source, "--from", file, "--out", tmp_path / "x", "--map-column"]
    for more, told in (
        (["wanted"], "has no column with the keys of the images; it has: photo, x, y, wanted: name the column with"),
        (["x"], "column 'x', which --map-column names, holds double"),
        (["wanted", "--key-column", "photo", "--sigma", 1], "--sigma has no effect with --from"),
        (["photo", "--key-column", "photo"], "column 'photo' can't hold both keys and maps"),
    ):
        done = run(*words, *more)
        assert done.exit_code == 2
        assert told in done.output


def test_a_key_that_is_no_text_is_one_line(source, tmp_path):
    offsets, data = pa.py_buffer(np.int32([0, 1, 6]).tobytes()), pa.py_buffer(b"\xff0.png")
    keys = pa.StringArray.from_buffers(2, offsets, data)
    pq.write_table(pa.table({"key": keys, "heatmap": [[1.0], [2.0]]}), tmp_path / "maps.parquet")
    with pytest.raises(UserError, match="column 'key' is damaged"):
        imported(source, tmp_path / "maps.parquet", tmp_path / "out")


def test_files_outside_of_the_tables_folder_are_asked_for(source, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(RAMP))
    (tmp_path / "t").mkdir()
    rows = [{"image": f"{i}.png", "file": "../a.png"} for i in range(2)]
    file = written(tmp_path / "t" / "maps.csv", rows)
    with pytest.raises(UserError, match=r"names 2 files outside of its folder, first: ../a.png"):
        imported(source, file, tmp_path / "out")
    assert len(imported(source, file, tmp_path / "out", allow_outside=True)) == 2


def test_a_shard_of_maps_gives_them_back(tmp_path):
    """vmin, scale and crop_box of our own tables are heeded."""
    from saliency.table.table import Row, write_shard

    source = photos(tmp_path / "photos", 1)
    row = Row("0.png", None, "picture 0", "ab" * 32, 32, 24, (0.25, 0, 0.75, 1), 0.5)
    stored = np.asarray([[[0, 51], [102, 255]]], np.uint8)
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    made = {"schema_version": 1, "grid": 2, "clip": "ViT-B-16", "method": "gradcam"}
    write_shard(path, [row], stored, np.float32([1]), np.float32([5]), made)
    (found,) = imported(source, path, tmp_path / "out", grid=2)
    np.testing.assert_allclose(found.map, [[1, 2], [3, 6]], atol=1e-6)
    assert found.box == (0.25, 0, 0.75, 1)
