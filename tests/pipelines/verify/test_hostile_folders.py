"""Every command that reads maps tells a stranger's folder in one line; ``verify`` goes through all of its checks."""

import json
import os
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

import cli
from pipelines.errors import UserError
from pipelines.sources.open_source import open_source
from pipelines.views.joined_maps import join_maps
from saliency.table.manifest import Manifest, Shard
from saliency.table.table import shard_files
from tests.saliency.table.test_checks import NAMES, make_table
from tests.saliency.table.test_hostile_maps import MANIFESTS, REJECTS, SHARDS


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_table(tmp_path_factory.mktemp("table"))


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "maps")


def bad_manifest(kind):
    content = MANIFESTS[kind]
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda folder: (folder / "manifest.json").write_bytes(data)


KINDS = {f"shard: {kind}": SHARDS[kind][0] for kind in SHARDS}
KINDS |= {f"manifest: {kind}": bad_manifest(kind) for kind in MANIFESTS}


def called(*words):
    done = CliRunner().invoke(cli.app, [str(word) for word in words], env={"COLUMNS": "400"})
    assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)
    return done


@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_says_it_in_a_line(kind, folder, tmp_path):
    KINDS[kind](folder)
    checked = called("verify", folder)
    assert checked.exit_code == 1
    assert [
        line.split()[0] for line in checked.stdout.splitlines() if line.split()[:1] and line.split()[0] in NAMES
    ] == NAMES
    readers = {
        "inspect": ("inspect", folder),
        "publish": ("publish", folder, "me/maps", "--dry-run", tmp_path / "dry"),
        "merge": ("merge", folder),
    }
    for name, words in readers.items():
        done = called(*words)
        if name == "merge" and kind.startswith("shard"):
            continue  # a whole that is merged already is left as it is
        assert done.exit_code == 2, (name, done.output)
        told = done.stderr.rpartition("\r")[2]  # behind the bars
        assert told.startswith("error: ")
        assert told.count("\n") == 1
    assert not (tmp_path / "dry").exists()
    with pytest.raises(UserError, match="maps"):
        join_maps(folder, open_source("shapes:4"), on_missing="error")


@pytest.mark.parametrize("kind", REJECTS)
def test_verify_with_a_source_passes_over_odd_rejects(kind, folder):
    (folder / "rejected" / "train-00000-of-00003.jsonl").write_bytes(REJECTS[kind])
    done = called("verify", folder, "shapes:4")
    assert done.exit_code == 1
    assert "without key and reason" in done.stdout


def parts(folder, numbers, of, **settings):
    settings = {"pairs": 12, "shard_size": 4, "grid": 3} | settings
    listed = {number: Shard(path.name, "0", 4, 4, 0) for number, path in enumerate(shard_files(folder))}
    (folder / "manifest.json").unlink()
    for number in numbers:
        name = f"manifest-{number:05d}-of-{of:05d}.json"
        Manifest(settings, {}, list(listed.values()) if number == 1 else [], complete=True, name=name).save(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"pairs": 10**12, "shard_size": 1},
            r"3 shards are there, and 1000000000000 were to be made, first in no part",
        ),
        ({"pairs": 10**30}, "a build of 10{30} pairs in shards of 4 can't be"),
        ({"pairs": -5}, "a build of -5 pairs in shards of 4 can't be"),
        ({"pairs": "12"}, "a build of '12' pairs in shards of 4 can't be"),
        ({"pairs": None}, "a build of None pairs"),
        ({"shard_size": 0}, "in shards of 0 can't be"),
        ({"shard_size": 2.5}, r"in shards of 2\.5 can't be"),
        ({"pairs": 8}, "3 shards are there, and 2 were to be made, first in no part: train-00000-of-00002.parquet"),
    ],
)
def test_merge_refuses_absurd_sizes_at_once(settings, message, folder):
    parts(folder, [1, 2], 2, **settings)
    done = called("merge", folder)
    assert done.exit_code == 2
    import re

    assert re.search(message, done.stderr), done.stderr


def test_merge_lists_a_few_of_very_many_parts(folder):
    parts(folder, [1], 99_999)
    done = called("merge", folder)
    assert done.exit_code == 2
    assert "lacks parts of 99999 (absent: 2, 3, 4," in done.stderr
    assert "and 99978 more); run build-saliency --shard 2/99999, then merge again" in done.stderr
    assert len(done.stderr) < 500


def test_merge_says_that_a_pipe_is_damaged(folder):
    parts(folder, [1, 2], 2)
    path = shard_files(folder)[1]
    path.unlink()
    os.mkfifo(path)
    assert "is damaged: its sha256 is not its manifest's" in called("merge", folder).stderr


def test_what_a_stranger_names_its_files_reaches_the_terminal_spelled_out(folder):
    name = "train-\x1b[31m[b]\x07-\u202e.parquet"
    shutil.copy(shard_files(folder)[0], folder / "data" / name)
    done = called("verify", folder)
    assert "\x1b[31m" not in done.output
    assert r"train-\x1b[31m[b]\x07-\u202e.parquet" in done.output


def test_keys_of_strangers_are_spelled_out(folder):
    from tests.saliency.table.test_checks import change

    change(folder, 1, rows={"key": "[/b]\x1b]0;title\x07[red]", "vmin": float(np.nan)})
    done = called("verify", folder)
    assert "\x1b]0" not in done.output
    assert "[/b]" in done.output
    assert "[red]" in done.output
