import json

import pytest

from pipelines.build.merge import merge
from pipelines.errors import UserError
from saliency.table.manifest import read_manifest
from saliency.table.table import SaliencyTable
from tests.pipelines.build.test_build_saliency import build, tree, write_pictures
from tests.pipelines.pretraining import invoke


@pytest.fixture
def pictures(tmp_path):
    """Eleven pairs in three shards, one of them rejected."""
    folder = write_pictures(tmp_path / "pictures", [f"picture {i % 5}" for i in range(11)])
    (folder / "004.png").write_bytes(b"broken")
    return folder


def build_part(pictures, out, clip, part, parts=2, **options):
    return build(pictures, out, clip, shard=(part, parts), **options)


def test_parts_merged_are_byte_identical_to_one_run(pictures, tmp_path, tiny_clip):
    build(pictures, tmp_path / "whole", tiny_clip)
    assert build_part(pictures, tmp_path / "maps", tiny_clip, 2).taken == 4
    assert build_part(pictures, tmp_path / "maps", tiny_clip, 1).taken == 7
    manifest = merge(tmp_path / "maps")
    assert (manifest.taken, manifest.written, manifest.rejected, manifest.complete) == (11, 10, 1, True)
    assert tree(tmp_path / "maps") == tree(tmp_path / "whole")
    assert len(SaliencyTable(tmp_path / "maps")) == 10
    merge(tmp_path / "maps")  # again: nothing to do
    assert tree(tmp_path / "maps") == tree(tmp_path / "whole")


def test_more_parts_than_shards(pictures, tmp_path, tiny_clip):
    build(pictures, tmp_path / "whole", tiny_clip)
    for part in range(1, 6):
        build_part(pictures, tmp_path / "maps", tiny_clip, part, 5)
    merge(tmp_path / "maps")
    assert tree(tmp_path / "maps") == tree(tmp_path / "whole")


def test_a_part_that_was_stopped_goes_on(pictures, tmp_path, tiny_clip, monkeypatch):
    build(pictures, tmp_path / "whole", tiny_clip)
    build_part(pictures, tmp_path / "maps", tiny_clip, 2)
    with monkeypatch.context() as patch:
        calls = iter(range(100))
        write = __import__("pipelines.build.maps_folder", fromlist=["write_shard"]).write_shard

        def full(*arguments):
            if next(calls) == 1:
                raise OSError(28, "No space left on device")
            write(*arguments)

        patch.setattr("pipelines.build.maps_folder.write_shard", full)
        with pytest.raises(OSError, match="No space"):
            build_part(pictures, tmp_path / "maps", tiny_clip, 1)
    with pytest.raises(UserError, match=r"lacks parts of 2 \(unfinished: 1\); run build-saliency --shard 1/2"):
        merge(tmp_path / "maps")
    build_part(pictures, tmp_path / "maps", tiny_clip, 1)
    merge(tmp_path / "maps")
    assert tree(tmp_path / "maps") == tree(tmp_path / "whole")


def test_a_part_leaves_the_temporary_files_of_others_alone(pictures, tmp_path, tiny_clip):
    data = tmp_path / "maps" / "data"
    data.mkdir(parents=True)
    mine, other = (data / f".tmp-123-train-0000{number}-of-00003.parquet" for number in (1, 0))
    mine.write_text("x")
    other.write_text("x")
    build_part(pictures, tmp_path / "maps", tiny_clip, 2)
    assert other.exists()
    assert not mine.exists()


def test_what_is_missing_is_named_and_nothing_changes(pictures, tmp_path, tiny_clip):
    maps = tmp_path / "maps"
    with pytest.raises(UserError, match="holds no parts"):
        merge(tmp_path / "nowhere")
    build_part(pictures, maps, tiny_clip, 1)
    with pytest.raises(UserError, match=r"absent: 2\); run build-saliency --shard 2/2"):
        merge(maps)
    with pytest.raises(ValueError, match="holds parts of a job array"):
        SaliencyTable(maps)
    build_part(pictures, maps, tiny_clip, 2)
    first = maps / "data" / "train-00000-of-00003.parquet"
    good = first.read_bytes()
    first.write_bytes(good[:-1] + b"?")
    with pytest.raises(UserError, match="train-00000-of-00003.parquet is damaged"):
        merge(maps)
    first.unlink()
    with pytest.raises(UserError, match="train-00000-of-00003.parquet is missing"):
        merge(maps)
    first.write_bytes(good)
    rejected = maps / "rejected" / "train-00001-of-00003.jsonl"
    lines = rejected.read_text()
    rejected.unlink()
    with pytest.raises(UserError, match="train-00001-of-00003.jsonl is missing"):
        merge(maps)
    assert not (maps / "manifest.json").exists()
    rejected.write_text(lines)
    assert merge(maps).written == 10


