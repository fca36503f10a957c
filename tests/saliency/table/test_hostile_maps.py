"""Maps folders of strangers: ``check_table`` names what is wrong and never raises, ``SaliencyTable`` a ValueError."""

import json
import os
import re
import shutil
import struct
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saliency.files import remove_leftovers
from saliency.table import memory_map
from saliency.table.checks import check_table, rejected_pairs
from saliency.table.manifest import Manifest, Shard, read_manifest
from saliency.table.rows import pair_hashes, read_rows
from saliency.table.shard import METADATA_KEY, ShardError
from saliency.table.table import SaliencyTable, shard_files
from tests.saliency.table.test_checks import change, edit_manifest, failed, make_table, sign


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_table(tmp_path_factory.mktemp("table"))


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "maps")


def damaged_page(folder):
    """A page whose header is whole and whose bytes are not: Arrow raises OSError when it is read."""
    path = shard_files(folder)[1]
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start + chunk.total_compressed_size - 6 : start + chunk.total_compressed_size] = b"\xff" * 6
    path.write_bytes(bytes(data))
    sign(folder, path)


def retyped(name, kind):
    def to_kind(table):
        values = pa.array(table[name].to_pylist(), kind)
        return table.set_column(table.column_names.index(name), pa.field(name, kind, nullable=False), values)

    return lambda folder: change(folder, columns=to_kind)


def raw_metadata(raw):
    def without(table):
        return table.replace_schema_metadata(None if raw is None else {METADATA_KEY: raw})

    return lambda folder: change(folder, columns=without)


def not_utf8(folder):
    path = shard_files(folder)[1]
    table = pq.read_table(path)
    wrong = pa.Array.from_buffers(
        pa.string(), 4, [None, pa.py_buffer(struct.pack("<5i", 0, 1, 2, 3, 4)), pa.py_buffer(b"\xff\xfe\xfd\xfc")]
    )
    pq.write_table(table.set_column(0, table.schema.field("key"), wrong), path)
    sign(folder, path)


def null_cells(folder):
    def without(table):
        cells = pa.array([[None] * 9] * len(table), table.schema.field("saliency").type)
        return table.set_column(7, table.schema.field("saliency"), cells)

    change(folder, 1, columns=without)


def lying_lists(folder):
    """The schema that Arrow keeps says 3×3 cells a row, the Parquet columns themselves hold 4×4."""
    path = shard_files(folder)[1]
    table = pq.read_table(path)
    cells = pa.array(np.full((len(table), 16), 255, np.uint8).tolist(), pa.list_(pa.uint8()))
    other = table.set_column(7, pa.field("saliency", pa.list_(pa.uint8()), nullable=False), cells)
    kept = pq.ParquetFile(path).metadata.metadata[b"ARROW:schema"]
    pq.write_table(
        other.replace_schema_metadata({**table.schema.metadata, b"ARROW:schema": kept}), path, store_schema=False
    )
    sign(folder, path)


def pipe(folder):
    path = shard_files(folder)[1]
    path.unlink()
    os.mkfifo(path)


def device(folder):
    path = shard_files(folder)[1]
    path.unlink()
    path.symlink_to("/dev/zero")


def broken_link(folder):
    path = shard_files(folder)[1]
    path.unlink()
    path.symlink_to("nowhere")


def as_folder(folder):
    path = shard_files(folder)[1]
    path.unlink()
    path.mkdir()


