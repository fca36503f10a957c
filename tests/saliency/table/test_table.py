import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saliency.maps import FULL, quantise
from saliency.table import memory_map
from saliency.table.manifest import Manifest
from saliency.table.shard import ShardFile, schema, write_rows
from saliency.table.table import Row, SaliencyTable, shard_files, write_shard

METADATA = {"schema_version": 1, "grid": 4, "clip": "x", "pretrained": None, "weights_sha256": "0", "method": "gradcam"}
METADATA |= {"layer": "l"}


def row(key, caption="a dog", box=FULL):
    return Row(key, None, caption, "ab" * 32, 30, 20, box, 0.25)


def write(folder, name, rows, metadata=METADATA, seed=0):
    maps = np.random.default_rng(seed).random((len(rows), 4, 4)).astype(np.float32)
    write_shard(folder / "data" / name, rows, *quantise(maps), metadata)
    return maps


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "train-00000-of-00002.parquet", [row("0001"), row("ü/2", "é"), row("0001", "a cat")], seed=0)
    write(tmp_path, "train-00001-of-00002.parquet", [row("3", box=(0.25, 0, 0.75, 1)), row("4")], seed=1)
    return tmp_path


def test_the_schema_is_version_1(folder):
    read = pq.read_schema(shard_files(folder)[0])
    assert [(field.name, str(field.type)) for field in read] == [
        ("key", "string"),
        ("url", "string"),
        ("caption", "string"),
        ("image_sha256", "string"),
        ("width", "int32"),
        ("height", "int32"),
        ("crop_box", "fixed_size_list<element: float>[4]"),
        ("saliency", "fixed_size_list<element: uint8>[16]"),
        ("vmin", "float"),
        ("scale", "float"),
        ("clip_score", "float"),
    ]
    assert [field.name for field in read if field.nullable] == ["url"]
    assert json.loads(read.metadata[b"saliency_mae"])["schema_version"] == 1


def large_table(rows, metadata):
    """A table of random maps, 16×16 of values up to 15, with one row for each number."""
    shape, cells = schema(16, metadata), b"".join(np.random.default_rng(i).bytes(256) for i in rows)
    columns = {"key": [f"{i:09d}" for i in rows], "caption": [f"a photo of {i}" for i in rows]}
    columns |= {"image_sha256": [f"{i:064x}" for i in rows], "url": [None] * len(rows)}
    columns |= {name: np.full(len(rows), 7) for name in ("width", "height", "vmin", "scale", "clip_score")}
    arrays = {name: pa.array(values).cast(shape.field(name).type) for name, values in columns.items()}
    arrays["crop_box"] = pa.FixedSizeListArray.from_arrays(pa.array(np.tile(np.float32(FULL), len(rows))), 4)
    arrays["saliency"] = pa.FixedSizeListArray.from_arrays(pa.array(np.frombuffer(cells, np.uint8) & 15), 256)
    return pa.Table.from_arrays([arrays[name] for name in shape.names], schema=shape)


@pytest.mark.parametrize(("chunks", "kept"), [(None, (0.7, 1.0)), (False, (0.0, 0.5))])
def test_a_row_more_leaves_most_bytes_as_they_were(tmp_path, monkeypatch, chunks, kept):
    """Whoever stores pieces of files once, as the Hub does, stores little more; without the chunks, all anew."""
    if chunks is not None:
        monkeypatch.setattr("saliency.table.shard.CHUNKS", chunks)
    rows, files = list(range(6000)), [tmp_path / "before.parquet", tmp_path / "after.parquet"]
    for path, numbers in zip(files, (rows, [*rows[:5], 9999, *rows[5:]]), strict=True):
        write_rows(path, large_table(numbers, METADATA | {"grid": 16}))
    before, after = (path.read_bytes() for path in files)
    pieces = [before[start : start + 1024] for start in range(0, len(before) - 1024, 1024)]
    assert kept[0] <= np.mean([piece in after for piece in pieces]) <= kept[1]
    assert ShardFile(files[1]).rows == 6001
    group = pq.ParquetFile(files[1]).metadata.row_group(0)
    assert all(group.column(i).has_offset_index for i in range(group.num_columns))


