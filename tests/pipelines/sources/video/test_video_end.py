"""Whole videos of every kind are read whole, and files that really lack their end say so."""

from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av")

import av

from pipelines.frames.live import Live, LiveOptions
from pipelines.sources.images import BadImage
from pipelines.sources.video.video_file import VideoFile
from tests.pipelines.video_files import (
    B_FRAMES,
    MPEG2,
    MPEG4,
    OPEN_GOPS,
    copy_stream,
    numbers,
    pictures,
    write_video,
)

WMV = {"codec": "wmv2", "pixels": "yuv420p", "options": {"b": "4000000", "g": "10"}}
FLV = B_FRAMES | {"pixels": "yuv420p"}
KINDS = {"a.mp4": B_FRAMES, "a.mov": B_FRAMES, "a.mkv": B_FRAMES, "a.ts": B_FRAMES, "a.flv": FLV, "a.wmv": WMV}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def assert_shows(path, shown, times):
    """The frames and times of a file, each frame read alone, all together, and as a stream that misses nothing."""
    video = VideoFile(path)
    assert numbers(video.read(list(range(len(video.times))))) == shown
    assert [numbers(video.read([place]))[0] for place in range(len(shown))] == shown
    assert video.times == pytest.approx(times, abs=0.002)
    live = Live(LiveOptions(str(path)))
    list(live)
    assert not live.faults.truncated


def ticks(count, start=0.0):
    return [start + 0.04 * number for number in range(count)]


def held_long(packets):
    """The last one for 8 seconds."""
    packets[-1].duration = round(8 / packets[-1].time_base)
    return packets


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
@pytest.mark.parametrize("kind", [B_FRAMES, OPEN_GOPS])
def test_an_edit_list_leaves_frames_out(tmp_path, kind, options):
    """What a stream copy from 0.64 s on gives: packets from a key frame on, of which the first are not shown."""
    write_video(tmp_path / "a.mp4", pictures(30), **kind)
    for since in (0.24, -1.0):
        copy_stream(tmp_path / "a.mp4", tmp_path / "b.mp4", since=since, shift=-0.64, options=options)
        with av.open(str(tmp_path / "b.mp4")) as file:
            assert file.streams.video[0].frames > 14
        assert_shows(tmp_path / "b.mp4", list(range(16, 30)), ticks(14))