SHARDS = {
    "a damaged page": (damaged_page, {"Parquet"}, "can't be read as Parquet"),
    "a missing column": (lambda f: change(f, columns=lambda t: t.drop_columns(["saliency"])), {"schema"}, "saliency"),
    "a column twice": (
        lambda f: change(f, columns=lambda t: t.append_column(t.schema.field("key"), t["key"])),
        {"schema"},
        "differs from version 1 in key",
    ),
    "another column": (
        lambda f: change(f, columns=lambda t: t.append_column("more", t["key"])),
        {"schema"},
        "differs from version 1 in more",
    ),
    "keys as bytes": (retyped("key", pa.binary()), {"schema"}, "differs from version 1 in key"),
    "scores as doubles": (retyped("clip_score", pa.float64()), {"schema"}, "in clip_score"),
    "a grid the column contradicts": (lambda f: change(f, metadata={"grid": 2}), {"schema"}, "in saliency"),
    "a grid as text": (lambda f: change(f, metadata={"grid": "3"}), {"schema"}, "a grid that is no number"),
    "a grid as a fraction": (lambda f: change(f, metadata={"grid": 3.0}), {"schema"}, "a grid that is no number"),
    "a grid that is true": (lambda f: change(f, metadata={"grid": True}), {"schema"}, "a grid that is no number"),
    "a huge grid": (lambda f: change(f, metadata={"grid": 10**9}), {"schema"}, "a grid that is no number"),
    "a negative grid": (lambda f: change(f, metadata={"grid": -3}), {"schema"}, "a grid that is no number"),
    "no grid": (lambda f: change(f, metadata={"grid": None}), {"schema"}, "a grid that is no number"),
    "a clip that is a list": (lambda f: change(f, metadata={"clip": ["x"]}), {"schema"}, "were made: clip"),
    "a huge image size": (lambda f: change(f, metadata={"image_size": 10**9}), {"schema"}, "were made: image_size"),
    "tiles as text": (lambda f: change(f, metadata={"tiles": "2"}), {"schema"}, "were made: tiles"),
    "no metadata": (raw_metadata(None), {"schema"}, "carries no saliency_mae metadata"),
    "metadata that is no JSON": (raw_metadata(b"\xff{"), {"schema"}, "that is no JSON"),
    "metadata that is a list": (raw_metadata(b"[1]"), {"schema"}, "that is no JSON object"),
    "metadata nested deep": (raw_metadata(b"[" * 100_000), {"schema"}, "nested too deep"),
    "metadata with an endless number": (raw_metadata(b'{"grid": ' + b"9" * 5000 + b"}"), {"schema"}, "no JSON"),
    "metadata of another version": (raw_metadata(b'{"schema_version": [[]]}'), {"schema"}, r"version \[\[\]\], not 1"),
    "keys that are no UTF-8": (not_utf8, {"Parquet"}, "UTF8"),
    "cells without a value": (null_cells, {"Parquet"}, "saliency has no value in a place"),
    "lists of another length": (lying_lists, {"Parquet", "schema"}, "saliency|list"),
    "a pipe": (pipe, {"Parquet"}, "Not a regular file"),
    "a device": (device, {"Parquet"}, "Not a regular file"),
    "a link to nothing": (broken_link, {"Parquet"}, "No such file"),
    "a folder": (as_folder, {"Parquet"}, "Is a directory"),
    "nothing": (lambda f: shard_files(f)[1].write_bytes(b""), {"Parquet"}, "can't be read"),
}


@pytest.mark.parametrize("kind", SHARDS)
def test_a_shard_of_a_stranger(kind, folder):
    damage, checks, message = SHARDS[kind]
    damage(folder)
    found = failed(folder)
    assert checks & found.keys()
    told = " ".join(found[name] for name in checks & found.keys())
    assert re.search(message, told)
    assert "\n" not in " ".join(found.values())
    with pytest.raises(ValueError, match=r"train-0000\d-of-00003.parquet ") as caught:
        SaliencyTable(folder)
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)
    assert not (folder / ".cache").exists() or not list((folder / ".cache").iterdir()), "half a copy is left"


def test_values_that_no_map_has_are_not_read_into_a_copy(folder):
    change(folder, 1, rows={"vmin": float("nan")})
    with pytest.raises(ValueError, match=r"vmin is not finite \(key '1-0'\); mae-cli verify lists them all"):
        SaliencyTable(folder)


def test_rows_of_a_damaged_page(folder):
    damaged_page(folder)
    with pytest.raises(ShardError, match="can't be read as Parquet"):
        read_rows(shard_files(folder), np.asarray([4]), ["key"])