@pytest.mark.parametrize(("grid", "rows"), [(14, 38_580), (64, 2959), (1024, 11)])
def test_a_row_group_is_what_the_viewer_can_open(tmp_path, grid, rows):
    shape = schema(grid, METADATA | {"grid": grid})
    cells = pa.repeat(pa.scalar([0] * grid * grid, shape.field("saliency").type), rows + 1)
    columns = {field.name: pa.repeat(pa.scalar("x" if field.type == "string" else 1), rows + 1) for field in shape}
    columns |= {
        "saliency": cells,
        "crop_box": pa.repeat(pa.scalar([0.0, 0, 1, 1], pa.list_(pa.float32(), 4)), rows + 1),
    }
    table = pa.Table.from_arrays([columns[name].cast(shape.field(name).type) for name in shape.names], schema=shape)
    write_rows(tmp_path / "x.parquet", table)
    footer = pq.ParquetFile(tmp_path / "x.parquet").metadata
    assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == [rows, 1]
    assert footer.row_group(0).total_byte_size < 100_000_000


def test_maps_and_boxes_come_back_by_row(folder):
    table = SaliencyTable(folder)
    assert len(table) == 5
    maps = np.concatenate([np.random.default_rng(seed).random((n, 4, 4)) for seed, n in ((0, 3), (1, 2))])
    rows = np.asarray([4, 0, 3])
    np.testing.assert_array_equal(table.maps(rows), quantise(maps[rows].astype(np.float32))[0])
    np.testing.assert_allclose(table.raw_maps(rows), maps[rows], atol=1 / 400)
    np.testing.assert_array_equal(table.boxes(rows)[2], np.float32([0.25, 0, 0.75, 1]))


def test_join_by_key_and_caption(folder):
    table = SaliencyTable(folder)
    keys = pa.array(["3", "0001", "0001", "1", "ü/2", "0001"])
    captions = pa.array(["a dog", "a cat", "a dog", "a dog", "é", None])
    assert table.join(keys, captions).tolist() == [3, 2, 0, -1, 1, -1]
    assert table.join(keys).tolist() == [3, 0, 0, -1, 1, 0]


def test_a_pair_without_a_caption_has_no_map(tmp_path):
    write(tmp_path, "train-00000-of-00001.parquet", [row("0", "")])
    assert SaliencyTable(tmp_path).join(pa.array(["0", "0"]), pa.array([None, ""], pa.string())).tolist() == [-1, 0]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
def test_no_shard_stays_open(folder):
    table = SaliencyTable(folder)  # with its copy
    opened = [ShardFile(path) for path in shard_files(folder)]
    assert sum(len(batch) for shard in opened for batch in shard.batches()) == len(table)
    names = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]  # noqa: PTH208
    assert not [name for name in names if name.endswith(".parquet")]


def test_a_missing_row_is_a_flat_map_of_the_whole_image(folder):
    table = SaliencyTable(folder)
    rows = np.asarray([-1, 3])
    assert not table.maps(rows)[0].any()
    assert table.maps(rows)[1].any()
    assert table.boxes(rows)[0].tolist() == list(FULL)


def test_the_copy_is_made_once_and_again_when_the_table_changes(folder):
    SaliencyTable(folder)
    (cache,) = (folder / ".cache").iterdir()
    stamp = cache.stat().st_mtime_ns
    SaliencyTable(folder)
    assert cache.stat().st_mtime_ns == stamp
    write(folder, "train-00001-of-00002.parquet", [row("9")], seed=5)
    os.utime(shard_files(folder)[1], ns=(1, 1))
    assert SaliencyTable(folder).join(pa.array(["9", "4"])).tolist() == [3, -1]
    assert len(list((folder / ".cache").iterdir())) == 1


def test_a_copy_of_another_layout_is_not_read(folder, monkeypatch):
    SaliencyTable(folder)
    (old,) = (folder / ".cache").iterdir()
    (old / "boxes.f32").unlink()
    monkeypatch.setattr(memory_map, "_LAYOUT", -1)
    assert len(SaliencyTable(folder)) == 5
    assert not old.exists()