def test_an_edit_list_does_not_hide_a_cut(tmp_path):
    write_video(tmp_path / "a.mp4", pictures(30), **B_FRAMES)
    copy_stream(tmp_path / "a.mp4", tmp_path / "b.mp4", shift=-0.64, options={"movflags": "faststart"})
    data = (tmp_path / "b.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data[:-100])
    with pytest.raises(BadImage, match=r"^truncated: \d\d of 20 frames$"):
        VideoFile(tmp_path / "b.mp4")
    live = Live(LiveOptions(str(tmp_path / "b.mp4")))
    assert numbers(list(live))[:5] == [16, 17, 18, 19, 20]
    assert live.faults.truncated


@pytest.mark.parametrize(
    ("more", "stamps"),
    [({}, [0, 1, 2, 5, 6, 7, 10, 11, 12, 13, 50]), ({"bf": "2"}, [0, 1, 2, 5, 6, 7, *range(10, 17), 20, 21, 22])],
)
def test_the_empty_chunks_of_an_avi_take_time(tmp_path, more, stamps):
    count, kind = len(stamps), MPEG4 | {"options": MPEG4["options"] | more}
    write_video(tmp_path / "a.avi", pictures(count), stamps=stamps, unit=Fraction(1, 25), **kind)
    video = VideoFile(tmp_path / "a.avi")
    assert numbers(video.read(list(range(count)))) == list(range(count))
    assert numbers(video.read([4, 9])) == [4, 9]
    assert len(video.times) == count
    if not more:  # with B-frames, the muxer leaves out chunks at other places
        assert video.times == pytest.approx(np.asarray(stamps) / 25)
    assert round(video.times[-1] * 25) == stamps[-1]
    live = Live(LiveOptions(str(tmp_path / "a.avi")))
    shown = numbers(list(live))
    assert len(shown) == stamps[-1] + 1
    assert [shown[round(time * 25)] for time in video.times] == list(range(count))
    assert live.faults.shown() == {"repeated": len(shown) - count}


def add_empty_chunks(path, count):
    """Empty chunks at the end of an AVI, as recorders write them; its header counts them."""
    data = path.read_bytes()
    index = data.rindex(b"idx1")
    movi = data.rindex(b"LIST", 0, index)
    entries = data[index + 8 : index + 8 + int.from_bytes(data[index + 4 : index + 8], "little")]
    place = index - movi - 8
    entries += b"".join(b"00dc" + bytes(4) + (place + 8 * n).to_bytes(4, "little") + bytes(4) for n in range(count))
    chunks = data[movi + 8 : index] + (b"00dc" + bytes(4)) * count
    head = bytearray(data[:movi])
    stream = head.index(b"strh") + 8 + 32
    head[stream : stream + 4] = (int.from_bytes(head[stream : stream + 4], "little") + count).to_bytes(4, "little")
    new = head + b"LIST" + len(chunks).to_bytes(4, "little") + chunks
    new += b"idx1" + len(entries).to_bytes(4, "little") + entries
    new[4:8] = (len(new) - 8).to_bytes(4, "little")
    path.write_bytes(new)


def test_empty_chunks_at_the_end_of_an_avi(tmp_path):
    write_video(tmp_path / "a.avi", pictures(10), **MPEG4)
    add_empty_chunks(tmp_path / "a.avi", 30)
    with av.open(str(tmp_path / "a.avi")) as file:
        assert file.streams.video[0].frames == 40
    assert_shows(tmp_path / "a.avi", list(range(10)), ticks(10))
    data = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(data[:-200])
    with pytest.raises(BadImage, match="truncated: 10 of 40 frames"):
        VideoFile(tmp_path / "a.avi")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("start", [0.5, 30.0])
def test_a_file_need_not_begin_at_zero(tmp_path, name, start):
    write_video(tmp_path / name, pictures(30), **KINDS[name])
    first = VideoFile(tmp_path / name).times[0]
    copy_stream(tmp_path / name, tmp_path / f"late-{name}", shift=start)
    assert_shows(tmp_path / f"late-{name}", list(range(30)), ticks(30, first + start))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.flv", "a.wmv"])
def test_the_last_frame_may_be_held_long(tmp_path, name):
    write_video(tmp_path / name, pictures(30), **KINDS[name])
    first = VideoFile(tmp_path / name).times[0]
    copy_stream(tmp_path / name, tmp_path / f"b-{name}", change=held_long)
    with av.open(str(tmp_path / f"b-{name}")) as file:
        assert file.duration > 9e6
    assert_shows(tmp_path / f"b-{name}", list(range(30)), ticks(30, first))


def test_the_rate_may_vary(tmp_path):
    """Nine tenths of the frames in the first second, the last one after twenty: ffmpeg tells a mean of 1.5."""
    stamps = [*range(0, 1160, 40), 20_000]
    for name in ("a.mp4", "a.mkv"):
        write_video(tmp_path / name, pictures(30), stamps=stamps, **B_FRAMES)
        video = VideoFile(tmp_path / name)
        assert numbers(video.read(list(range(30)))) == list(range(30))
        assert video.times == pytest.approx(np.asarray(stamps) / 1000, abs=0.002)


@pytest.mark.parametrize("start", [0.0, 5.0])
def test_a_fragmented_file_is_whole_to_its_last_fragment(tmp_path, start):
    write_video(tmp_path / "a.mp4", pictures(30), **B_FRAMES)
    copy_stream(tmp_path / "a.mp4", tmp_path / "b.mp4", shift=start, options=FRAGMENTS)
    assert_shows(tmp_path / "b.mp4", list(range(30)), VideoFile(tmp_path / "b.mp4").times[0] + np.asarray(ticks(30)))
    data = (tmp_path / "b.mp4").read_bytes()
    fragment = data.rindex(b"moof") - 4
    (tmp_path / "c.mp4").write_bytes(data[:fragment])  # a recorder that was switched off: all that there is, is whole
    assert numbers(VideoFile(tmp_path / "c.mp4").read(list(range(20)))) == list(range(20))
    (tmp_path / "d.mp4").write_bytes(data[: fragment - 60])
    with pytest.raises(BadImage, match=r"truncated: 1\d of 20 frames"):
        VideoFile(tmp_path / "d.mp4")


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_a_recording_without_a_duration(tmp_path, name):
    """As live streams are recorded: no length, no tags, no index, whole wherever it ends between two clusters."""
    write_video(tmp_path / "a.mkv", pictures(30), **B_FRAMES)
    copy_stream(tmp_path / "a.mkv", tmp_path / f"live-{name}", options={"live": "1"}, container="matroska")
    with av.open(str(tmp_path / f"live-{name}")) as file:
        assert file.duration is None
    assert_shows(tmp_path / f"live-{name}", list(range(30)), ticks(30))


def test_a_length_that_the_file_itself_contradicts(tmp_path):
    """Matroska's tags are often copied from a longer video; the segment tells where the file ends."""
    write_video(tmp_path / "a.mkv", pictures(30), **B_FRAMES)
    data = (tmp_path / "a.mkv").read_bytes()
    assert data.count(b"00:00:01.200000000") == 1
    (tmp_path / "a.mkv").write_bytes(data.replace(b"00:00:01.200000000", b"00:01:01.200000000"))
    assert_shows(tmp_path / "a.mkv", list(range(30)), ticks(30))
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[:-400])
    with pytest.raises(BadImage, match=r"truncated: 0\.8 of 61\.2 seconds"):
        VideoFile(tmp_path / "a.mkv")


