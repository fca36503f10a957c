"""Motion of a square that goes left while the camera pans: it must be on the square."""

import av
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipelines.sources.video import motion
from pipelines.sources.video.slots import moments, slot_frames, slot_means, slots_at
from pipelines.sources.video.video_file import VideoFile
from tests.pipelines.video_files import MPEG4, pictures, write_video

FRAMES, HEIGHT, WIDTH, SIDE, TOP = 12, 96, 160, 32, 32
H264 = {"codec": "libx264", "pixels": "yuv420p", "options": {"preset": "veryfast"}}


def left(frame):
    return 112 - 4 * frame


def panned(frames=FRAMES):
    """Frames uint8 [T, H, W, 3]: all of the background moves by 2 pixels a frame, the square by 4 the other way."""
    rng = np.random.default_rng(0)
    behind = gaussian_filter(rng.uniform(0, 255, (HEIGHT, WIDTH + 2 * frames, 3)), (2, 2, 0)) * 3 - 255
    square = rng.uniform(0, 255, (SIDE // 4, SIDE // 4, 3)).repeat(4, 0).repeat(4, 1)
    made = np.stack([behind[:, 2 * t : 2 * t + WIDTH] for t in range(frames)])
    for t in range(frames):
        made[t, TOP : TOP + SIDE, left(t) : left(t) + SIDE] = square
    return np.clip(made, 0, 255).astype(np.uint8)


def on_square(frame, grid=motion.GRID):
    """Which cells of a grid lie on the square, bool [grid, grid]."""
    rows, columns = ((np.arange(grid) + 0.5) / grid * side for side in (HEIGHT, WIDTH))
    inside = (columns > left(frame)) & (columns < left(frame) + SIDE)
    return ((rows > TOP) & (rows < TOP + SIDE))[:, None] & inside[None]


def contrast(maps, frames):
    """How many times as much there is on the square as elsewhere, by frame."""
    return np.array(
        [each[on_square(t)].mean() / each[~on_square(t)].mean() for each, t in zip(maps, frames, strict=True)]
    )


@pytest.mark.parametrize("how", [H264, MPEG4], ids=["h264", "mpeg4"])
def test_the_vectors_of_a_file_show_what_moves_against_the_camera(tmp_path, how):
    write_video(tmp_path / "a.mp4", panned(), **how)
    video = VideoFile(tmp_path / "a.mp4")
    images, maps = video.read_moving(range(FRAMES))
    assert np.asarray(images[3]).shape == (HEIGHT, WIDTH, 3)
    assert maps.shape == (FRAMES, motion.GRID, motion.GRID)
    assert (maps[0] == maps[1]).all()  # the keyframe has none of its own
    assert contrast(maps[1:], range(1, FRAMES)).min() > 5
    later, few = video.read_moving([5, 9])
    assert [np.asarray(image).tolist() for image in later] == [np.asarray(images[i]).tolist() for i in (5, 9)]
    assert (few == maps[[5, 9]]).all()
    assert video.read_moving([5], pictures=False)[0] == []
    found, carried = motion.motion_of(video, "motion")
    assert carried
    assert (found == maps).all()


def test_motion_is_turned_as_frames_are(tmp_path):
    write_video(tmp_path / "a.mp4", panned(), **H264)
    write_video(tmp_path / "turned.mp4", panned(), **H264, rotation=90)
    (plain, turned) = (VideoFile(tmp_path / f"{name}.mp4") for name in ("a", "turned"))
    assert turned.size == (HEIGHT, WIDTH)
    shown, seen = (np.asarray(video.read([4])[0]) for video in (plain, turned))
    quarter = next(k for k in (1, 3) if np.abs(np.rot90(shown, k).astype(int) - seen).mean() < 2)
    maps, others = (video.read_moving(range(6), pictures=False)[1] for video in (plain, turned))
    assert others == pytest.approx(np.rot90(maps, quarter, axes=(1, 2)), abs=1e-5)


@pytest.mark.parametrize("codec", ["ffv1", "libx265"])
def test_frames_are_encoded_where_a_file_has_no_vectors(tmp_path, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV was built without {codec}")
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    write_video(tmp_path / "a.mkv", panned(), codec=codec, pixels="yuv420p", options=options)
    video = VideoFile(tmp_path / "a.mkv")
    assert video.read_moving([3, 4])[1] is None
    maps, carried = motion.motion_of(video, "motion")
    assert not carried
    assert contrast(maps[1:], range(1, FRAMES)).min() > 4


def test_what_stands_still_has_no_peak(tmp_path):
    write_video(tmp_path / "a.mp4", panned(1).repeat(6, 0), **H264)
    maps, _ = motion.motion_of(VideoFile(tmp_path / "a.mp4"), "motion")
    assert maps.max() < 0.5  # 1 would be the mean of a frame in which something moves


def test_differences_are_those_of_frames(tmp_path):
    frames = pictures(4, 64, 64)
    images = [Image.fromarray(frame) for frame in frames]
    found = motion.frame_differences(images)
    assert found[1:, -1, -1] == pytest.approx(np.full(3, 7 / 255), abs=1e-4)  # grey levels between frames
    assert found[:, 0, 0].max() == 0
    assert (found[0] == found[1]).all()


def test_slots_are_of_equal_time():
    times = np.array([0.0, 1, 2, 3, 7, 8, 9])  # three seconds are missing
    at = moments(times)
    assert at[0] > 0
    assert at[-1] < 1
    assert np.diff(at) == pytest.approx(np.diff(times) / (9 + 1.5))
    assert slots_at(at, 3).tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert slot_frames(times, 3).tolist() == [1, 3, 5]
    values = np.arange(7, dtype=np.float32)[:, None, None]
    assert slot_means(values, times, 3).ravel().tolist() == [1, 3, 5]
    assert slot_means(values[:2], times[:2], 6).ravel().tolist() == [0, 0, 0, 1, 1, 1]
    for count in (1, 2, 5, 16):
        for slots in (2, 3, 16):
            frames = slot_frames(np.arange(count) / 25, slots)
            assert (np.diff(frames) >= 0).all()
            assert frames[(slots - 1) // 2] == (count - 1) // 2  # the middle frame
