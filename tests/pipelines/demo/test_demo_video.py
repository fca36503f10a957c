import builtins
import json

import pytest
from PIL import Image

from pipelines.demo import demo_video
from pipelines.demo.recovered_clips import BLOCKS, METHODS
from pipelines.errors import UserError
from pipelines.sources.video.video_file import VideoFile

FRAMES = 10


@pytest.fixture
def small(monkeypatch):
    """The demo's whole path at a size of seconds; its real size is what ``make demo-video`` runs."""
    monkeypatch.setattr(demo_video, "TRAINED_ON", f"shapes-video:16,size=32,frames={FRAMES},objects=1")
    monkeypatch.setattr(demo_video, "JUDGED_ON", f"shapes-video:3,split=test,size=32,frames={FRAMES},objects=1")
    monkeypatch.setattr(demo_video, "_SHEET_FRAMES", 3)
    wanted = {"frames": 4, "image_size": (32,), "patch_size": 8, "batch_size": 8, "epochs": 2}
    for name, value in wanted.items():
        monkeypatch.setitem(demo_video.TRAINING, name, value)


def test_the_video_demo_makes_everything_and_is_not_made_twice(small, tmp_path):
    out = tmp_path / "demo"
    result = demo_video.run_video_demo(out, quiet=True)
    assert result.clips == 3
    assert {block: list(figures) for block, figures in result.figures.items()} == {
        block: list(METHODS) for block in BLOCKS
    }
    # what is seen again at its place is worth more than what is around it, unless it is never seen again
    assert result.figures["moving"]["nearest"]["psnr"] > result.figures["moving"]["neighbours"]["psnr"] + 3
    table = (out / "table.md").read_text()
    assert all(f"| {words} |" in table for words in (*METHODS.values(), *BLOCKS.values()))
    assert json.loads((out / "recovery.json").read_text())["moving"] == result.figures["moving"]
    assert 0 <= result.found_iou <= 1
    assert json.loads((out / "recovery.json").read_text())["found_iou"] == result.found_iou
    for name in ("contact-sheet.png", "found.png", "loss.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 300
    for block in BLOCKS:
        for name, wide in ((block, 1), (f"{block}-side", 3)):
            video = VideoFile(str(out / f"{name}.mp4"))
            assert len(video.times) == 3 * FRAMES
            assert video.size == (wide * 192, 192)
    losses = (out / "video-run" / "metrics.jsonl").read_text()
    again = demo_video.run_video_demo(out, quiet=True)
    assert (out / "video-run" / "metrics.jsonl").read_text() == losses
    assert again == result


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="holds no video demo"):
        demo_video.run_video_demo(tmp_path, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_without_pyav_one_line_says_what_to_install(tmp_path, monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install"):
        demo_video.run_video_demo(tmp_path / "demo", quiet=True)
    assert not (tmp_path / "demo").exists()
