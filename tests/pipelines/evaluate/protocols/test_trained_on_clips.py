"""Protocols on clips that learn from crops of frames, from patches, and several clips of a video."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mae.models.video import VideoMaskedAutoencoder
from mae.pixels import normalise
from pipelines.errors import UserError
from pipelines.evaluate.encoders.encoder import open_encoder, tokens_of
from pipelines.evaluate.evaluate import EvaluateOptions
from pipelines.evaluate.supervised import TrainingViews
from pipelines.views.clip_views import ClipShape, clip_frames
from pipelines.views.image_views import stream_of
from pipelines.views.labelled import Labelled
from tests.pipelines.evaluate.protocols.test_clip_protocols import CLIPS, TEST, judge, open_clips, save_run
from tests.tiny_mae import NANO, nano

QUICK = {"linear_epochs": 2, "linear_batch_size": 8, "finetune_epochs": 1, "finetune_batch_size": 8}


@pytest.fixture
def base(tmp_path):
    run = save_run(tmp_path / "run", seed=5)
    return EvaluateOptions(run, CLIPS, test=TEST, batch_size=16, workers=0, untrained=False, **QUICK)


@pytest.mark.parametrize("class_token", [False, True])
def test_the_network_to_train_gives_the_tokens_of_the_encoder(class_token, tmp_path):
    torch.manual_seed(0)
    model = VideoMaskedAutoencoder(16, frames=4, class_token=class_token, **NANO._asdict())
    encoder = open_encoder(save_run(tmp_path, model), pool="mean", device="cpu")
    clips = torch.randint(0, 256, (2, 3, 4, 16, 16), dtype=torch.uint8)
    network = encoder.network(0.0).eval()
    expected = model.encode(normalise(clips))
    torch.testing.assert_close(network.forward_features(normalise(clips)), expected, atol=1e-5, rtol=1e-5)
    patches = expected[:, model.class_tokens :]
    torch.testing.assert_close(tokens_of(encoder, clips), patches, atol=1e-5, rtol=1e-5)
    places = patches.transpose(1, 2).reshape(2, -1, 2, 2, 2)
    torch.testing.assert_close(encoder.patches(clips), places, atol=1e-5, rtol=1e-5)


def test_a_clip_to_train_on_begins_anywhere_and_is_seen_in_one_way():
    source, shape = open_clips(CLIPS), ClipShape(4, 2)
    seen = []

    def remember(picture, key):
        seen.append(key)
        return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)

    views = TrainingViews(Labelled(source, source.labels, shape), remember, 7)
    index, clip = views[3, 5]
    assert (index, clip.shape, set(seen)) == (5, (3, 4, 16, 16), {(7, 3, 5)})
    video = source.open_video(5)
    frames = clip_frames(video.times, shape, stream_of(7, 3, 5))
    for number, picture in enumerate(video.read(frames.tolist())):
        assert np.array_equal(clip[:, number].permute(1, 2, 0), np.asarray(picture))
    starts = {int(clip_frames(video.times, shape, stream_of(7, epoch, 5))[0]) for epoch in range(20)}
    assert len(starts) > 3


def test_several_clips_reach_from_beginning_to_end():
    times = np.arange(20.0)
    found = [clip_frames(times, ClipShape(4, 2, (number, 3))).tolist() for number in range(3)]
    assert found == [[0, 2, 4, 6], [6, 8, 10, 12], [13, 15, 17, 19]]
    assert clip_frames(times, ClipShape(4, 2, (0, 1))).tolist() == [6, 8, 10, 12]  # the only one


def test_all_classifications_are_of_clips_and_average_them(base):
    protocols = ("knn", "logistic", "linear", "attentive", "finetune")
    options = replace(base, protocols=protocols, clips=2, frame_stride=1)
    row = judge(options)["rows"][0]
    for name in protocols:
        assert np.sum(row[f"{name}_confusion"]) == 12
        assert 0 <= row[name] <= row[f"{name}_top5"] <= 1  # of six motions
    for number, clip in ((0, "first"), (1, "last")):  # what k-NN makes of each of them
        assert clip_frames(np.arange(12.0), ClipShape(4, 1, (number, 2)))[0] == {"first": 0, "last": 8}[clip]
    single = judge(replace(options, clips=1, protocols=("knn",)))["rows"][0]
    assert single["knn_confusion"] != row["knn_confusion"]  # clips at both ends are others than the middle one


def moving_squares(folder, videos=10, frames=6):
    """White squares that move on black, with their masks."""
    rng = np.random.default_rng(0)
    for number in range(videos):
        clip = folder / f"clip-{number}x"
        clip.mkdir(parents=True)
        top, left = rng.integers(0, 5, 2) * 2
        for frame in range(frames):
            picture = np.zeros((16, 16), np.uint8)
            picture[top : top + 4, left + frame - frame % 2 : left + frame - frame % 2 + 4] = 255
            Image.fromarray(picture).convert("RGB").save(clip / f"{frame:03}.png")
            Image.fromarray(picture).save(clip / f"{frame:03}_mask.png")
    return folder


def test_masks_are_segmented_frame_by_frame(base, tmp_path):
    other = save_run(tmp_path / "image", nano(16))
    run = save_run(tmp_path / "fine", VideoMaskedAutoencoder(16, frames=4, **NANO._asdict() | {"patch_size": 2}))
    clips = str(moving_squares(tmp_path / "clips"))
    options = replace(base, run=run, source=clips, test=None, frame_stride=1, beside=(other,), untrained=True)
    result = judge(replace(options, protocols=("segment",)))
    video, image, _ = result["rows"]
    assert video["segment_images"] == image["segment_images"] == result["test_images"]
    assert video["segment_runs"][0]["patches"] == result["train_images"] * 2 * 8 * 8  # slots, rows, columns
    assert image["segment_runs"][0]["patches"] == result["train_images"] * 4 * 2 * 2  # frames, rows, columns
    colour, place = result["baselines"]
    assert colour["segment"] > 0.85 > place["segment"]  # what is white is the object


def test_what_there_is_not(base, tmp_path):
    image = save_run(tmp_path / "image", nano(16))
    with pytest.raises(UserError, match="finetune trains models of video on whole clips, and .*image is none"):
        judge(replace(base, protocols=("finetune",), beside=(image,)))