def test_a_read_only_table_uses_the_users_cache(folder, tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert len(SaliencyTable(folder)) == 5
    assert not (folder / ".cache").exists()
    assert len(list((home / "saliency-mae").iterdir())) == 1


def test_the_cache_of_another_program_is_left_alone(folder, tmp_path_factory, monkeypatch):
    """A snapshot of the Hub: links to files that live elsewhere in its cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("home")))
    snapshot = tmp_path_factory.mktemp("hub")
    (snapshot / "data").mkdir()
    for path in shard_files(folder):
        (snapshot / "data" / path.name).symlink_to(path)
    assert len(SaliencyTable(snapshot)) == 5
    copied = tmp_path_factory.mktemp("hub") / "snapshots" / "0123abc"  # where links are not to be had
    shutil.copytree(folder / "data", copied / "data")
    assert len(SaliencyTable(copied)) == 5
    assert [path.name for place in (snapshot, copied) for path in place.iterdir()] == ["data", "data"]


def test_what_others_keep_beside_the_copy_stays(folder):
    """``hf download --local-dir`` notes what it has in ``.cache/huggingface``."""
    notes = folder / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    SaliencyTable(folder)
    assert notes.is_dir()
    assert len(list((folder / ".cache").iterdir())) == 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: [p.unlink() for p in shard_files(f)], "holds no saliency maps"),
        (lambda f: Manifest({}, {}).save(f), "unfinished"),
        (lambda f: shard_files(f)[1].write_bytes(b"PAR1 nonsense"), "can't be read as Parquet"),
        (lambda f: pq.write_table(pa.table({"key": ["1"]}), shard_files(f)[1]), "not a saliency table"),
        (lambda f: write(f, "train-00001-of-00002.parquet", [], METADATA | {"method": "x"}), "other settings.*method"),
        (lambda f: write(f, "train-00000-of-00002.parquet", [], METADATA | {"schema_version": 9}), "schema version 9"),
    ],
)
def test_what_is_no_table_is_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message) as caught:
        SaliencyTable(folder)
    assert "\n" not in str(caught.value)


def test_image_sizes_stand_in_the_order_of_the_rows(tmp_path):
    rows = [replace(row(str(i)), width=10 + i, height=20 + i) for i in range(5)]
    for number, part in enumerate((rows[:2], rows[2:])):
        write(tmp_path, f"train-{number:05d}-of-00002.parquet", part)
    assert SaliencyTable(tmp_path).image_sizes().tolist() == [[10 + i, 20 + i] for i in range(5)]
    write(tmp_path, "train-00000-of-00002.parquet", [replace(rows[0], width=0)])
    with pytest.raises(ValueError, match="width or height that is not positive"):
        SaliencyTable(tmp_path).image_sizes()


def test_an_empty_shard_is_fine(tmp_path):
    write(tmp_path, "train-00000-of-00001.parquet", [])
    table = SaliencyTable(tmp_path)
    assert len(table) == 0
    assert table.join(pa.array(["1"])).tolist() == [-1]


def test_datasets_reads_it(folder, tmp_path_factory):
    import datasets

    cache = str(tmp_path_factory.mktemp("hf"))
    loaded = datasets.load_dataset("parquet", data_dir=str(folder / "data"), split="train", cache_dir=cache)
    assert loaded.num_rows == 5
    assert len(loaded[0]["saliency"]) == 16
    assert max(loaded[0]["saliency"]) == 255


def test_schema_holds_what_it_says():
    assert schema(14, METADATA).field("saliency").type.list_size == 196


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_without_a_manifest_the_names_say_whether_all_is_there(tmp_path, lost):
    for number in range(3):
        write(tmp_path, f"train-{number:05d}-of-00003.parquet", [row(str(number))])
    assert len(SaliencyTable(tmp_path)) == 3
    (tmp_path / "data" / f"train-{lost:05d}-of-00003.parquet").unlink()
    with pytest.raises(ValueError, match="2 files.*are not a complete table"):
        SaliencyTable(tmp_path)
