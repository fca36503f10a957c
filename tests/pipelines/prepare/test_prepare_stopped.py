"""A preparation that is stopped or killed goes on to the byte, and refuses what is not its own."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pipelines.errors import UserError
from pipelines.sources.open_source import open_source
from pipelines.sources.prepared_folder import NAME, check_prepared
from tests.pipelines.build.test_build_saliency import tree
from tests.pipelines.prepare.test_prepare import FORMATS, ROOT, picture, run, streamed

pytestmark = pytest.mark.usefixtures("hf_cache")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_stopped_run_ends_byte_identical(pairs, tmp_path, kind, workers, monkeypatch):
    (pairs / "images.v1" / "002.a.jpg").write_bytes(b"nothing")
    options = {"format": kind, "max_rejected": 1, "shard_size": 3}
    run(pairs, tmp_path / "whole", **options)
    module = sys.modules["pipelines.prepare.prepare"]
    write, calls = module.write_atomically, []

    def stops(path, content):
        calls.append(path)
        if len(calls) == 3:
            (path.parent / f".tmp-1-{path.name}").write_bytes(b"half")  # as a kill leaves it
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", stops)
        with pytest.raises(KeyboardInterrupt):
            run(pairs, tmp_path / "stopped", **options)
    assert len(calls) == 3
    with pytest.raises(UserError, match="unfinished; run the same prepare command again"):
        open_source(str(tmp_path / "stopped"))
    (tmp_path / "stopped" / calls[0].name).unlink()  # and a file was lost since
    run(pairs, tmp_path / "stopped", workers=workers, **options)
    assert tree(tmp_path / "stopped") == tree(tmp_path / "whole")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").rglob("*.*")}
    run(pairs, tmp_path / "stopped", **options)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").rglob("*.*")} == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 40}, "size 32 → 40"),
        ({"quality": 50}, "quality 90 → 50"),
        ({"format": "webdataset"}, "format 'parquet' → 'webdataset'"),
        ({"captions": "first"}, "captions"),
        ({"limit": 9}, "rows 10 → 9"),
    ],
)
def test_other_settings_are_refused(pairs, tmp_path, change, message):
    run(pairs, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(UserError, match=f"was started with other settings .*{message}"):
        run(pairs, tmp_path / "out", **change)
    assert tree(tmp_path / "out") == before


def test_a_folder_of_something_else_is_refused(pairs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is not empty, and prepare did not begin it"):
        run(pairs, tmp_path / "out")
    (tmp_path / "out" / NAME).write_text("{}")
    with pytest.raises(UserError, match=r"prepared\.json is not what prepare wrote"):
        run(pairs, tmp_path / "out")


def test_a_lost_file_is_told_of(pairs, tmp_path):
    run(pairs, tmp_path / "out")
    check_prepared(tmp_path / "out")
    (tmp_path / "out" / "images-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError, match="lacks 1 of its 3 files, first images-00001-of-00003.parquet"):
        open_source(str(tmp_path / "out"))


def test_a_stopped_stream_goes_on(pairs, tmp_path, monkeypatch):
    run(pairs, tmp_path / "once", size=50)
    streamed(tmp_path / "once", monkeypatch)
    run("me/pairs", tmp_path / "whole", limit=9)
    module = sys.modules["pipelines.prepare.prepare"]
    write, calls = module.write_atomically, []

    def stops(path, content):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", stops)
        with pytest.raises(KeyboardInterrupt):
            run("me/pairs", tmp_path / "stopped", limit=9)
    assert [path.name for path in (tmp_path / "stopped").glob("images*")] == ["images-00000.parquet"]
    run("me/pairs", tmp_path / "stopped", limit=9)
    assert tree(tmp_path / "stopped") == tree(tmp_path / "whole")
    assert len(open_source(str(tmp_path / "stopped"))) == 9


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_byte(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    for i in range(150):
        picture(i, (700, 500)).save(folder / f"{i:03d}.jpg")
    run(folder, tmp_path / "whole", shard_size=10)
    command = [sys.executable, "-m", "cli", "prepare", str(folder), "--out", str(tmp_path / "killed"), "--size", "32"]
    command += ["--shard-size", "10", "--workers", "2"]
    for wanted in (1, 6):
        with subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE
        ) as killed:
            deadline = time.monotonic() + 60
            while len(list((tmp_path / "killed").glob("images*"))) < wanted and time.monotonic() < deadline:
                assert killed.poll() is None
                time.sleep(0.002)
            killed.send_signal(signal.SIGKILL)
    assert len(list((tmp_path / "killed").glob("images*"))) < 15
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
