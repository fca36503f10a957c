"""Videos as a source: what lies beside clips and frames can be of any kind, and what can't be read is told."""

import os

import pytest
from PIL import Image

pytest.importorskip("av")

from pipelines.sources.images import BadImage
from pipelines.sources.video.videos import open_videos
from tests.pipelines.video_files import numbers, pictures, write_video


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "clip").mkdir()
    for number, frame in enumerate(pictures(3)):
        Image.fromarray(frame).save(tmp_path / "clip" / f"{number}.png")
    write_video(tmp_path / "film.mkv", pictures(4))
    return tmp_path


def open_folder(folder):
    source = open_videos(str(folder), folder)
    assert source is not None
    return source


def test_captions_beside_videos_and_frames(folder):
    (folder / "clip.txt").write_text("frames\n")
    (folder / "film.txt").write_text("a film")
    source = open_folder(folder)
    assert source.keys.to_pylist() == ["clip", "film.mkv"]
    assert source.captions.to_pylist() == ["frames", "a film"]
    assert numbers(source.open_video(0).read([0, 2])) == [0, 2]
    assert numbers(source.open_video(1).read([0, 3])) == [0, 3]


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_can_be_waited_for_for_ever_is_not_read(folder, kind):
    """A caption that is none, frames, masks and videos that are rejected, none of which hangs."""
    for name in ("film.txt", "clip/1.png", "clip/2_mask.png", "other.mp4"):
        (folder / name).unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(folder / name)
        else:
            (folder / name).symlink_to("/dev/zero")
    source = open_folder(folder)
    assert source.keys.to_pylist() == ["clip", "film.mkv", "other.mp4"]
    assert source.captions is None
    frames = source.open_video(0)
    assert numbers(frames.read([0, 2])) == [0, 2]
    with pytest.raises(BadImage, match=r"frame 1\.png: not a regular file"):
        frames.read([1])
    with pytest.raises(BadImage, match="not a regular file"):
        frames.masks([2])
    with pytest.raises(BadImage, match="not a regular file"):
        source.open_video(2)
