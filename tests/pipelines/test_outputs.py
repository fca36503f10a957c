"""What is written is never what is read, and is written by one process at a time."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import cli
from pipelines.errors import UserError
from pipelines.outputs import check_apart, is_ours, one_writer
from pipelines.reconstruct.reconstruct import output_names
from pipelines.sources.open_source import open_source
from tests.pipelines.pretraining import SMALL, nano_runs

ROOT = Path(__file__).parents[2]
BOX = ("--box", "0.2,0.2,0.6,0.6", "--device", "cpu")


def invoke(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def picture(path, value=0, size=(40, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(value).integers(0, 256, (*size[::-1], 3), np.uint8)).save(path)


def sums(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.png", "b.jpg"], ["a", "b"]),
        (["a/1.png", "b/1.png", "b/1.jpg"], ["a/1", "b/1.png", "b/1.jpg"]),
        (["a.jpg", "a.png", "b.png"], ["a.jpg", "a.png", "b"]),
        (["a.png", "A.jpg"], ["a.png", "A.jpg"]),
        (["b-side.png", "b.png"], ["b-side.png", "b.png"]),
        (["a.jpg", "a.jpg.png", "a.png"], ["a.jpg~", "a.jpg.png", "a.png"]),
    ],
)
def test_every_picture_has_names_of_its_own(files, names):
    found = output_names(files)
    made = [f"{name}{end}.png".casefold() for name in found for end in ("", "-side")]
    assert len(set(made)) == 2 * len(files)
    assert found == names


def test_pictures_are_never_written_over(models, tmp_path):
    for value, name in enumerate(("a.png", "a.jpg", "b.png", "b-side.png", "c.png", "c_mask.png")):
        picture(tmp_path / "pics" / name, value)
    before = sums(tmp_path / "pics")
    done = invoke("reconstruct", models / "image", tmp_path / "pics", "--out", tmp_path / "out", *BOX)
    assert done.exit_code == 0, done.output
    assert "5 pictures" in done.stdout  # the mask is none
    assert len(list((tmp_path / "out").glob("*.png"))) == 10
    for place in (tmp_path / "pics", tmp_path / "pics" / ".." / "pics"):
        done = invoke("reconstruct", models / "image", tmp_path / "pics", "--out", place, *BOX)
        assert (done.exit_code, "is what is read" in done.stderr) == (2, True)
    done = invoke("reconstruct", models / "image", tmp_path / "pics" / "b.png", "--out", tmp_path / "pics", *BOX)
    assert (done.exit_code, "b.png would be written over" in done.stderr) == (2, True)
    picture(tmp_path / "other" / "c_mask.png")
    masks = ("--mask", tmp_path / "pics" / "c_mask.png", "--out", tmp_path / "pics", "--device", "cpu")
    done = invoke("reconstruct", models / "image", tmp_path / "other" / "c_mask.png", *masks)
    assert (done.exit_code, "c_mask.png would be written over" in done.stderr) == (2, True)
    assert {name: sums(tmp_path / "pics")[name] for name in before} == before


def test_features_and_plots_stay_out_of_the_pictures(models, tmp_path):
    picture(tmp_path / "pics" / "a.png")
    file = tmp_path / "pics" / "features.parquet"
    done = invoke("encode", models / "image", tmp_path / "pics", "--out", file, "--device", "cpu")
    assert (done.exit_code, "lies in" in done.stderr) == (2, True)
    done = invoke("inspect", tmp_path / "pics", "--gallery", tmp_path / "pics" / "a.png")
    assert (done.exit_code, "--gallery" in done.stderr) == (2, True)
    assert sorted(path.name for path in (tmp_path / "pics").iterdir()) == ["a.png"]


def test_a_run_inside_its_source_is_passed_over(tmp_path, monkeypatch):
    nano_runs(monkeypatch)
    for value in range(8):
        picture(tmp_path / "tree" / ("cats" if value % 2 else "dogs") / f"{value}.png", value)
    before = open_source(str(tmp_path / "tree")).keys.to_pylist()
    words = ("pretrain", tmp_path / "tree", "--out", tmp_path / "tree" / "run", *SMALL)
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    picture(tmp_path / "tree" / "run" / "plots" / "loss.png")
    source = open_source(str(tmp_path / "tree"))
    assert source.keys.to_pylist() == before
    assert source.label_names == ["cats", "dogs"]
    done = invoke(*words, "--resume")
    assert done.exit_code == 0, done.output


def test_what_is_known_for_our_own():
    assert is_ours({"config.json", "checkpoints", "plots"})
    assert is_ours({"manifest.json", "data", "rejected"})
    assert not is_ours({"config.json", "a.png"})
    assert not is_ours({"data", "train"})


def test_places_that_are_not_there_are_apart(tmp_path):
    check_apart(tmp_path / "out", ["user/name", None, "shapes:8"])
    check_apart(tmp_path / "a" / "out", [tmp_path / "a"])
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=r"--out .*/a/x.json lies in"):
        check_apart(tmp_path / "a" / "x.json", [tmp_path / "a"], file=True)


HOLD = "import sys, time; from pathlib import Path; from pipelines.outputs import one_writer\n"
HOLD += "with one_writer(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_one_process_writes_and_a_killed_one_leaves_no_lock(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is writing to"), one_writer(tmp_path):
            pytest.fail("two write at a time")
        with one_writer(tmp_path, name="part"):
            pass
        done = invoke("build-saliency", "shapes:2", "--out", tmp_path, "--device", "cpu")
        assert (done.exit_code, "another process" in done.stderr) == (2, True)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with one_writer(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert not list(tmp_path.iterdir())
