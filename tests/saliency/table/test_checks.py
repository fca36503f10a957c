import hashlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saliency.maps import FULL, quantise
from saliency.table import checks
from saliency.table.checks import check_table, rejected_pairs
from saliency.table.manifest import Manifest, Shard, read_manifest
from saliency.table.rows import pair_hashes
from saliency.table.shard import METADATA_KEY
from saliency.table.table import Row, shard_files, write_shard

METADATA = {"schema_version": 1, "grid": 3, "clip": "x", "pretrained": None, "weights_sha256": "0", "method": "gradcam"}
NAMES = ["manifest", "files", "sha256", "Parquet", "schema", "settings", "counts", "rejected", "duplicates", "values"]


def make_table(folder):
    """Three shards of four pairs, of which the last of the first and all of the third were rejected."""
    rng = np.random.default_rng(0)
    manifest = Manifest(METADATA | {"pairs": 12, "shard_size": 4}, {"source": "somewhere"}, complete=True)
    for number, count in enumerate((3, 4, 0)):
        name = f"train-{number:05d}-of-00003.parquet"
        keys = [f"{number}-{i}" for i in range(4)]
        rows = [Row(key, None, "a cat", "ab" * 32, 9, 9, FULL, 0.25) for key in keys[:count]]
        write_shard(folder / "data" / name, rows, *quantise(rng.random((count, 3, 3)).astype(np.float32)), METADATA)
        lines = [json.dumps({"key": key, "caption": "a cat", "reason": "broken"}) for key in keys[count:]]
        if lines:
            (folder / "rejected").mkdir(exist_ok=True)
            (folder / "rejected" / f"{name.removesuffix('.parquet')}.jsonl").write_text("\n".join(lines) + "\n")
        digest = hashlib.sha256((folder / "data" / name).read_bytes()).hexdigest()
        manifest.shards.append(Shard(name, digest, 4, count, 4 - count))
    manifest.save(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_table(tmp_path_factory.mktemp("table"))


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "maps")


def change(folder, number=0, *, rows=None, metadata=None, columns=None):
    """Write a shard anew and sign it: what is wrong with it then is the change alone."""
    path = shard_files(folder)[number]
    table = pq.read_table(path)
    content = table.to_pylist()
    for row in content if rows else []:
        row.update(rows)
    made = json.loads(table.schema.metadata[METADATA_KEY]) | (metadata or {})
    schema = table.schema.with_metadata({METADATA_KEY: json.dumps(made, sort_keys=True).encode()})
    table = pa.Table.from_pylist(content, schema)
    pq.write_table(columns(table) if columns else table, path)
    sign(folder, path)


def sign(folder, path, **counts):
    content = json.loads((folder / "manifest.json").read_text())
    for shard in content["shards"]:
        if shard["file"] == path.name:
            shard.update(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), **counts)
    (folder / "manifest.json").write_text(json.dumps(content))


def edit_manifest(folder, **changes):
    content = json.loads((folder / "manifest.json").read_text()) | changes
    (folder / "manifest.json").write_text(json.dumps(content))


def failed(folder):
    return {check.name: check.found for check in check_table(folder).failures}


def test_a_whole_table_passes_everything(whole):
    steps = []
    report = check_table(whole, step=steps.append)
    assert [check.name for check in report.checks] == NAMES
    assert not report.failures
    found = {check.name: check.found for check in report.checks}
    assert found["counts"] == "12 in = 7 written + 5 rejected"
    assert found["rejected"] == "all 5 with their reasons"
    assert found["schema"] == "version 1, 3×3 cells"
    assert steps == [path.stat().st_size for path in shard_files(whole)]
    table = pa.concat_tables(pq.read_table(path) for path in report.files)
    assert report.pairs.equals(pair_hashes(table["key"], table["caption"]))
    assert report.keys.equals(pair_hashes(table["key"]))


def test_looking_changes_nothing(whole):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(whole.rglob("*"))}

    before = state()
    check_table(whole)
    assert state() == before


