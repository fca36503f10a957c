import json

import pytest

from saliency.files import remove_leftovers, write_atomically, write_text_atomically
from saliency.table.manifest import Manifest, Shard, open_manifest, read_manifest


def test_counts_add_up_or_are_refused():
    Shard("a", "0", 5, 3, 2)
    with pytest.raises(ValueError, match="5 pairs in, but 3 written and 1 rejected"):
        Shard("a", "0", 5, 3, 1)


def test_round_trip(tmp_path):
    manifest = Manifest({"grid": 7}, {"source": "x"}, [Shard("a", "0", 5, 3, 2), Shard("b", "1", 4, 4, 0)], True)
    manifest.save(tmp_path)
    assert read_manifest(tmp_path) == manifest
    assert (manifest.taken, manifest.written, manifest.rejected) == (9, 7, 2)


def test_other_settings_are_refused_by_name(tmp_path):
    Manifest({"grid": 7, "clip": "a"}, {}).save(tmp_path)
    assert open_manifest(tmp_path, {"grid": 7, "clip": "a"}, {"source": "moved"}).settings["grid"] == 7
    with pytest.raises(ValueError, match="grid 7 → 14"):
        open_manifest(tmp_path, {"grid": 14, "clip": "a"}, {})


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="holds no maps"):
        open_manifest(tmp_path, {}, {})


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '{"shards": [{}], "settings": {}, "origin": {}, "complete": true}'])
def test_a_broken_manifest_is_one_line(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="not a manifest"):
        read_manifest(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a"
    write_text_atomically(path, "old")

    def fail(file):
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".tmp-1-train.parquet").write_bytes(b"half")
    (tmp_path / "data" / "train.parquet").write_bytes(b"whole")
    remove_leftovers(tmp_path)
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["train.parquet"]
    for place in (tmp_path, tmp_path / "data"):
        for name in (".tmp-1-a.json", ".tmp-2-b.json"):
            (place / name).write_bytes(b"half")
    remove_leftovers(tmp_path, {"a.json"}, deep=False)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob(".tmp-*")}
    assert left == {".tmp-2-b.json", "data/.tmp-1-a.json", "data/.tmp-2-b.json"}


def test_a_shards_name_that_no_file_can_have_is_refused(tmp_path):
    shard = {"file": "9" * 300, "sha256": "0", "taken": 1, "written": 1, "rejected": 0}
    text = json.dumps({"settings": {}, "origin": {}, "shards": [shard], "complete": True})
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="is not a manifest of build-saliency"):
        read_manifest(tmp_path)
