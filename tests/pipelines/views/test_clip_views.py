"""Clips: which frames they have, one view for all of them and their masks, folders of videos, moving shapes."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.errors import UserError
from pipelines.sources.images import decode_rgb
from pipelines.sources.open_source import open_clips, open_source
from pipelines.sources.scenes.moving_scenes import MOTIONS
from pipelines.sources.scenes.scene_drawing import COLORS
from pipelines.sources.source import Source
from pipelines.views.clip_views import ClipShape, ClipViews, clip_frames, masks_on_view, read_clip
from pipelines.views.geometry import View, random_view, view_image
from pipelines.views.image_views import Seen, Unreadable, collate
from tests.pipelines.video_files import numbers, pictures, write_video


def constant_rate(count):
    return np.arange(count) / 25


@given(st.integers(1, 80), st.integers(1, 16), st.integers(1, 6), st.integers(0, 99))
def test_a_clip_is_evenly_spaced_and_inside(count, frames, stride, seed):
    shape = ClipShape(frames, stride)
    span = (frames - 1) * stride + 1
    for chosen in (
        clip_frames(constant_rate(count), shape),
        clip_frames(constant_rate(count), shape, np.random.default_rng(seed)),
    ):
        assert len(chosen) == frames
        assert chosen[0] >= 0
        assert chosen[-1] <= count - 1
        if span <= count:
            assert set(np.diff(chosen)) <= {stride}
        else:  # it goes on with the last frame
            assert chosen.tolist() == [min(k * stride, count - 1) for k in range(frames)]


def test_the_middle_is_the_middle_and_starts_are_anywhere():
    assert clip_frames(constant_rate(100), ClipShape(4, 5)).tolist() == [42, 47, 52, 57]
    starts = {int(clip_frames(constant_rate(20), ClipShape(4, 5), np.random.default_rng(s))[0]) for s in range(200)}
    assert starts == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("wrong", [(0, 4), (16, 0)])
def test_clips_have_frames_and_a_stride(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        ClipShape(*wrong)


class Noise:
    """A video of noise with masks."""

    times = constant_rate(12)
    size = (40, 30)

    def __init__(self):
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 255, (12, 30, 40, 3), np.uint8)
        self.true = rng.random((12, 30, 40)) < 0.3

    def read(self, frames, *, draft=None):
        return [Image.fromarray(self.pixels[frame]) for frame in frames]

    def masks(self, frames):
        return self.true[list(frames)]


def source_of(videos):
    keys = pa.array([str(i) for i in range(len(videos))])
    return Source("made", keys, None, videos=videos)


def test_all_frames_and_masks_share_one_view():
    video = Noise()
    view = random_view(np.random.default_rng(3), 40, 30, flip=1.0)
    frames = np.asarray([2, 4, 6, 6])
    clip, _ = read_clip(video, frames, view, (16, 24))
    assert clip.shape == (3, 4, 16, 24)
    for place, frame in enumerate(frames):
        assert np.array_equal(clip[:, place], view_image(video.read([frame])[0], view, (16, 24)))
    whole = masks_on_view(video.masks([2, 4]), View(flip=True), (30, 40))
    assert torch.equal(whole, torch.from_numpy(video.true[[2, 4]][:, :, ::-1].copy()).float())
    cropped = masks_on_view(video.masks([2]), View((0.5, 0, 1, 1)), (30, 20))
    assert torch.allclose(cropped[0], torch.from_numpy(video.true[2][:, 20:]).float(), atol=1e-5)


def test_views_follow_from_seed_epoch_and_index():
    def clip(seed, epoch):
        return ClipViews(source_of([Noise()] * 2), (16, 16), ClipShape(3, 2), augment=True, seed=seed)[epoch, 1]

    first = clip(0, 0)
    assert np.array_equal(first.pixels, clip(0, 0).pixels)
    assert not np.array_equal(first.pixels, clip(0, 1).pixels)
    assert not np.array_equal(first.pixels, clip(1, 0).pixels)
    batch = collate([first, clip(0, 1)])
    assert batch.images.shape == (2, 3, 3, 16, 16)


@pytest.fixture
def folder(tmp_path):
    """Two classes: files and a folder of frames, one file broken, one frame of another size."""
    pytest.importorskip("av")
    for name in ("cats/a.mkv", "cats/b.mp4", "dogs/c.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_video(
            tmp_path / name, pictures(12), **({"codec": "libx264", "options": {"qp": "0"}} if "mp4" in name else {})
        )
    (tmp_path / "dogs" / "broken.mp4").write_bytes(b"not a video" * 100)
    (tmp_path / "dogs" / "c.txt").write_text("a dog that runs\n")
    frames = tmp_path / "dogs" / "frames"
    frames.mkdir()
    for number, picture in enumerate(pictures(12)):
        Image.fromarray(picture).save(frames / f"{number}.png")  # 10 comes after 9, not after 1
        Image.fromarray(picture[..., 0] * 0 + (255 if number == 5 else 0)).save(frames / f"{number}_mask.png")
    return tmp_path


def test_a_folder_has_files_and_frame_folders_as_clips(folder):
    source = open_clips(str(folder))
    assert source.keys.to_pylist() == ["cats/a.mkv", "cats/b.mp4", "dogs/broken.mp4", "dogs/c.mkv", "dogs/frames"]
    assert source.label_names == ["cats", "dogs"]
    assert source.labels.tolist() == [0, 0, 1, 1, 1]
    assert source.caption(0) == "a photo of a cats"
    assert source.caption(3) == "a dog that runs"
    for index in (0, 1, 3, 4):
        video = source.open_video(index)
        assert numbers(video.read(range(12))) == list(range(12))
    assert open_clips(str(folder), limit=2).keys.to_pylist() == ["cats/a.mkv", "cats/b.mp4"]
    assert len(open_clips(str(folder / "cats" / "a.mkv"))) == 1
    assert open_clips(str(folder / "*" / "?.mkv")).keys.to_pylist() == ["cats/a.mkv", "dogs/c.mkv"]


def test_what_is_broken_is_recorded(folder):
    Image.fromarray(pictures(1, width=30)[0]).save(folder / "dogs" / "frames" / "7.png")
    views = ClipViews(open_clips(str(folder)), (16, 16), ClipShape(12, 1), augment=False)
    items = [views[0, index] for index in range(5)]
    assert [type(item) for item in items] == [Seen, Seen, Unreadable, Seen, Unreadable]
    assert items[2].reason.startswith("not a video that can be read")
    assert items[4].reason == "frame 7.png: 30×24, the first is 32×24"
    assert [item.index for item in collate(items).unreadable] == [2, 4]


def test_frame_masks_lie_beside_their_frames(folder):
    video = open_clips(str(folder)).open_video(4)
    assert video.masks([4, 5]).all((1, 2)).tolist() == [False, True]
    (folder / "dogs" / "frames" / "4_mask.png").unlink()
    assert video.__class__(str(folder / "dogs" / "frames")).masks([4, 5]) is None


def test_to_commands_for_images_a_video_is_its_middle_frame(folder):
    (folder / "dogs" / "broken.mp4").unlink()
    for path in (folder / "dogs" / "frames").iterdir():
        path.unlink()
    source = open_source(str(folder))
    assert source.keys.to_pylist() == ["cats/a.mkv", "cats/b.mp4", "dogs/c.mkv"]
    assert numbers([decode_rgb(source.read_image(2))]) == [5]


def test_sources_go_to_workers(folder):
    source = pickle.loads(pickle.dumps(open_clips(str(folder))))
    assert numbers(source.select([3]).open_video(0).read([3])) == [3]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("empty", "holds no videos"),
        ("notes.txt", r"is not a video \(\.txt\)"),
        ("absent", "does not exist"),
        ("shapes:4", "shapes-video:N draws some"),
        ("shapes-video:0", r"N is '0'.*write shapes-video:N"),
        ("shapes-video:4,frames=0", "frames is '0'"),
        ("shapes-video:4,label=size", "label is 'size', not motion or color; write"),
        ("shapes-video:4,colour=1", "option 'colour' is unknown"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, spec, why):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("nothing")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=why):
        open_clips(spec)


def test_splits_are_named(folder):
    (folder / "cats").rename(folder / "train")
    (folder / "dogs").rename(folder / "test")
    assert open_clips(str(folder), split="train").keys.to_pylist() == ["a.mkv", "b.mp4"]
    with pytest.raises(UserError, match="--split"):
        open_clips(str(folder))


def test_moving_shapes_do_what_they_say():
    source = open_clips("shapes-video:40,frames=20,objects=1")
    names = source.label_names
    assert set(source.labels.tolist()) == set(range(len(MOTIONS)))
    for index in range(len(source)):
        masks = source.open_video(index).masks([0, 10, 19])
        rows, columns = np.mgrid[0:96, 0:96]
        start, _, end = [(columns[mask].mean(), rows[mask].mean(), mask.sum()) for mask in masks]
        motion = names[source.labels[index]]
        assert source.caption(index).endswith(motion)
        change = np.subtract(end, start)
        moved = {"left": change[0] < -15, "right": change[0] > 15, "up": change[1] < -15, "down": change[1] > 15}
        moved |= {"growing": change[2] > 0.5 * start[2], "shrinking": change[2] < -0.3 * start[2]}
        assert [name for name, seen in moved.items() if seen] == [motion.split()[-1]]


def test_moving_shapes_may_be_labelled_by_colour():
    source, other = (open_clips(f"shapes-video:30,frames=3,size=32{label}") for label in (",label=color", ""))
    assert set(source.label_names) == set(COLORS)
    assert all(source.label_names[label] in source.caption(index) for index, label in enumerate(source.labels))
    assert source.keys == other.keys
    assert np.array_equal(np.asarray(source.open_video(3).read([1])[0]), np.asarray(other.open_video(3).read([1])[0]))


def test_moving_shapes_are_pure_and_masks_true():
    one, other = (open_clips("shapes-video:3,frames=9,size=48").open_video(2) for _ in range(2))
    assert np.array_equal(np.asarray(one.read([4])[0]), np.asarray(other.read([2, 4])[1]))
    frames, masks = np.stack([np.asarray(image) for image in one.read([0, 8])]), one.masks([0, 8])
    changed = (frames[0].astype(int) != frames[1]).any(-1)
    assert not changed[~(masks[0] | masks[1])].mean() > 0.1  # but for soft edges, only the object differs
    assert changed[masks[0] ^ masks[1]].mean() > 0.9
    assert open_clips("shapes-video:3").keys.to_pylist()[0] == "shapes-video-train-000000"
    test = open_clips("shapes-video:3", split="test")
    assert not np.array_equal(
        np.asarray(test.open_video(0).read([0])[0]), np.asarray(open_clips("shapes-video:3").open_video(0).read([0])[0])
    )


def test_the_middle_of_a_moving_scene_does_not_tell_its_motion():
    source = open_clips("shapes-video:300,objects=1,size=32,frames=9")
    areas = {label: [] for label in range(len(MOTIONS))}
    for index in range(300):
        mask = source.read_mask(index)
        areas[int(source.labels[index])].append((np.nonzero(mask)[1].mean(), np.nonzero(mask)[0].mean(), mask.sum()))
    means = np.asarray([np.mean(values, 0) for values in areas.values()])
    spread = np.std(np.concatenate([np.asarray(values) for values in areas.values()]), 0)
    assert (np.ptp(means, axis=0) < 1.2 * spread).all()
