"""Frames as ffmpeg gives them: square pixels, upright, and none that is too large, in files and live streams alike."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from pipelines.frames.live import Live, LiveOptions
from pipelines.sources.images import BadImage
from pipelines.sources.video_file import VideoFile
from tests.pipelines.video_files import B_FRAMES, MPEG2, MPEG4, copy_stream, join_files, numbers, pictures, write_video

KINDS = {"a.mp4": B_FRAMES, "a.mkv": B_FRAMES, "a.ts": MPEG2, "a.avi": MPEG4}


@pytest.mark.parametrize(
    ("aspect", "width"), [(Fraction(4, 3), 43), (Fraction(1, 2), 16), (Fraction(3, 1), 96), (Fraction(64, 65), 32)]
)
@pytest.mark.parametrize("rotation", [None, 90, 180])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_pixels_are_square(tmp_path, name, aspect, width, rotation):
    """The width follows the aspect of the pixels, before the frame is turned."""
    if rotation and name == "a.avi":
        pytest.skip("AVI has no rotation")
    write_video(tmp_path / name, pictures(4), aspect=aspect, rotation=rotation, **KINDS[name])
    expected = Image.fromarray(pictures(4)[3]).resize((width, 24), Image.Resampling.BICUBIC)
    expected = expected.rotate(rotation or 0, expand=True)
    video = VideoFile(tmp_path / name)
    (image,) = video.read([3])
    live = list(Live(LiveOptions(str(tmp_path / name))))
    assert video.size == image.size == expected.size
    assert np.array_equal(live[3], np.asarray(image))
    difference = np.abs(np.asarray(image).astype(int) - np.asarray(expected))
    assert difference.mean() < 3


def test_an_aspect_that_makes_a_frame_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.sources.video_stream.MAX_FRAME_PIXELS", 100 * 24)
    write_video(tmp_path / "a.mp4", pictures(4), aspect=Fraction(4, 1), **B_FRAMES)
    with pytest.raises(BadImage, match="too large: 128×24 pixels"):
        VideoFile(tmp_path / "a.mp4")


@pytest.fixture
def growing(tmp_path):
    """Ten frames of 32×24, then ten of 64×48, of which the header says nothing."""
    write_video(tmp_path / "a.ts", pictures(10), **B_FRAMES)
    write_video(tmp_path / "b.ts", pictures(20, 64, 48)[10:], **B_FRAMES)
    copy_stream(tmp_path / "b.ts", tmp_path / "c.ts", shift=0.4)
    join_files(tmp_path / "d.ts", tmp_path / "a.ts", tmp_path / "c.ts")
    return tmp_path / "d.ts"


def test_frames_may_grow(growing):
    video = VideoFile(growing)
    assert video.size == (32, 24)
    images = video.read(list(range(20)))
    assert numbers(images) == list(range(20))
    assert [image.size for image in images] == [(32, 24)] * 10 + [(64, 48)] * 10
    live = Live(LiveOptions(str(growing)))
    assert {frame.shape for frame in live} == {(24, 32, 3)}
    assert live.faults.resized == 10


def test_a_frame_larger_than_any_may_be_is_not_decoded(growing, monkeypatch):
    """The decoder's own limit: it refuses the frame before it takes the memory."""
    monkeypatch.setattr("pipelines.sources.video_stream.MAX_FRAME_PIXELS", 48 * 48)
    video = VideoFile(growing)
    assert numbers(video.read([0, 5])) == [0, 5]
    with pytest.raises(BadImage, match="can be read|could be decoded"):
        video.read([15])
    live = Live(LiveOptions(str(growing)))
    assert numbers(list(live))[:6] == list(range(6))
    assert live.faults.corrupt
    assert not live.faults.resized


def test_a_header_larger_than_any_may_be(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mkv", pictures(3))
    monkeypatch.setattr("pipelines.sources.video_stream.MAX_FRAME_PIXELS", 32 * 24 - 1)
    with pytest.raises(BadImage, match="too large: 32×24 pixels"):
        VideoFile(tmp_path / "a.mkv")
