"""Streams of frames: files, folders, pipes and raw bytes, and all that may be wrong with them."""

import os
import sys
import threading
import time
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

import av

from pipelines.errors import UserError
from pipelines.frames.live import Live, Watched
from pipelines.frames.options import LiveOptions, is_stream, parse_size
from pipelines.frames.video_writer import open_video
from tests.pipelines.sources.video.test_video_file import KINDS, LOSSLESS
from tests.pipelines.video_files import B_FRAMES, join_files, numbers, pictures, write_video


def frames_of(place, **options):
    live = Live(LiveOptions(str(place), **options))
    return list(live), live.faults


@pytest.fixture
def stdin(monkeypatch):
    """What is written to it is what standard input gives; it stays open until it is closed."""
    reading, writing = os.pipe()
    file = os.fdopen(reading, "rb")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
    writer = os.fdopen(writing, "wb", buffering=0)
    yield writer
    writer.close()


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_of_a_file_comes_once(tmp_path, kind):
    write_video(tmp_path / kind, pictures(30), **KINDS[kind])
    found, faults = frames_of(tmp_path / kind)
    assert numbers(found) == list(range(30))
    assert not faults.shown()


def test_a_file_by_its_url_and_a_part_of_it(tmp_path):
    write_video(tmp_path / "a.mkv", pictures(9))
    assert is_stream(f"file:{tmp_path}/a.mkv")
    assert numbers(frames_of(f"file://{tmp_path}/a.mkv", limit=4)[0]) == [0, 1, 2, 3]