def damaged_bytes(folder):
    path = shard_files(folder)[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def truncated(folder):
    path = shard_files(folder)[1]
    path.write_bytes(path.read_bytes()[:-100])
    sign(folder, path)


DAMAGES = {
    "unfinished": (lambda f: edit_manifest(f, complete=False), {"manifest"}, "unfinished"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), {"manifest"}, "there is no manifest.json"),
    "broken manifest": (lambda f: (f / "manifest.json").write_text("{"), {"manifest"}, "can't be read"),
    "parts": (lambda f: (f / "manifest-00001-of-00002.json").write_text("{}"), {"manifest"}, "mae-cli merge"),
    "leftover": (lambda f: (f / "data" / ".tmp-7-x").write_text(""), {"files"}, "left over from a run"),
    "missing shard": (lambda f: shard_files(f)[1].unlink(), {"files"}, "train-00001-of-00003.parquet is missing"),
    "extra shard": (
        lambda f: shutil.copy(shard_files(f)[2], f / "data" / "train-00003-of-00003.parquet"),
        {"files"},
        "train-00003-of-00003.parquet is not in the manifest",
    ),
    "strange file": (lambda f: (f / "data" / "notes.txt").write_text(""), {"files"}, "data/notes.txt is no shard"),
    "other bytes": (lambda f: pq.write_table(pq.read_table(p := shard_files(f)[0]), p), {"sha256"}, "not the file"),
    "truncated": (truncated, {"Parquet"}, "train-00001-of-00003.parquet can't be read"),
    "columns": (lambda f: change(f, columns=lambda t: t.drop_columns(["url"])), {"schema"}, "differs .* in url"),
    "types": (
        lambda f: change(f, columns=lambda t: t.set_column(4, "width", t["width"].cast("int64"))),
        {"schema"},
        "differs .* in width",
    ),
    "version": (lambda f: change(f, metadata={"schema_version": 3}), {"schema"}, "schema version 3, not 1"),
    "no metadata": (
        lambda f: change(f, columns=lambda t: t.replace_schema_metadata(None)),
        {"schema"},
        "no saliency_mae metadata",
    ),
    "settings": (lambda f: change(f, 1, metadata={"clip": "y"}), {"settings"}, "other settings: clip"),
    "count": (lambda f: sign(f, shard_files(f)[1], written=3, taken=3), {"counts"}, "has 4 rows, the manifest says 3"),
    "sum": (lambda f: sign(f, shard_files(f)[1], taken=5), {"manifest"}, "5 pairs in, but 4 written and 0 rejected"),
    "rejects": (
        lambda f: (f / "rejected" / "train-00000-of-00003.jsonl").unlink(),
        {"rejected"},
        r"1 pairs were rejected, but rejected/ lists 0",
    ),
    "reason": (
        lambda f: (f / "rejected" / "train-00000-of-00003.jsonl").write_text('{"key": "x"}\n'),
        {"rejected"},
        "without key and reason",
    ),
    "strange rejects": (lambda f: (f / "rejected" / "x.jsonl").write_text(""), {"rejected"}, "belongs to no shard"),
    "duplicates": (lambda f: change(f, 1, rows={"key": "0-1"}), {"duplicates"}, "4 rows repeat .* first: '0-1'"),
}
VALUES = {
    "crop_box": [[0.5, 0, 0.5, 1], [0, 0, 1.5, 1], [-0.1, 0, 1, 1], [0, float("nan"), 1, 1], [0, 0.8, 1, 0.2]],
    "vmin": [float("nan"), float("inf")],
    "scale": [-1.0, float("nan"), 0.0],
    "clip_score": [1.01, -1.5, float("nan")],
    "width": [0],
    "height": [-3],
    "image_sha256": ["ab", "AB" * 32, "g" * 64, "ab" * 33],
    "saliency": [[254] * 9, [0] * 9],
}


@pytest.mark.parametrize(("damage", "names", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named_by_its_own_check(folder, damage, names, message):
    import re

    damage(folder)
    found = failed(folder)
    assert found.keys() == names
    assert re.search(message, " ".join(found.values()))
    assert "\n" not in " ".join(found.values())


@pytest.mark.parametrize(("column", "value"), [(name, value) for name, values in VALUES.items() for value in values])
def test_a_value_out_of_range(folder, column, value):
    change(folder, 1, rows={column: value})
    found = failed(folder)
    assert found.keys() == {"values"}
    assert "in row 0 of train-00001-of-00003.parquet (key '1-0')" in found["values"]


@pytest.mark.parametrize(("column", "value"), [("clip_score", 1.00001), ("clip_score", -1.0), ("vmin", 0.0)])
def test_a_value_at_the_end_of_its_range(folder, column, value):
    change(folder, 1, rows={column: value})
    assert not failed(folder)


def test_bytes_that_changed_on_the_disk(folder):
    damaged_bytes(folder)
    assert "sha256" in failed(folder)


def test_everything_is_looked_at_whatever_fails_first(folder):
    change(folder, 0, rows={"vmin": float("nan")}, metadata={"clip": "y"})
    shard_files(folder)[2].write_bytes(b"PAR1 nonsense")
    (folder / "data" / ".tmp-1-x").write_text("")
    assert failed(folder).keys() == {"files", "sha256", "Parquet", "settings", "values"}


def test_flat_maps_are_counted_not_refused(folder):
    change(folder, 1, rows={"saliency": [0] * 9, "vmin": 0.0, "scale": 0.0})
    report = check_table(folder)
    assert not report.failures
    assert "4 maps (57.1%) are empty" in report.checks[-1].found


def test_rejects_of_a_stream_lack_the_count_in_their_names(folder):
    for path in (folder / "rejected").iterdir():
        path.rename(path.with_name(path.name.replace("-of-00003", "")))
    assert not failed(folder)


def test_a_published_table_has_counts_of_its_rejects_alone(folder):
    shutil.rmtree(folder / "rejected")
    assert failed(folder).keys() == {"rejected"}
    edit_manifest(folder, origin={"published": True})
    assert not failed(folder)
    assert read_manifest(folder).rejected == 5


def test_rows_are_numbered_over_the_shards_that_can_be_read(folder, monkeypatch):
    """A shard that breaks off in its middle leaves nothing behind, or the key of another row would be named."""
    monkeypatch.setattr(checks, "_BATCH", 1)
    change(folder, 1, rows={"key": "0-1"})
    path = shard_files(folder)[0]
    pq.write_table(pq.read_table(path), path, row_group_size=1)
    data = bytearray(path.read_bytes())
    for column in range(11):
        chunk = pq.ParquetFile(path).metadata.row_group(2).column(column)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(bytes(data))
    found = failed(folder)
    assert "Parquet" in found
    assert found["duplicates"] == "3 rows repeat the key and caption of an earlier one, first: '0-1'"


def test_rejected_pairs(whole):
    wanted = pair_hashes(pa.array(["0-3", "2-0", "2-1", "2-2", "2-3"]), pa.array(["a cat"] * 5))
    assert rejected_pairs(whole).equals(wanted)
    assert len(rejected_pairs(whole / "data")) == 0
