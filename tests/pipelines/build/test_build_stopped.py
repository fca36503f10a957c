"""A build that is stopped, killed or runs out of disk loses nothing, and says so in a line."""

import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest

from saliency.table.manifest import read_manifest
from saliency.table.table import shard_files
from tests.pipelines.build.test_build_saliency import ROOT, WITHOUT_PRIVILEGES, build, rejects, tree, write_pictures


@pytest.mark.parametrize("failing", range(6))
def test_stopped_at_any_write_it_ends_byte_identical(bad_pictures, tmp_path, tiny_clip, monkeypatch, failing):
    """The disk fills at the n-th file; the next run finishes, and nothing tells the two apart."""
    import saliency.files

    build(bad_pictures, tmp_path / "whole", tiny_clip)
    sync, calls = os.fsync, iter(range(1000))

    def full(descriptor):
        if next(calls) // 2 == failing:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(saliency.files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        build(bad_pictures, tmp_path / "stopped", tiny_clip)
    monkeypatch.undo()
    assert not list((tmp_path / "stopped").rglob(".tmp-*"))
    build(bad_pictures, tmp_path / "stopped", tiny_clip)
    assert tree(tmp_path / "stopped") == tree(tmp_path / "whole")


def test_rejects_of_a_stopped_run_do_not_outlive_the_mended_source(pictures, tmp_path, tiny_clip, monkeypatch):
    good = (pictures / "001.png").read_bytes()
    (pictures / "001.png").write_bytes(good[:100])
    monkeypatch.setattr(
        "pipelines.build.maps_folder.write_shard", lambda *_: (_ for _ in ()).throw(OSError(28, "No space"))
    )
    with pytest.raises(OSError, match="No space"):
        build(pictures, tmp_path / "maps", tiny_clip)
    monkeypatch.undo()
    assert len(rejects(tmp_path / "maps")) == 1
    (pictures / "001.png").write_bytes(good)
    assert build(pictures, tmp_path / "maps", tiny_clip).rejected == 0
    assert not rejects(tmp_path / "maps")


def run_cli(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def arguments(source, out, clip):
    return ["build-saliency", source, "--out", out, "--clip", clip, "--shard-size", 8, "--batch-size", 4]


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [1, 3, 6])
def test_kill_9_loses_nothing(tmp_path, tiny_clip, wanted):
    folder = write_pictures(tmp_path / "pictures", [f"picture {i}" for i in range(80)], size=(300, 300))
    whole = run_cli(*arguments(folder, tmp_path / "whole", tiny_clip))
    assert whole.wait(120) == 0
    killed = run_cli(*arguments(folder, tmp_path / "killed", tiny_clip))
    deadline = time.monotonic() + 60
    while len(shard_files(tmp_path / "killed")) < wanted and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    left = read_manifest(tmp_path / "killed")
    assert left is not None
    for shard in left.shards:  # what the manifest calls done is whole
        data = (tmp_path / "killed" / "data" / shard.file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard.sha256
    again = run_cli(*arguments(folder, tmp_path / "killed", tiny_clip))
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert "80 pairs: 80 maps" in output
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path, tiny_clip):
    folder = write_pictures(tmp_path / "pictures", [f"picture {i}" for i in range(400)], size=(300, 300))
    running = run_cli(*arguments(folder, tmp_path / "maps", tiny_clip))
    deadline = time.monotonic() + 60
    while not shard_files(tmp_path / "maps") and time.monotonic() < deadline:
        time.sleep(0.002)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert errors.splitlines()[-1].startswith("error: interrupted; run the same command again to resume")
    assert "Traceback" not in errors
    again = run_cli(*arguments(folder, tmp_path / "maps", tiny_clip))
    assert again.wait(120) == 0
    assert read_manifest(tmp_path / "maps").written == 400


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="drops Linux capabilities")
def test_no_write_permission_is_one_line(tmp_path, tiny_clip):
    folder = write_pictures(tmp_path / "pictures", ["a", "b"])
    (tmp_path / "locked").mkdir(mode=0o500)
    command = [
        sys.executable,
        "-c",
        WITHOUT_PRIVILEGES,
        *map(str, arguments(folder, tmp_path / "locked" / "x", tiny_clip)),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "Permission denied" in done.stderr
    assert not list((tmp_path / "locked").iterdir())


@pytest.mark.slow
def test_a_full_disk_is_one_line(tmp_path, tiny_clip):
    """A real limit on file size: the kernel refuses the write, as on a full disk."""
    folder = write_pictures(tmp_path / "pictures", [f"picture {i}" for i in range(8)])
    code = (
        "import resource, signal, sys, cli; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500)); sys.argv[0] = 'mae-cli'; cli.app()"
    )
    command = [sys.executable, "-c", code, *map(str, arguments(folder, tmp_path / "maps", tiny_clip))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "maps").rglob(".tmp-*"))
    assert run_cli(*arguments(folder, tmp_path / "maps", tiny_clip)).wait(60) == 0
    assert read_manifest(tmp_path / "maps").written == 8
