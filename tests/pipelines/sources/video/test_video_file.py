"""Video files of every kind give the frames that they hold, by time and upright; broken ones say why."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

import av

from pipelines.sources.images import BadImage
from pipelines.sources.video.video_file import VideoFile
from pipelines.views.clip_views import ClipShape, clip_frames
from tests.pipelines.video_files import (
    B_FRAMES,
    MPEG2,
    MPEG4,
    OPEN_GOPS,
    copy_stream,
    grey,
    join_files,
    numbers,
    pictures,
    write_video,
)

LOSSLESS = {"codec": "libx264", "pixels": "yuv444p", "options": {"qp": "0", "g": "8", "bf": "2"}}
KINDS = {
    "ffv1.mkv": {},
    "x264.mp4": LOSSLESS,
    "x264.mkv": LOSSLESS,
    "x264.ts": LOSSLESS,
    "mpeg4.avi": {"codec": "mpeg4", "pixels": "yuv420p", "options": {"b": "8000000", "bf": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9", "pixels": "yuv444p", "options": {"lossless": "1"}},
    "png.mov": {"codec": "png", "pixels": "rgb24"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_frames_are_read_in_order(tmp_path, kind):
    write_video(tmp_path / kind, pictures(30), **KINDS[kind])
    video = VideoFile(tmp_path / kind)
    assert len(video.times) == 30
    assert video.size == (32, 24)
    assert np.allclose(np.diff(video.times), 0.04, atol=0.002)
    for wanted in ([0], [29], [3, 4, 5], [0, 7, 8, 20], [17, 29], list(range(30))):
        assert numbers(video.read(wanted)) == wanted


def test_a_file_with_b_frames_needs_no_decoding_from_the_start(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", pictures(32), **LOSSLESS)
    video, read = VideoFile(tmp_path / "a.mp4"), []
    decode = VideoFile._decode
    monkeypatch.setattr(VideoFile, "_decode", lambda *args, **more: read.append(more["seek"]) or decode(*args, **more))
    assert numbers(video.read([26])) == [26]
    assert read == [True]


@pytest.mark.parametrize("degrees", [90, 180, 270, -90])
def test_rotation_is_applied(tmp_path, degrees):
    write_video(tmp_path / "a.mp4", pictures(3), rotation=degrees, **LOSSLESS)
    video = VideoFile(tmp_path / "a.mp4")
    expected = np.rot90(pictures(3)[1], degrees // 90)
    assert video.size == (expected.shape[1], expected.shape[0])
    assert np.abs(np.asarray(video.read([1])[0]).astype(int) - expected).max() <= 2


def test_transparency_lies_over_white(tmp_path):
    frames = np.zeros((4, 24, 32, 4), np.uint8)
    frames[..., 0] = 255
    frames[..., 3] = 255
    frames[:, :, 16:, 3] = 0
    frames[:, 12:, :, 3] //= 2
    write_video(tmp_path / "a.mov", frames, codec="png", pixels="rgba")
    seen = np.asarray(VideoFile(tmp_path / "a.mov").read([2])[0])
    assert seen[0, 0].tolist() == [255, 0, 0]
    assert seen[0, 31].tolist() == [255, 255, 255]
    assert np.abs(seen[20, 0].astype(int) - [255, 128, 128]).max() <= 1


def test_ten_bits_and_odd_sizes(tmp_path):
    frames = pictures(3, width=33, height=25)
    write_video(tmp_path / "a.mkv", frames, pixels="yuv422p10le")
    write_video(tmp_path / "b.mkv", frames, pixels="yuv420p")
    for name in ("a.mkv", "b.mkv"):
        video = VideoFile(tmp_path / name)
        assert video.size == (33, 25)
        assert np.abs(np.asarray(video.read([2])[0])[-1, -1].astype(int) - grey(2)).max() <= 2


def test_frames_of_a_variable_rate_are_taken_by_time(tmp_path):
    """Half of the frames come in the first tenth of the video; a stride in ticks of the mean rate sees few of them."""
    stamps = [*range(0, 100, 10), *range(100, 1001, 100)]
    write_video(tmp_path / "a.mkv", pictures(20), stamps=stamps)
    video = VideoFile(tmp_path / "a.mkv")
    assert np.allclose(video.times, np.asarray(stamps) / 1000)
    frames = clip_frames(video.times, ClipShape(10, 2))
    tick = 1.0 / 19
    expected = []
    for k in range(10):
        moment = (2 * k + 0.5) * tick if 2 * k < 19 else 1
        expected.append(max(i for i, stamp in enumerate(stamps) if stamp / 1000 <= moment))
    assert frames.tolist() == expected
    assert numbers(video.read(sorted(set(frames.tolist())))) == sorted(set(frames.tolist()))


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("name", "share", "reason"),
    [
        ("a.mp4", 0.6, "not a video that can be read"),
        ("a.mkv", 0.5, "truncated: .* of .* seconds"),
        ("a.mkv", 0.0, "empty"),
        ("a.mkv", 0.001, "not a video"),
        ("a.avi", 0.5, "truncated: .* of .* frames"),
    ],
)
def test_a_truncated_file_says_so(tmp_path, name, share, reason):
    noise = np.random.default_rng(0).integers(0, 255, (100, 24, 32, 3), np.uint8)
    write_video(tmp_path / name, noise, codec="mpeg4", pixels="yuv420p")
    cut(tmp_path / name, share)
    with pytest.raises(BadImage, match=reason):
        VideoFile(tmp_path / name)


def test_a_file_without_video_or_of_something_else_says_so(tmp_path):
    with av.open(str(tmp_path / "sound.mkv"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    (tmp_path / "text.mp4").write_text("no video at all\n" * 50)
    with pytest.raises(BadImage, match="it has no video stream"):
        VideoFile(tmp_path / "sound.mkv")
    with pytest.raises(BadImage, match="not a video that can be read"):
        VideoFile(tmp_path / "text.mp4")
    with pytest.raises(FileNotFoundError):
        VideoFile(tmp_path / "absent.mp4")


def test_a_video_without_frames_says_so(tmp_path):
    write_video(tmp_path / "a.mkv", pictures(1)[:0].reshape(0, 24, 32, 3))
    with pytest.raises(BadImage, match="no frames|can't be read|can be read"):
        VideoFile(tmp_path / "a.mkv")


def test_damage_in_the_middle_is_found(tmp_path):
    write_video(tmp_path / "a.mkv", np.random.default_rng(0).integers(0, 255, (40, 24, 32, 3), np.uint8))
    data = bytearray((tmp_path / "a.mkv").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    (tmp_path / "a.mkv").write_bytes(data)
    with pytest.raises(BadImage):
        VideoFile(tmp_path / "a.mkv").read(list(range(40)))


def test_a_file_that_changes_is_read_anew(tmp_path):
    path = tmp_path / "a.mkv"
    write_video(path, pictures(5))
    assert len(VideoFile(path).times) == 5
    write_video(path, pictures(9))
    assert len(VideoFile(path).times) == 9


def test_the_colours_follow_the_matrix_that_the_file_names(tmp_path):
    """A green that BT.709 and BT.601 write differently."""
    from av.video.reformatter import Colorspace

    green = np.zeros((24, 32, 3), np.uint8)
    green[..., 1] = 200
    for name, number, matrix in (("a.mp4", 1, Colorspace.ITU709), ("b.mp4", 6, Colorspace.ITU601)):
        with av.open(str(tmp_path / name), "w") as file:
            stream = file.add_stream("libx264", rate=25, options={"qp": "0"})
            stream.height, stream.width, stream.pix_fmt = 24, 32, "yuv444p"
            stream.codec_context.colorspace = number
            stream.codec_context.color_range = 1
            frame = av.VideoFrame.from_ndarray(green, format="rgb24")
            file.mux(stream.encode(frame.reformat(format="yuv444p", dst_colorspace=matrix)))
            file.mux(stream.encode(None))
        seen = np.asarray(VideoFile(tmp_path / name).read([0])[0])
        assert np.abs(seen.astype(int) - green).max() <= 3


def test_what_is_read_are_pillow_pictures(tmp_path):
    write_video(tmp_path / "a.mkv", pictures(2))
    (image,) = VideoFile(tmp_path / "a.mkv").read([1])
    assert isinstance(image, Image.Image)
    assert image.mode == "RGB"


def read_one_by_one(video):
    return [numbers(video.read([place]))[0] for place in range(len(video.times))]


@pytest.mark.parametrize("kind", ["a.mp4", "a.mkv", "a.ts"])
def test_open_groups_of_pictures(tmp_path, kind):
    """B-frames that refer across a key frame, each read on its own."""
    write_video(tmp_path / kind, pictures(30), **OPEN_GOPS)
    assert read_one_by_one(VideoFile(tmp_path / kind)) == list(range(30))


@pytest.mark.parametrize(
    ("name", "kind", "since", "first"),
    [
        ("a.ts", OPEN_GOPS, 0.28, 8),
        ("a.mkv", OPEN_GOPS, 0.2, 8),
        ("a.ts", MPEG2, 0.4, 12),
        ("a.ts", B_FRAMES, 0.5, 20),
    ],
)
def test_frames_that_refer_to_what_was_cut_off_are_none(tmp_path, name, kind, since, first):
    """A file cut anywhere begins with the first frame that can be decoded."""
    write_video(tmp_path / name, pictures(30), **kind)
    whole = VideoFile(tmp_path / name)
    copy_stream(tmp_path / name, tmp_path / f"b-{name}", since=since)
    video = VideoFile(tmp_path / f"b-{name}")
    assert read_one_by_one(video) == list(range(first, 30))
    assert numbers(video.read(list(range(len(video.times))))) == list(range(first, 30))
    assert video.times == pytest.approx(whole.times[first:], abs=0.002)


JOINS = [(0, 0), (5, 0), (0, 0.5), (500, 0), (0, 500), (0, 0, 0)]


@pytest.mark.parametrize(
    ("name", "kind", "starts"),
    [
        *[("a.ts", kind, starts) for kind in (B_FRAMES, MPEG2) for starts in (*JOINS, (0, 5))],
        *[("a.mpg", MPEG2, starts) for starts in JOINS],
    ],
)
def test_joined_streams_go_on(tmp_path, name, kind, starts):
    """Times that repeat, begin anew, overlap or are hours apart; less than a minute ahead is a pause."""
    write_video(tmp_path / name, pictures(30), **kind)
    parts = []
    for number, start in enumerate(starts):
        parts.append(tmp_path / f"{number}-{name}")
        copy_stream(tmp_path / name, parts[-1], shift=start, container={"a.ts": "mpegts", "a.mpg": "mpeg"}[name])
    first = VideoFile(parts[0]).times[0]
    join_files(tmp_path / f"joined-{name}", *parts)
    video = VideoFile(tmp_path / f"joined-{name}")
    assert numbers(video.read(list(range(len(video.times))))) == list(range(30)) * len(starts)
    assert numbers(video.read([29, 30, 59])) == [29, 0, 29]
    pause = 5 - 30 * 0.04 if starts == (0, 5) else 0
    expected = first + 0.04 * np.arange(30 * len(starts)) + pause * (np.arange(30 * len(starts)) >= 30)
    assert video.times == pytest.approx(expected, abs=0.002)


def test_a_single_time_that_repeats(tmp_path):
    """Both frames are there; the later one is what is seen."""
    stamps = [0, 40, 80, 80, 120, 160]
    write_video(tmp_path / "a.mkv", pictures(6))

    def restamp(packets):
        for packet, stamp in zip(packets, stamps, strict=True):
            packet.pts = packet.dts = stamp
        return packets

    copy_stream(tmp_path / "a.mkv", tmp_path / "b.mkv", change=restamp)
    video = VideoFile(tmp_path / "b.mkv")
    assert video.times.tolist() == pytest.approx([0, 0.04, 0.08, 0.08, 0.12, 0.16])
    assert read_one_by_one(video) == list(range(6))


def test_frames_of_vp8_that_are_not_shown_are_none(tmp_path):
    """Hidden reference frames, as two-pass encoders write them, have packets and times of their own."""
    write_video(tmp_path / "a.webm", pictures(20), codec="libvpx", pixels="yuv420p", options={"b": "3000000", "g": "1"})

    def hide(packets):
        for number, packet in enumerate(packets):
            if number in (7, 15):
                data = bytearray(bytes(packet))
                data[0] &= ~0x10
                hidden = av.Packet(bytes(data))
                hidden.pts = hidden.dts = packet.pts - 20
                hidden.time_base = packet.time_base
                yield hidden
            yield packet

    copy_stream(tmp_path / "a.webm", tmp_path / "b.webm", change=hide)
    video = VideoFile(tmp_path / "b.webm")
    assert video.times == pytest.approx(0.04 * np.arange(20), abs=0.002)
    assert read_one_by_one(video) == list(range(20))


def test_chunks_of_mpeg4_that_code_nothing_take_time(tmp_path):
    """XviD writes one where nothing moved."""
    write_video(tmp_path / "a.avi", pictures(8), **MPEG4)

    def still(packets):
        for number, packet in enumerate(packets):
            packet.pts = packet.dts = number + 2 * (number >= 4)
            if number == 4:
                for stamp in (4, 5):
                    nothing = av.Packet(bytes((0, 0, 1, 0xB6, 0x51, 0xCF)))
                    nothing.pts = nothing.dts = stamp
                    nothing.time_base = packet.time_base
                    yield nothing
            yield packet

    copy_stream(tmp_path / "a.avi", tmp_path / "b.avi", change=still)
    video = VideoFile(tmp_path / "b.avi")
    assert video.times == pytest.approx(np.asarray([0, 1, 2, 3, 6, 7, 8, 9]) / 25)
    assert read_one_by_one(video) == list(range(8))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, kind):
    place = tmp_path / "a.mp4"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place.symlink_to("/dev/zero")
    else:
        place.mkdir()
    with pytest.raises(BadImage, match="not a regular file"):
        VideoFile(place)


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mkv", pictures(3))
    for name in ("12:30.mkv", "concat:a.mkv", "caf\udce9.mkv"):
        Path(name).write_bytes(Path("a.mkv").read_bytes())
        assert numbers(VideoFile(name).read([0, 2])) == [0, 2]


def test_a_hundred_thousand_frames(tmp_path):
    write_video(tmp_path / "a.mkv", pictures(10, 16, 16), **MPEG4)

    def repeated(packets):
        frames = [(bytes(packet), packet.is_keyframe) for packet in packets]
        for number in range(100_000):
            data, is_keyframe = frames[number % 10]
            packet = av.Packet(data)
            packet.pts = packet.dts = 40 * number
            packet.time_base, packet.is_keyframe = Fraction(1, 1000), is_keyframe
            yield packet

    copy_stream(tmp_path / "a.mkv", tmp_path / "b.mkv", change=repeated)
    video = VideoFile(tmp_path / "b.mkv")
    assert len(video.times) == 100_000
    assert video.times[-1] == pytest.approx(3999.96)
    assert numbers(video.read([50_003, 99_999])) == [3, 9]


def test_a_file_is_not_held_in_memory_while_it_is_indexed(tmp_path):
    write_video(tmp_path / "a.mkv", np.zeros((120, 480, 640, 3), np.uint8), codec="rawvideo", pixels="yuyv422")
    megabytes = (tmp_path / "a.mkv").stat().st_size / 2**20
    script = """
import resource, sys
from pipelines.sources.video.video_file import VideoFile
VideoFile(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(VideoFile(sys.argv[2]).times) == 120
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    write_video(tmp_path / "b.mkv", np.zeros((2, 480, 640, 3), np.uint8), codec="rawvideo", pixels="yuyv422")
    command = [sys.executable, "-c", script, str(tmp_path / "b.mkv"), str(tmp_path / "a.mkv")]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert megabytes > 60
    assert grown < 30


@pytest.mark.parametrize(
    "text", ["ffconcat version 1.0\nfile other.mp4\n", "#EXTM3U\n#EXTINF:2,\nother.ts\n#EXT-X-ENDLIST\n"]
)
def test_a_playlist_is_no_video(tmp_path, text):
    """It names other files, whatever its own name is; ffmpeg would open them."""
    for name in ("other.mp4", "other.ts"):
        write_video(tmp_path / name, pictures(4))
    for name in ("list.mp4", "list.ts"):
        (tmp_path / name).write_text(text)
        with pytest.raises(BadImage, match="not a video that can be read"):
            VideoFile(tmp_path / name)
    assert len(VideoFile(tmp_path / "other.mp4").times) == 4
