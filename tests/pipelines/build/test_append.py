"""``build-saliency --append``: new pairs become new shards, and old ones keep their bytes, wherever a run is killed."""

import json
import shutil
import unicodedata

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import cli
from pipelines.build import append as module
from pipelines.build import build_saliency as building
from pipelines.errors import UserError
from pipelines.verify.options import VerifyOptions
from pipelines.verify.verify import verify
from saliency.table.manifest import read_manifest
from saliency.table.table import SaliencyTable, shard_files
from tests.pipelines.build.test_build_saliency import build, rejects, tree, write_pictures


@pytest.fixture
def pictures(tmp_path):
    """Fifteen pairs, of which the fifth and the twelfth can't be read."""
    folder = write_pictures(tmp_path / "pictures", [f"picture {i % 5}" for i in range(15)])
    for i in (4, 11):
        (folder / f"{i:03d}.png").write_bytes(b"broken")
    return folder


@pytest.fixture
def maps(pictures, tmp_path, tiny_clip):
    """The first nine pairs, in shards of four."""
    build(pictures, tmp_path / "maps", tiny_clip, limit=9)
    return tmp_path / "maps"


def keys(folder):
    return [pq.read_table(path)["key"].to_pylist() for path in shard_files(folder)]


def names(*numbers):
    return [f"{number:03d}.png" for number in numbers]


def test_new_pairs_become_new_shards(pictures, maps, tmp_path, tiny_clip):
    before = [path.read_bytes() for path in shard_files(maps)]
    manifest = build(pictures, maps, tiny_clip, append=True)
    assert (manifest.taken, manifest.written, manifest.rejected, manifest.complete) == (15, 13, 2, True)
    assert keys(maps) == [names(0, 1, 2, 3), names(5, 6, 7), names(8), names(9, 10, 12), names(13, 14)]
    assert [path.read_bytes() for path in shard_files(maps)[:3]] == before
    assert [reject["key"] for reject in rejects(maps)] == names(4, 11)
    assert [entry["pairs"] for entry in manifest.settings["appended"]] == [6]
    checks = verify(VerifyOptions(str(maps), str(pictures)), quiet=True)
    assert all(check.passed for check in checks), checks
    build(pictures, tmp_path / "whole", tiny_clip)
    ours, whole = SaliencyTable(maps), SaliencyTable(tmp_path / "whole")
    rows = ours.join(whole.keys, whole.captions)
    difference = ours.maps(rows).astype(int) - whole.maps(np.arange(13)).astype(int)
    assert np.abs(difference).max() <= 1


def test_nothing_to_append(pictures, maps, tiny_clip, capsys):
    """Pairs that were rejected are not tried again, also where they could be read by now."""
    (pictures / "004.png").write_bytes((pictures / "003.png").read_bytes())
    before = tree(maps)
    arguments = ["build-saliency", pictures, "--out", maps, "--clip", tiny_clip, "--limit", "9", "--append"]
    done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert f"nothing to append: every pair of {pictures} has a map or was rejected before" in done.stderr
    assert "9 pairs: 8 maps" in done.stdout
    assert tree(maps) == before