@pytest.mark.parametrize(
    ("name", "kind", "start", "reason"),
    [
        ("a.mkv", MPEG4, 0.0, r"truncated: 2\.\d of 4\.0 seconds"),
        ("a.mkv", MPEG4, 3.0, r"truncated: 5\.\d of 7\.0 seconds"),
        ("a.avi", MPEG4, 0.0, r"truncated: \d\d of 100 frames"),
        ("a.flv", FLV, 0.0, r"truncated: 2\.\d of 4\.\d seconds"),
        ("a.flv", FLV, 3.0, r"truncated: 2\.\d of 4\.\d seconds"),
        ("a.mov", MPEG4, 0.0, r"truncated: \d\d of 100 frames"),
        ("a.mov", MPEG4, 3.0, r"truncated: \d\d of 100 frames"),
    ],
)
def test_a_file_that_lacks_its_end_says_so(tmp_path, name, kind, start, reason):
    noise = np.random.default_rng(0).integers(0, 255, (100, 24, 32, 3), np.uint8)
    write_video(tmp_path / name, noise, **kind)
    copy_stream(tmp_path / name, tmp_path / f"b-{name}", shift=start, options={"movflags": "faststart"})
    data = (tmp_path / f"b-{name}").read_bytes()
    (tmp_path / f"b-{name}").write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(BadImage, match=reason):
        VideoFile(tmp_path / f"b-{name}")


@pytest.mark.parametrize("name", ["a.ts", "a.mpg"])
def test_a_broadcast_promises_no_length(tmp_path, name):
    """What is cut off it is not missed, as it is cut anywhere; what is there is read."""
    write_video(tmp_path / name, pictures(30), **MPEG2)
    first = VideoFile(tmp_path / name).times[0]
    assert_shows(tmp_path / name, list(range(30)), ticks(30, first))
