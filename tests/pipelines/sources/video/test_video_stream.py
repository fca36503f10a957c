"""Frames as ffmpeg gives them: square pixels, upright, and none that is too large, in files and live streams alike."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from pipelines.frames.live import Live, LiveOptions
from pipelines.sources.images import BadImage
from pipelines.sources.video.video_file import VideoFile
from pipelines.sources.video.video_stream import ChunkClock, packets_of
from tests.pipelines.video_files import B_FRAMES, MPEG4, copy_stream, join_files, numbers, pictures, write_video

KINDS = {"a.mp4": B_FRAMES, "a.mkv": B_FRAMES, "a.ts": B_FRAMES, "a.avi": MPEG4}


@pytest.mark.parametrize(
    ("aspect", "width"),
    [(Fraction(4, 3), 43), (Fraction(1, 2), 16), (Fraction(3, 1), 96), (Fraction(64, 65), 32), (Fraction(99, 1), 32)],
)
@pytest.mark.parametrize(
    ("name", "rotation"),
    [("a.mp4", None), ("a.mp4", 90), ("a.mp4", 180), ("a.mkv", None), ("a.mkv", 90), ("a.avi", None), ("a.ts", None)],
)
def test_pixels_are_square(tmp_path, name, aspect, width, rotation):
    """The width follows the aspect of the pixels, before the frame is turned."""
    write_video(tmp_path / name, pictures(12), aspect=aspect, rotation=rotation, **KINDS[name])
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
    monkeypatch.setattr("pipelines.sources.video.video_stream.MAX_FRAME_PIXELS", 100 * 24)
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
    assert {image.size for image in images} == {(32, 24)}  # a clip takes the memory that its header promises
    live = Live(LiveOptions(str(growing)))
    assert {frame.shape for frame in live} == {(24, 32, 3)}
    assert live.faults.resized == 10


def test_a_frame_larger_than_any_may_be_is_not_decoded(growing, monkeypatch):
    """The decoder's own limit: it refuses the frame before it takes the memory."""
    monkeypatch.setattr("pipelines.sources.video.video_stream.MAX_FRAME_PIXELS", 48 * 48)
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
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(data.replace(b"Lavf", b"L\xe9vf"))  # nor do tags in other encodings matter
    monkeypatch.setattr("pipelines.sources.video.video_stream.MAX_FRAME_PIXELS", 32 * 24 - 1)
    with pytest.raises(BadImage, match="too large: 32×24 pixels"):
        VideoFile(tmp_path / "a.mkv")


def test_streams_that_appear_within_a_file_do_not_matter():
    """PyAV gives the packets of the others, then fails at the end."""

    def demux(stream):
        yield from (1, 2, stream)
        raise IndexError("list index out of range")

    assert list(packets_of(SimpleNamespace(demux=demux), 3)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("codec", "chunks", "triggers", "ticks"),
    [
        ("mpeg4", [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]),
        ("mpeg4", [0, 1, 5, 6], [0, 1, 5, 6], [0, 1, 5, 6]),  # empty chunks
        ("mpeg4", [0, 1, 2, 3, 4], [0, 1, 4], [0, 1, 4]),  # two that code nothing
        ("mpeg4", [0, 1, 5, 6], [1, 5, 6, None], [0, 1, 5, 6]),  # the decoder holds one back
        ("mpeg4", [0, 1, 2, 3], [0, "lost", 2, 3], [0, 1, 2, 3]),
        ("h264", [0, 1, 2, 5, 6], [2, 5, 6, None, None], [0, 1, 2, 5, 6]),
        ("mjpeg", [3, 4], [3, 3, 4, 4], [3, 4, 5, 6]),  # two in a chunk
        ("mpeg4", [], ["lost", "lost"], [0, 1]),
        ("rawvideo", [None, None, None], [None, None, None], [0, 1, 2]),
        ("rawvideo", [0, 0, 7, 2], [0, 0, 7, 2], [0, 1, 7, 8]),  # a damaged index
    ],
)
def test_when_the_frames_of_an_avi_are_shown(codec, chunks, triggers, ticks):
    clock = ChunkClock(SimpleNamespace(codec_context=SimpleNamespace(name=codec)))
    for dts in chunks:
        clock.add(SimpleNamespace(dts=dts))
    frames = [None if trigger == "lost" else SimpleNamespace(dts=trigger) for trigger in triggers]
    assert [clock.tick(frame) for frame in frames] == ticks