@pytest.mark.parametrize("degrees", [90, 180])
def test_frames_are_upright(tmp_path, degrees):
    write_video(tmp_path / "a.mp4", pictures(2), rotation=degrees, **LOSSLESS)
    expected = np.rot90(pictures(2)[1], degrees // 90)
    found = frames_of(tmp_path / "a.mp4")[0][1]
    assert np.abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuva420p"])
def test_ten_bits_and_transparency(tmp_path, pixels):
    """What is opaque has its colours, of whatever depth."""
    write_video(tmp_path / "a.mkv", pictures(2), pixels=pixels)
    assert np.abs(frames_of(tmp_path / "a.mkv")[0][1].astype(int) - pictures(2)[1]).max() <= 3


def test_a_variable_rate_becomes_regular(tmp_path):
    stamps = [0, 40, 80, 400, 420, 440, 800]
    write_video(tmp_path / "a.mkv", pictures(7), stamps=stamps)
    assert numbers(frames_of(tmp_path / "a.mkv", fps=10)[0]) == [0, 2, 2, 2, 3, 5, 5, 5, 6]


def test_damaged_frames_repeat_the_last_one(tmp_path):
    write_video(tmp_path / "a.mov", pictures(12), codec="png", pixels="rgb24")
    with av.open(str(tmp_path / "a.mov")) as container:
        places = {i: (packet.pos, packet.size) for i, packet in enumerate(container.demux(video=0)) if packet.size}
    data = bytearray((tmp_path / "a.mov").read_bytes())
    for number in (0, 4, 5, 11):
        start, size = places[number]
        data[start : start + size] = bytes(size)
    (tmp_path / "a.mov").write_bytes(data)
    found, faults = frames_of(tmp_path / "a.mov")
    assert numbers(found) == [1, 1, 2, 3, 3, 3, 6, 7, 8, 9, 10, 10]
    assert faults.corrupt == 4


def test_a_torn_file_gives_what_there_is(tmp_path):
    write_video(tmp_path / "a.ts", pictures(30), **LOSSLESS | {"options": {"qp": "0", "g": "1"}})
    data = (tmp_path / "a.ts").read_bytes()
    (tmp_path / "b.ts").write_bytes(data[: len(data) // 2])
    found, _ = frames_of(tmp_path / "b.ts")
    assert 5 < len(found) < 25
    assert numbers(found)[:-2] == list(range(len(found) - 2))


def test_a_file_that_is_shorter_than_it_says_is_told_of(tmp_path):
    with av.open(str(tmp_path / "a.mov"), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "rgb24"
        for picture in pictures(12):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
    assert not frames_of(tmp_path / "a.mov")[1].truncated
    data = (tmp_path / "a.mov").read_bytes()
    (tmp_path / "b.mov").write_bytes(data[: len(data) * 3 // 4])
    found, faults = frames_of(tmp_path / "b.mov")
    assert faults.truncated
    assert numbers(found)[:5] == list(range(5))


def test_a_folder_of_frames_with_one_missing_and_one_of_another_size(tmp_path):
    for number, frame in enumerate(pictures(5)):
        Image.fromarray(frame).save(tmp_path / f"{number:03}.png")
        Image.fromarray(frame[..., 0] > 50).save(tmp_path / f"{number:03}_mask.png")
    (tmp_path / "002.png").write_bytes(b"torn")
    Image.open(tmp_path / "003.png").resize((50, 31)).save(tmp_path / "003.png")
    found, faults = frames_of(tmp_path)
    assert numbers(found) == [0, 1, 1, 3, 4]
    assert {frame.shape for frame in found} == {(24, 32, 3)}
    assert faults.shown() == {"corrupt": 1, "repeated": 1, "resized": 1}
    assert is_stream(str(tmp_path), as_video=True)
    assert not is_stream(str(tmp_path))


def test_raw_frames_to_the_bit(stdin):
    frames = pictures(3, width=5, height=3)
    threading.Thread(target=lambda: (stdin.write(frames.tobytes()), stdin.close())).start()
    found, faults = frames_of("-", size=(5, 3))
    assert np.array_equal(found, frames)
    assert not faults.shown()


def test_raw_frames_that_end_within_one(stdin):
    stdin.write(pictures(3, width=5, height=3).tobytes()[:-7])
    stdin.close()
    found, faults = frames_of("-", size=(5, 3))
    assert len(found) == 2
    assert faults.shown() == {"truncated": True}


def test_a_stream_that_stalls_is_over(stdin):
    stdin.write(pictures(3, width=5, height=3).tobytes()[:-7])
    started = time.monotonic()
    found, faults = frames_of("-", size=(5, 3), stall_timeout=0.3)
    assert len(found) == 2
    assert faults.shown() == {"stalled": True}
    assert time.monotonic() - started < 5


def test_a_stream_that_never_begins(stdin):
    with pytest.raises(UserError, match="standard input sent no frame for 0.2 seconds"):
        frames_of("-", size=(5, 3), stall_timeout=0.2)


def test_a_pipe_is_a_stream(tmp_path):
    write_video(tmp_path / "a.ts", pictures(9), **LOSSLESS)
    os.mkfifo(tmp_path / "pipe")
    threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes((tmp_path / "a.ts").read_bytes())).start()
    assert is_stream(str(tmp_path / "pipe"))
    assert numbers(frames_of(tmp_path / "pipe")[0]) == list(range(9))


def test_a_device_is_no_stream(tmp_path):
    (tmp_path / "a.mp4").symlink_to("/dev/zero")
    for place in ("/dev/zero", tmp_path / "a.mp4"):
        with pytest.raises(UserError, match="is a device, not a video or a pipe"):
            frames_of(place)


def test_a_pipe_in_a_folder_of_frames_is_damage(tmp_path):
    for number, frame in enumerate(pictures(3)):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").unlink()
    os.mkfifo(tmp_path / "1.png")
    found, faults = frames_of(tmp_path)
    assert numbers(found) == [0, 0, 2]
    assert faults.corrupt == 1


def test_joined_streams_go_on(tmp_path):
    write_video(tmp_path / "a.ts", pictures(10), **B_FRAMES)
    join_files(tmp_path / "b.ts", tmp_path / "a.ts", tmp_path / "a.ts")
    found, faults = frames_of(tmp_path / "b.ts")
    assert numbers(found) == [*range(10), *range(10)]
    assert faults.shown() == {"jumps": 1}


def test_what_is_no_video(tmp_path):
    (tmp_path / "torn.mp4").write_bytes(b"torn" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folders" / "clip").mkdir(parents=True)
    (tmp_path / "folders" / "clip" / "0.png").write_bytes(b"torn")
    with av.open(str(tmp_path / "sound.mkv"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        silence.sample_rate = 8000
        file.mux(stream.encode(silence))
    for name, message in (
        ("torn.mp4", "not a video that can be read"),
        ("empty.mp4", "not a video that can be read"),
        ("none.mp4", "does not exist"),
        ("folder", "holds no pictures"),
        ("folders", "holds pictures only in subfolders: give one of these, such as .*clip"),
        ("sound.mkv", "has no video stream"),
    ):
        with pytest.raises(UserError, match=message):
            frames_of(tmp_path / name)


def test_a_reader_is_let_go_and_passes_errors_on():
    ended = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            ended.set()

    watched = Watched(endless(), 5.0)
    assert next(watched) == 0
    watched.close()
    assert ended.wait(5)
    assert next(watched, None) is None

    def failing():
        yield 1
        raise ZeroDivisionError

    watched = Watched(failing(), 5.0)
    assert next(watched) == 1
    with pytest.raises(ZeroDivisionError):
        next(watched)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("size", [(24, 32), (37, 51)])
def test_what_is_written_is_read(tmp_path, lossless, size):
    colours = np.random.default_rng(0).integers(0, 256, (5, 1, 1, 3), np.uint8)
    frames = np.broadcast_to(colours, (5, *size, 3))
    path = tmp_path / "a"
    with open_video(path, Fraction(30), lossless=lossless) as writer:
        for frame in frames:
            writer.write(frame)
        assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    found = np.stack(frames_of(path)[0])
    if lossless:
        assert np.array_equal(found, frames)
    else:
        assert found.shape[1:3] == tuple(side + side % 2 for side in size)
        assert np.abs(found[:, : size[0], : size[1]].astype(int) - frames).max() <= 4


def test_a_video_that_is_not_finished_is_not_there(tmp_path):
    def write():
        with open_video(tmp_path / "a.mp4", Fraction(25)) as writer:
            writer.write(pictures(1)[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": "-"}, "need their --size"),
        ({"input": "a.mp4", "size": (3, 3)}, "leave it out"),
        ({"input": "a.mp4", "fps": 0.0}, "--fps is 0"),
        ({"input": "a.mp4", "stall_timeout": 0.0}, "--stall-timeout is 0"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        LiveOptions(**options)


@pytest.mark.parametrize("text", ["640", "0x3", "axb", "99999999x2"])
def test_a_size_is_two_sides(text):
    assert parse_size("640x480") == (640, 480)
    with pytest.raises(ValueError, match="--size"):
        parse_size(text)