def test_appending_again_and_other_captions(pictures, maps, tmp_path, tiny_clip):
    """Only the key and caption say which pair is new: further captions of known images are appended, too."""
    build(pictures, maps, tiny_clip, append=True, limit=10)
    build(pictures, maps, tiny_clip, append=True, shard_size=2)
    assert keys(maps)[3:] == [names(9), names(10), names(12, 13), names(14)]
    lines = [json.loads(line) for line in (pictures / "metadata.jsonl").read_text().splitlines()]
    lines[0]["caption"] = "another text"
    (pictures / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest = build(pictures, maps, tiny_clip, append=True)
    assert keys(maps)[-1] == names(0)
    assert [entry["pairs"] for entry in manifest.settings["appended"]] == [1, 5, 1]
    assert (manifest.taken, manifest.origin["limit"]) == (16, None)
    assert all(check.passed for check in verify(VerifyOptions(str(maps)), quiet=True))


def test_another_unicode_form_is_no_other_pair(tmp_path, tiny_clip):
    folder = write_pictures(tmp_path / "pictures", ["café", "thé"])
    build(folder, tmp_path / "maps", tiny_clip)
    path = folder / "metadata.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["caption"] = unicodedata.normalize("NFD", line["caption"])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert build(folder, tmp_path / "maps", tiny_clip, append=True).taken == 2


class KilledError(BaseException):
    """As a kill, which nothing handles."""


def test_a_run_killed_anywhere_ends_the_same(pictures, maps, tmp_path, tiny_clip, monkeypatch):
    begun = shutil.copytree(maps, tmp_path / "begun")
    build(pictures, maps, tiny_clip, append=True)
    wanted = tree(maps)
    steps = {"_move": module, "sync": module, "save": module.Manifest, "join_appended": building, "rmtree": shutil}
    killed = 0
    for name, place in steps.items():
        for moment in range(40):
            shutil.rmtree(maps)
            shutil.copytree(begun, maps)
            calls, original = iter(range(100)), getattr(place, name)

            def kill(*arguments, calls=calls, original=original, moment=moment, **more):
                if next(calls) == moment:
                    raise KilledError
                return original(*arguments, **more)

            with monkeypatch.context() as patch:
                patch.setattr(place, name, kill)
                try:
                    build(pictures, maps, tiny_clip, append=True)
                    break
                except KilledError:
                    killed += 1
            build(pictures, maps, tiny_clip, append=True)
            assert tree(maps) == wanted, f"{name}, call {moment}"
            assert not list(maps.glob(".[aj]*"))
    assert killed > 15


def test_readers_see_the_old_maps_until_the_end(pictures, maps, tiny_clip, monkeypatch):
    monkeypatch.setattr(building, "join_appended", lambda folder: None)
    build(pictures, maps, tiny_clip, append=True)
    (maps / ".joining").rename(maps / ".append")
    (maps / ".append" / "data" / ".tmp-1-train-00000-of-00002.parquet").touch()
    assert len(SaliencyTable(maps)) == 8
    assert all(check.passed for check in verify(VerifyOptions(str(maps)), quiet=True))


def spoil_manifest(maps, **changes):
    content = json.loads((maps / "manifest.json").read_text())
    for name, value in changes.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    (maps / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (None, {"method": "legrad"}, r"other settings \(layer .*; method 'gradcam' → 'legrad'\)"),
        (None, {"grid": 7, "fit": "crop"}, r"other settings \(fit 'squash' → 'crop'; grid 4 → 7\)"),
        (shutil.rmtree, {}, "does not exist: make the maps without --append first"),
        (lambda maps: (maps / "manifest.json").unlink(), {}, "holds no maps to append to"),
        (lambda maps: spoil_manifest(maps, complete=False), {}, "is unfinished: finish it with the command"),
        (lambda maps: (maps / "manifest.json").rename(maps / "manifest-00001-of-00002.json"), {}, "parts of a job"),
        (lambda maps: spoil_manifest(maps, origin={"published": True}), {}, "is a published copy"),
        (lambda maps: shard_files(maps)[1].unlink(), {}, r"has lost 1 of its files \(train-00001-of-00003.parquet\)"),
        (lambda maps: shard_files(maps)[1].write_bytes(b"x"), {}, "can't be read as Parquet"),
    ],
)
def test_what_cannot_be_appended_to_is_one_line(pictures, maps, tiny_clip, spoil, options, message):
    if spoil is not None:
        spoil(maps)
    with pytest.raises(UserError, match=message):
        build(pictures, maps, tiny_clip, append=True, **options)
    assert not (maps / ".append").exists()


def test_an_append_of_other_pairs_is_not_mixed(pictures, maps, tiny_clip):
    with pytest.raises(UserError, match="more than --max-rejected 0; the reasons are in .*append/rejected"):
        build(pictures, maps, tiny_clip, append=True, max_rejected=0)
    with pytest.raises(UserError, match="append of other pairs that is unfinished"):
        build(pictures, maps, tiny_clip, append=True, limit=14)
    assert build(pictures, maps, tiny_clip, append=True).taken == 15
    with pytest.raises(UserError, match="has pairs that were appended: give --append"):
        build(pictures, maps, tiny_clip)
    with pytest.raises(ValueError, match="--append makes all new files in one run"):
        build(pictures, maps, tiny_clip, append=True, shard=(1, 2))
    assert read_manifest(maps).taken == 15