def test_parts_of_other_settings(pictures, tmp_path, tiny_clip):
    maps = tmp_path / "maps"
    build_part(pictures, maps, tiny_clip, 1)
    with pytest.raises(UserError, match="other settings.*grid 4 → 7"):
        build_part(pictures, maps, tiny_clip, 2, grid=7)
    with pytest.raises(UserError, match="another number of parts"):
        build_part(pictures, maps, tiny_clip, 2, 3)
    with pytest.raises(UserError, match="holds parts of a job array.*merge"):
        build(pictures, maps, tiny_clip)
    build_part(pictures, maps, tiny_clip, 2)
    path = maps / "manifest-00002-of-00002.json"
    path.write_text(path.read_text().replace('"grid": 4', '"grid": 5'))
    with pytest.raises(UserError, match="other settings: grid"):
        merge(maps)
    build(pictures, tmp_path / "whole", tiny_clip)
    with pytest.raises(UserError, match="a run without --shard"):
        build_part(pictures, tmp_path / "whole", tiny_clip, 1)


def test_a_merge_killed_before_its_end_is_finished_by_the_next(pictures, tmp_path, tiny_clip):
    maps = tmp_path / "maps"
    for part in (1, 2):
        build_part(pictures, maps, tiny_clip, part)
    parts = {path.name: path.read_text() for path in maps.glob("manifest-*.json")}
    merge(maps)
    for name, text in parts.items():
        (maps / name).write_text(text)
    assert merge(maps).complete
    assert not list(maps.glob("manifest-*.json"))
    assert json.loads((maps / "manifest.json").read_text())["pairs"] == {"in": 11, "written": 10, "rejected": 1}
    assert read_manifest(maps).complete


def test_an_unfinished_run_is_not_merged(pictures, tmp_path, tiny_clip):
    maps = tmp_path / "maps"
    build(pictures, maps, tiny_clip)
    path = maps / "manifest.json"
    path.write_text(path.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(UserError, match="unfinished run without --shard"):
        merge(maps)


@pytest.mark.parametrize("parts", [None, 2])
def test_a_shard_that_is_lost_is_made_again(pictures, tmp_path, tiny_clip, parts):
    build(pictures, tmp_path / "whole", tiny_clip)
    maps = tmp_path / "maps"
    runs = [{}] if parts is None else [{"shard": (part, parts)} for part in (1, 2)]
    for options in runs:
        build(pictures, maps, tiny_clip, **options)
    (maps / "data" / "train-00002-of-00003.parquet").unlink()
    for options in runs:
        build(pictures, maps, tiny_clip, **options)
    if parts:
        merge(maps)
    assert tree(maps) == tree(tmp_path / "whole")


def test_a_part_may_begin_while_another_is_looked_at(pictures, tmp_path, tiny_clip, monkeypatch):
    """Its manifest appears between two looks into the folder: it is no stranger."""
    import saliency.table.manifest

    maps = tmp_path / "maps"
    build_part(pictures, maps, tiny_clip, 1)
    monkeypatch.setattr(saliency.table.manifest, "part_manifests", lambda _: [])
    assert build_part(pictures, maps, tiny_clip, 2).taken == 4


def test_the_parts_of_the_command_line_share_a_folder(tmp_path):
    """Also where the first one has left its options there."""
    out = tmp_path / "maps"
    for part in ("1/2", "2/2"):
        line = ("build-saliency", "shapes-video:4,size=32,frames=3", "--method", "motion", "--out", out)
        done = invoke(*line, "--shard-size", 2, "--shard", part)
        assert done.exit_code == 0, done.output
    assert (out / "command.yaml").exists()
    assert invoke("merge", out).exit_code == 0
    assert len(SaliencyTable(out)) == 4