SHARD = {"file": "train-00000-of-00003.parquet", "sha256": "ab", "taken": 4, "written": 3, "rejected": 1}
FINE = {"settings": {}, "origin": {}, "shards": [], "complete": True}
MANIFESTS = {
    "a list": b"[]",
    "a text": b'"manifest"',
    "null": b"null",
    "a number": b"1",
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe\x00",
    "nested deep": b"[" * 200_000,
    "an endless number": b'{"complete": ' + b"9" * 5000 + b"}",
    "shards that are a number": FINE | {"shards": 3},
    "shards that are a text": FINE | {"shards": "abc"},
    "shards that are null": FINE | {"shards": None},
    "a shard that is a list": FINE | {"shards": [[1, 2]]},
    "a shard of too much": FINE | {"shards": [SHARD | {"more": 1}]},
    "a shard without a file": FINE | {"shards": [{"sha256": "ab", "taken": 0, "written": 0, "rejected": 0}]},
    "a file that is a number": FINE | {"shards": [SHARD | {"file": 3}]},
    "a file that climbs": FINE | {"shards": [SHARD | {"file": "../../etc/passwd"}]},
    "a file that is absolute": FINE | {"shards": [SHARD | {"file": "/etc/passwd"}]},
    "a hash that is null": FINE | {"shards": [SHARD | {"sha256": None}]},
    "counts as text": FINE | {"shards": [SHARD | {"taken": "4", "written": "3", "rejected": "1"}]},
    "counts as fractions": FINE | {"shards": [SHARD | {"taken": 4.0, "written": 3.0, "rejected": 1.0}]},
    "negative counts": FINE | {"shards": [SHARD | {"taken": -2, "written": -3, "rejected": 1}]},
    "absurd counts": FINE | {"shards": [SHARD | {"taken": 10**30, "written": 10**30, "rejected": 0}]},
    "a shard twice": FINE | {"shards": [SHARD, SHARD]},
    "settings that are a list": FINE | {"settings": []},
    "origin that is null": FINE | {"origin": None},
    "a source that is a list": FINE | {"origin": {"source": ["x"]}},
    "a limit that is a text": FINE | {"origin": {"limit": "10"}},
    "complete that is a text": FINE | {"complete": "no"},
    "nothing": {},
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_of_another_shape(kind, folder):
    content = MANIFESTS[kind]
    (folder / "manifest.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ValueError, match=r"manifest.json is not a manifest of build-saliency \(.+\); give another"):
        read_manifest(folder)
    with pytest.raises(ValueError, match="is not a manifest"):
        SaliencyTable(folder)
    assert "manifest.json can't be read" in failed(folder)["manifest"]


def test_a_manifest_that_is_no_file(folder):
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(ValueError, match="Not a regular file"):
        read_manifest(folder)
    (folder / "manifest.json").unlink()
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="Larger than"):
        read_manifest(folder)


REJECTS = {
    "no UTF-8": b'{"key": "\xff", "caption": "x", "reason": "r"}\n',
    "a lone surrogate": b'{"key": "\\ud800", "caption": "x", "reason": "r"}\n',
    "a lone surrogate in a caption": b'{"key": "k", "caption": "\\udfff", "reason": "r"}\n',
    "a key that is a number": b'{"key": 3, "caption": "x", "reason": "r"}\n',
    "a caption that is a list": b'{"key": "k", "caption": ["x"], "reason": "r"}\n',
    "a reason that is null": b'{"key": "k", "caption": "x", "reason": null}\n',
    "a list": b'["key", "caption", "reason"]\n',
    "a number": b"3\n",
    "nested deep": b"[" * 100_000 + b"\n",
    "an endless number": b'{"key": "k", "n": ' + b"9" * 5000 + b"}\n",
    "zero bytes": b"\0" * 40 + b"\n",
}


@pytest.mark.parametrize("kind", REJECTS)
def test_rejects_of_another_shape(kind, folder):
    """In a file of four rejected pairs one is odd: that is told, and the others are known."""
    path = folder / "rejected" / "train-00002-of-00003.jsonl"
    good = path.read_bytes().split(b"\n")[:3]
    path.write_bytes(b"\n".join(good) + b"\n" + REJECTS[kind])
    assert failed(folder) == {"rejected": f"rejected/{path.name} has a line without key and reason"}
    assert len(rejected_pairs(folder)) == 4


def test_rejects_that_are_no_file(folder):
    path = folder / "rejected" / "train-00002-of-00003.jsonl"
    path.unlink()
    os.mkfifo(path)
    assert "can't be read: Not a regular file" in failed(folder)["rejected"]
    assert len(rejected_pairs(folder)) == 1


@pytest.mark.parametrize("sign_", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_signs_that_break_lines_elsewhere_are_part_of_a_caption(sign_, folder):
    """``build-saliency`` writes them as they are."""
    path = folder / "rejected" / "train-00000-of-00003.jsonl"
    pair = {"key": "0-3", "caption": f"one{sign_}two", "reason": f"no{sign_}image"}
    path.write_text(json.dumps(pair, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    assert not failed(folder)
    assert rejected_pairs(folder)[0] == pair_hashes(pa.array(["0-3"]), pa.array([pair["caption"]]))[0]


def copies(folder):
    return [path for path in (folder / ".cache").iterdir() if path.is_dir()]


@pytest.mark.parametrize("name", ["saliency.u8", "boxes.f32", "ranges.f32", "columns.arrow", "stamp"])
@pytest.mark.parametrize("how", ["zeroed", "cut", "longer", "gone"])
def test_a_copy_that_is_not_what_was_written_is_made_again(name, how, folder):
    first = SaliencyTable(folder)
    rows = np.arange(7)
    maps, boxes, keys = first.raw_maps(rows).copy(), first.boxes(rows).copy(), first.keys.to_pylist()
    (copy,) = copies(folder)
    del first
    data = (copy / name).read_bytes()
    if how == "gone":
        (copy / name).unlink()
    else:
        (copy / name).write_bytes({"zeroed": bytes(len(data)), "cut": data[:-4], "longer": data + b"\0"}[how])
    table = SaliencyTable(folder)
    np.testing.assert_array_equal(table.raw_maps(rows), maps)
    np.testing.assert_array_equal(table.boxes(rows), boxes)
    assert table.keys.to_pylist() == keys
    assert copies(folder) == [copy]
    assert (copy / name).read_bytes() == data


def test_a_copy_is_not_made_twice(folder):
    SaliencyTable(folder)
    (copy,) = copies(folder)
    stamp = copy.stat().st_mtime_ns
    SaliencyTable(folder)
    assert copy.stat().st_mtime_ns == stamp


def test_a_place_that_cannot_be_written_is_named(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(memory_map, "_write", full)
    with pytest.raises(ValueError, match=r"can't be made in .*\.cache \(No space left on device\): .*XDG_CACHE_HOME"):
        SaliencyTable(folder)
    assert not copies(folder)


def test_a_home_that_is_a_file_is_named(folder, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match=r"can't be made in .*home/saliency-mae .*XDG_CACHE_HOME"):
        SaliencyTable(folder)


def test_no_home_is_needed_where_the_folder_can_be_written(folder, monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", nobody)
    assert len(SaliencyTable(folder)) == 7
    shutil.rmtree(folder / ".cache")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="there is no home folder for a copy of it: set XDG_CACHE_HOME"):
        SaliencyTable(folder)


def test_leftover_folders_are_removed_like_files(tmp_path):
    kept = tmp_path / "data" / "kept"
    for place in (tmp_path / ".cache" / ".tmp-7-abc" / "in", tmp_path / "data" / ".tmp-8-train", kept):
        place.mkdir(parents=True)
        (place / "file").write_text("x")
    (tmp_path / "data" / ".tmp-9-link").symlink_to(kept)
    remove_leftovers(tmp_path, {"train"})
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"kept", ".tmp-9-link"}
    remove_leftovers(tmp_path)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"kept"}
    assert list((tmp_path / ".cache").iterdir()) == []
    assert (kept / "file").read_text() == "x"


def test_checking_takes_no_longer_for_an_absurd_manifest(folder):
    edit_manifest(folder, settings={"pairs": 10**30, "shard_size": 1, "grid": 10**9})
    started = time.perf_counter()
    assert "settings" in failed(folder)
    assert time.perf_counter() - started < 5


def test_what_is_written_is_what_is_read(tmp_path):
    manifest = Manifest({"a": [1, {"b": None}]}, {"source": "x", "limit": 3}, [Shard("train.parquet", "0", 5, 3, 2)])
    manifest.save(tmp_path)
    assert read_manifest(tmp_path) == manifest
    assert check_table(tmp_path).manifest == manifest
