"""`reconstruct` of streams: what is written is whole, visible pixels are kept, faults are told of."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("av")

import cli
from mae.evaluation.image_quality import psnr, ssim
from pipelines.frames.live import Live
from pipelines.frames.options import LiveOptions
from pipelines.reconstruct.reconstruct_video import Figures, Frame
from tests.pipelines.video_files import write_video

ROOT = Path(__file__).parents[3]


def footage(count=9, width=50, height=37):
    """Smooth pictures that change."""
    small = np.random.default_rng(0).integers(0, 256, (count, 4, 5, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((width, height))) for each in small])


def invoke(command, *arguments, stdin=None):
    return CliRunner().invoke(cli.app, [command, *map(str, arguments), "--device", "cpu"], input=stdin)


def frames_of(path):
    return np.stack(list(Live(LiveOptions(str(path)))))


def inside(shape=(37, 50)):
    box = np.zeros(shape, bool)
    box[9:28, 10:30] = True
    return box


@pytest.mark.parametrize("kind", ["video", "image"])
def test_a_video_with_a_box(models, tmp_path, kind):
    write_video(tmp_path / "clip.mkv", footage(), codec="ffv1", pixels="bgr0")
    place, out = tmp_path / "clip.mkv", tmp_path / "out"
    done = invoke(
        *("reconstruct", models / kind, place, "--box", "0.2,0.25,0.6,0.75", "--truth", place),
        *("--lossless", "--side", "--out", out),
    )
    assert done.exit_code == 0, done.output
    assert re.search(r"latency +[12] frames, \d+ ms", done.output)
    assert {path.name for path in out.iterdir()} == {"clip-side.mkv", "clip.mkv", "report.json", "command.yaml"}
    completed = frames_of(out / "clip.mkv")
    assert completed.shape == footage().shape
    assert (completed[:, ~inside()] == footage()[:, ~inside()]).all()
    assert (completed[:, inside()] != footage()[:, inside()]).any(-1).mean() > 0.9
    side = frames_of(out / "clip-side.mkv")
    assert np.array_equal(side[:, :, 50:100], completed)
    assert np.array_equal(side[:, :, 100:], footage())
    assert (side[:, :, :50][:, inside()] == 128).all()
    report = json.loads((out / "report.json").read_text())
    assert report["frames"] == 9
    assert report["latency"] == (2 if kind == "video" else 1)
    given, found = (torch.from_numpy(each.copy()).permute(0, 3, 1, 2) for each in (footage(), completed))
    region = torch.from_numpy(inside())[None].expand(9, -1, -1)
    assert report["means"]["psnr"] == pytest.approx(float(psnr(found, given, region).mean()), rel=1e-4)
    assert report["means"]["ssim"] == pytest.approx(float(ssim(found, given, region).mean()), abs=1e-5)


def test_what_is_skipped_is_told(models, tmp_path):
    still = np.stack([footage()[0]] * 8 + list(footage(2)))
    write_video(tmp_path / "clip.mkv", still, codec="ffv1", pixels="bgr0")
    words = [tmp_path / "clip.mkv", "--box", "0.2,0.25,0.6,0.75", "--lossless", "--skip-below", "0.01"]
    done = invoke("reconstruct", models / "video", *words, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "60.0% of the patches, which changed by less than 0.01" in done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["skip_below"], report["skipped"]) == (0.01, 0.6)
    assert (frames_of(tmp_path / "out" / "clip.mkv")[:, ~inside()] == still[:, ~inside()]).all()
    refused = invoke("reconstruct", models / "image", *words, "--out", tmp_path / "no")
    assert refused.exit_code == 2
    assert "--skip-below is for models of video" in refused.stderr


def test_mp4_is_what_is_written_if_nothing_is_said(models, tmp_path):
    write_video(tmp_path / "clip.mkv", footage(3))
    done = invoke(
        "reconstruct", models / "video", tmp_path / "clip.mkv", "--box", "0,0,0.5,1", "--out", tmp_path / "out"
    )
    assert done.exit_code == 0, done.output
    assert "3 frames in" in done.output
    assert frames_of(tmp_path / "out" / "clip.mp4").shape == (3, 38, 50, 3)
    assert not (tmp_path / "out" / "clip-side.mp4").exists()


def moving_masks(count=9):
    masks = np.zeros((count, 37, 50), bool)
    for number, mask in enumerate(masks):
        mask[5 : 5 + 3 * number, 4 + number : 20 + number] = True
    return masks


def changed(out, name="clip.mkv"):
    return (frames_of(out / name) != footage()).any(-1)


@pytest.mark.parametrize("kind", ["video", "folder", "picture"])
def test_masks_of_a_video(models, tmp_path, kind):
    masks = moving_masks()
    write_video(tmp_path / "clip.mkv", footage(), codec="ffv1", pixels="bgr0")
    if kind == "video":
        write_video(
            tmp_path / "masks.mp4",
            np.repeat(255 * masks[..., None], 3, 3).astype(np.uint8),
            codec="libx264",
            pixels="yuv444p",
        )
        place = tmp_path / "masks.mp4"
    else:
        place = tmp_path / "masks"
        place.mkdir()
        for number, mask in enumerate(masks):
            Image.fromarray(mask).save(place / f"{number:02}.png")
    if kind == "picture":
        place, masks = place / "05.png", masks[[5] * 9]
    done = invoke(
        "reconstruct", models / "video", tmp_path / "clip.mkv", "--mask", place, "--lossless", "--out", tmp_path / "out"
    )
    assert done.exit_code == 0, done.output
    found = changed(tmp_path / "out")
    assert not found[~masks].any()
    assert found[masks].mean() > 0.9


def test_a_folder_of_frames_with_its_own_masks(models, tmp_path):
    masks = moving_masks()
    for number, (frame, mask) in enumerate(zip(footage(), masks, strict=True)):
        (tmp_path / "clip").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "clip" / f"{number:05}.png")
        Image.fromarray(mask).save(tmp_path / "clip" / f"{number:05}_mask.png")
    place = tmp_path / "clip"
    done = invoke(
        "reconstruct", models / "video", place, "--as-video", "--mask", place, "--lossless", "--out", tmp_path / "out"
    )
    assert done.exit_code == 0, done.output
    found = changed(tmp_path / "out")
    assert not found[~masks].any()
    assert found[masks].mean() > 0.9
    (place / "00004_mask.png").unlink()
    done = invoke("reconstruct", models / "video", place, "--as-video", "--mask", place, "--out", tmp_path / "other")
    assert done.exit_code == 2
    assert "no picture for 00004.png" in done.stderr.replace("\n", " ")
    assert not list((tmp_path / "other").glob("*"))


def test_masks_that_end_early_are_told_of(models, tmp_path):
    write_video(tmp_path / "clip.mkv", footage(), codec="ffv1", pixels="bgr0")
    (tmp_path / "masks").mkdir()
    for number, mask in enumerate(moving_masks(6)):
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    done = invoke(
        "reconstruct",
        models / "video",
        tmp_path / "clip.mkv",
        "--mask",
        tmp_path / "masks",
        "--lossless",
        "--out",
        tmp_path / "out",
    )
    assert done.exit_code == 0, done.output
    assert "the masks ended at frame 6" in done.output
    found = changed(tmp_path / "out")
    assert found[8][moving_masks()[5]].mean() > 0.9


def test_raw_frames_on_standard_input(models, tmp_path):
    raw = footage().tobytes()
    arguments = (models / "video", "-", "--size", "50x37", "--box", "0.2,0.25,0.6,0.75", "--lossless", "--fps", "12.5")
    done = invoke("reconstruct", *arguments, "--out", tmp_path / "out", stdin=raw[:-100])
    assert done.exit_code == 0, done.output
    assert "ended within a frame" in done.output
    live = Live(LiveOptions(str(tmp_path / "out" / "stdin.mkv")))
    found = np.stack(list(live))
    assert live.fps == 12.5
    assert np.array_equal(found[:, ~inside()], footage()[:8, ~inside()])
    assert json.loads((tmp_path / "out" / "report.json").read_text())["faults"] == {"truncated": True}


def walled(count=18, entered=None):
    """A picture that stands still, and from a frame on a red block before it; and where that is."""
    frames, hidden = footage(1).repeat(count, axis=0), np.zeros((count, 37, 50), bool)
    for number in range(count if entered is None else entered, count):
        hidden[number, 10:25, 5 + number : 20 + number] = True
    frames[hidden] = (250, 10, 10)
    return frames, hidden


@pytest.mark.parametrize("kind", ["video", "image"])
@pytest.mark.parametrize("extra", [(), ("--look-ahead",), ("--box", "0.8,0.8,1,1")])
def test_an_occluder_is_found(models, tmp_path, kind, extra):
    frames, hidden = walled(entered=9)
    write_video(tmp_path / "clip.mkv", frames, codec="ffv1", pixels="bgr0")
    arguments = ("reconstruct", models / kind, tmp_path / "clip.mkv", "--find", *extra, "--lossless")
    done = invoke(*arguments, "--out", tmp_path / "out")
    if "--look-ahead" in extra and kind == "image":
        assert done.exit_code == 2
        assert "--look-ahead is for models of video" in done.stderr
        assert not (tmp_path / "out").exists()
        return
    assert done.exit_code == 0, done.output
    changed = (frames_of(tmp_path / "out" / "clip.mkv") != frames).any(-1)
    boxed = np.zeros((37, 50), bool)
    if "--box" in extra:
        boxed[30:, 40:] = True  # what is asked for and what is found are hidden together
        assert changed[:, boxed].mean() > 0.9
    assert not changed[:9, ~boxed].any()
    assert changed[hidden].mean() > 0.9
    assert changed[~hidden & ~boxed].sum() < 0.5 * hidden.sum()
    latency = json.loads((tmp_path / "out" / "report.json").read_text())["latency"]
    assert latency == (1 if kind == "image" else 8 if "--look-ahead" in extra else 2)


@pytest.mark.parametrize("extra", [(), ("--look-ahead",)])
def test_a_video_of_which_nothing_is_found_stays_as_it_is(models, tmp_path, extra):
    write_video(tmp_path / "clip.mkv", walled(7)[0], codec="ffv1", pixels="bgr0")
    arguments = ("reconstruct", models / "video", tmp_path / "clip.mkv", "--find", *extra, "--lossless")
    done = invoke(*arguments, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert np.array_equal(frames_of(tmp_path / "out" / "clip.mkv"), walled(7)[0])
    assert json.loads((tmp_path / "out" / "report.json").read_text())["means"] == {"hidden": 0}


def test_frames_of_another_size_are_found_at_the_size_of_the_first(models, tmp_path):
    frames, hidden = walled(entered=9)
    (tmp_path / "clip").mkdir()
    for number, frame in enumerate(frames):
        picture = Image.fromarray(frame)
        picture = picture.resize((100, 74)) if number == 12 else picture
        picture.save(tmp_path / "clip" / f"{number:02}.png")
    arguments = ("reconstruct", models / "video", tmp_path / "clip", "--as-video", "--find", "--lossless")
    done = invoke(*arguments, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    changed = (frames_of(tmp_path / "out" / "clip.mkv") != frames).any(-1)
    assert not changed[:9].any()
    assert changed[hidden].mean() > 0.9


@pytest.mark.slow
def test_a_stream_that_stalls_is_finished_and_the_process_ends(models, tmp_path):
    command = [sys.executable, "cli.py", "reconstruct", models / "video", "-", "--size", "50x37", "--box", "0,0,1,0.5"]
    command += ["--stall-timeout", "1", "--out", tmp_path / "out", "--lossless"]
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert process.stdin
    process.stdin.write(footage(5).tobytes() + b"begun")
    process.stdin.flush()
    try:
        assert process.wait(120) == 0, process.stderr.read()
        assert "sent nothing for 1 seconds" in process.stdout.read().decode()
    finally:
        process.kill()
        process.stdin.close()
    assert len(frames_of(tmp_path / "out" / "stdin.mkv")) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("clip.mkv", "--box", "0,0,1,1", "--mask", "small.png"), "its mask has 10×10 pixels, the picture 50×37"),
        (("clip.mkv", "--mask", "none.png"), "--mask none.png does not exist"),
        (("clip.mkv", "--box", "0,0,1,1", "--truth", "small.png"), "the true picture has another size"),
        (("clip.mkv", "--box", "0,0,1,1", "--fps", "0"), "--fps is 0"),
        (("torn.mp4", "--box", "0,0,1,1"), "not a video that can be read"),
        (("none.mp4", "--box", "0,0,1,1"), "none.mp4 does not exist"),
        (("-", "--box", "0,0,1,1"), "need their --size"),
        (("-", "--box", "0,0,1,1", "--size", "50x37"), "standard input has no frame"),
        (("small.png", "--box", "0,0,1,1"), "is a model of video"),
        (("clip.mkv", "--gate"), "has no gate"),
        (("clip.mkv",), "give --mask, --box, --color-key, --gate or --find"),
        (("small.png", "--find"), "--find has no effect with small.png; it is for videos"),
        (("small.png", "--box", "0,0,1,1", "--look-ahead"), "--look-ahead has no effect with small.png"),
        (("clip.mkv", "--box", "0,0,1,1", "--find-threshold", "0.1"), "--find-threshold has no effect without --find"),
        (("clip.mkv", "--find", "--find-threshold", "1"), "--find-threshold is 1; it must be above 0 and below 1"),
        (("clip.mkv", "--find", "--skip-below", "1"), "--skip-below is 1; it must be at least 0 and below 1"),
        (("clip.mkv", "--find", "--skip-below", "0.1", "--look-ahead"), "--skip-below has no effect with --look-ahead"),
        (("small.png", "--box", "0,0,1,1", "--skip-below", "0.1"), "--skip-below has no effect with small.png"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(models, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_video("clip.mkv", footage(4))
    Path("torn.mp4").write_bytes(b"torn" * 99)
    Image.new("L", (10, 10), 255).save("small.png")
    done = invoke("reconstruct", models / "video", *arguments, "--out", "out", stdin=b"")
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not list(Path("out").glob("*")) if Path("out").exists() else True


def test_figures_do_not_depend_on_what_lies_around():
    """PSNR and SSIM of the smallest box around a region are those of the whole picture."""
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randint(0, 256, (2, 3, 60, 80), dtype=torch.uint8, generator=generator)
    for box in ((20, 30, 40, 50), (0, 5, 70, 80), (55, 60, 0, 3)):
        hidden = torch.zeros(60, 80, dtype=torch.bool)
        hidden[box[0] : box[1], box[2] : box[3]] = True
        hidden[box[0], box[2]] = False
        figures = Figures()
        figures.add(Frame(one, hidden, other), one)
        whole = [float(measure(one[None], other[None], hidden[None])[0]) for measure in (psnr, ssim)]
        assert [figures.means()["psnr"], figures.means()["ssim"]] == pytest.approx(whole, rel=1e-5)
