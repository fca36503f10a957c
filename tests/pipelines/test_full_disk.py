"""A disk that is full, a quota that is spent and a folder that can't be written: one line, and no half file."""

import errno
import os
import resource
import signal
import sys
from contextlib import contextmanager

import pytest

import saliency.files
from tests.pipelines.pretraining import invoke
from tools.kill_campaign import make_inputs, scenarios
from tools.killed_runs import tree

pytestmark = [
    pytest.mark.usefixtures("nano"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files"),
]

COMMANDS = {
    "build-saliency": 2500,
    "prepare": 2500,
    "pretrain": 4000,
    "evaluate": 1000,
    "reconstruct a video": 4000,
    "reconstruct": 2000,
    "encode": 500,
    "export": 3000,
}
"""The largest file, in bytes, that the disk has room for."""


@contextmanager
def room_for(size):
    """The kernel refuses to write more than so many bytes into a file."""
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """The words of every command that writes, and those that go on with it."""
    inputs = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch:
        from tests.pipelines.pretraining import nano_runs

        nano_runs(patch)
        make_inputs(inputs)
    return {each.name: (each.steps[0], (*each.steps[0], *each.again)) for each in scenarios(inputs)}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_line_and_the_rerun_goes_on(commands, tmp_path, monkeypatch, name):
    words, again = commands[name]
    for place in ("whole", "full"):
        (tmp_path / place).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    assert invoke(*words).exit_code == 0
    monkeypatch.chdir(tmp_path / "full")
    with room_for(COMMANDS[name]):
        done = invoke(*words)
    assert done.exit_code == 2, done.output
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: File too large: out/")
    assert "free some space" in line
    assert not list((tmp_path / "full").rglob(".*"))
    done = invoke(*again)
    assert done.exit_code == 0, done.output
    assert tree(tmp_path / "full") == tree(tmp_path / "whole")


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC])
def test_a_spent_quota(commands, tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)

    def full(_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(saliency.files.os, "fsync", full)
        done = invoke(*commands["prepare"][0])
    assert done.exit_code == 2
    assert f"error: {os.strerror(number)}: out/" in done.stderr
    assert "free some space" in done.stderr


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("name", [*COMMANDS, "compare"])
def test_a_folder_that_cant_be_written(commands, tmp_path, monkeypatch, name, number):
    """As on a disk that is mounted for reading: nothing can be made there."""
    monkeypatch.chdir(tmp_path)

    def refused(path, *_args, **_kwargs):
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refused)
        done = invoke(*commands[name][0])
    assert done.exit_code == 2, done.output
    assert done.stderr.splitlines()[-1] in {
        f"error: {os.strerror(number)}: out{inside}; give another --out" for inside in ("", "/evaluation.cells")
    }


@pytest.mark.parametrize("name", ["prepare", "pretrain", "compare", "evaluate", "reconstruct", "encode"])
def test_two_at_once(commands, tmp_path, monkeypatch, name):
    from pipelines.outputs import one_writer

    monkeypatch.chdir(tmp_path)
    folder, lock = {"evaluate": ("out/evaluation.cells", ""), "encode": ("out", "features.parquet")}.get(
        name, ("out", "")
    )
    (tmp_path / "out").mkdir()
    with one_writer(tmp_path / folder, name=lock):
        before = tree(tmp_path)
        done = invoke(*commands[name][0])
        assert tree(tmp_path) == before
    assert (done.exit_code, "another process is writing to" in done.stderr) == (2, True)
    assert invoke(*commands[name][0]).exit_code == 0


def test_a_folder_that_a_kill_left_is_in_nobodys_way(commands, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = tmp_path / "out" / "data" / ".tmp-1-train-00000-of-00012.parquet"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    assert invoke(*commands["build-saliency"][0]).exit_code == 0
    assert not left.exists()
