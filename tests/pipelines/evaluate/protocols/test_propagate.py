"""``--protocol propagate`` against encoders of which the result is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.errors import UserError
from pipelines.evaluate.data import Data
from pipelines.evaluate.encoders.baseline_encoders import place_encoder
from pipelines.evaluate.encoders.encoder import open_encoder
from pipelines.evaluate.evaluate import evaluate
from pipelines.evaluate.protocols.propagate import Propagate, videos_of
from pipelines.sources.open_source import open_source
from tests.pipelines.evaluate.protocols.test_occlusion_protocol import save_run
from tests.pipelines.evaluate.protocols.test_whole_images import options, oracle, video, write_frame


def measured(encoder, source):
    given = options(source.name)
    return Propagate(given, Data(given), quiet=True).measure(encoder, 0, None)


def test_an_oracle_carries_a_moving_object_without_an_error(tmp_path):
    source = open_source(str(video(tmp_path / "video")))
    found = measured(oracle(), source)
    assert found.array("scores").tolist() == [[1, 1]]
    assert found.facts == {"videos": [source.name], "frames": 6}  # neither the first nor the last


@pytest.mark.parametrize("tubelet", [1, 2])
def test_an_encoder_of_video_sees_the_frames_in_clips(tubelet, tmp_path):
    """A slot of one frame is that frame; one of two is their mean, and both have its mask."""
    source = open_source(str(video(tmp_path / "video")))  # eight frames, of which a third clip of four has none

    def slots(clips):
        pixels = clips.float() / 255 - 0.5
        return pixels.unflatten(2, (-1, tubelet)).mean(3)

    scores = measured(replace(oracle(), patches=slots, frames=6), source).array("scores")
    if tubelet == 1:
        assert scores.tolist() == [[1, 1]]
    assert 0.6 < scores[0, 0] <= 1


def two_objects(folder, frames=6):
    """A disc that goes right and a square that goes down, on noise, with a palette's numbers as their masks."""
    folder.mkdir(parents=True)
    for t in range(frames):
        y, x = np.mgrid[:24, :24]
        objects = np.zeros((24, 24), np.uint8)
        objects[2 + t : 8 + t, 15:21] = 7
        objects[(y - 14) ** 2 + (x - 5 - t) ** 2 < 16] = 2
        image = np.random.default_rng(0).integers(0, 60, (24, 24, 3)).astype(np.uint8)
        image[objects == 2], image[objects == 7] = (250, 20, 20), (20, 20, 250)
        Image.fromarray(image).save(folder / f"{t:03}.png")
        mask = Image.fromarray(objects, "P")
        mask.putpalette([0, 0, 0] * 2 + [128, 0, 0] * 254)
        mask.save(folder / f"{t:03}_mask.png")
    return folder


def test_every_object_is_carried_and_judged_on_its_own(tmp_path):
    two_objects(tmp_path / "videos" / "two")
    video(tmp_path / "videos" / "one", frames=5)
    given = options(tmp_path / "videos")
    protocol = Propagate(given, Data(given), quiet=True)
    found = protocol.measure(oracle(), 0, None)
    assert found.facts == {"videos": ["one", "two", "two"], "frames": 3 + 4}
    assert found.array("scores").tolist() == [[1, 1]] * 3
    assert protocol.settings(oracle(), 0)["objects"] == 2
    still = protocol.measure(place_encoder(oracle()), 0, None)
    scores = still.array("scores")
    row = protocol.figures([still], None)
    assert row["propagate"] == pytest.approx(scores.mean())  # over objects
    assert row["propagate_videos"]["two"]["objects"] == pytest.approx(scores[1:].mean(1))
    assert "objects" not in row["propagate_videos"]["one"]
    low, high = row["propagate_ends"]
    means = [scores[0].mean(), scores[1:].mean()]
    assert (low, high) == (pytest.approx(min(means)), pytest.approx(max(means)))  # of two videos


def test_a_vit_of_timm_interpolates_its_positions():
    encoder = open_encoder("timm:test_vit@none", pool="mean", device="cpu")
    assert encoder.stride == 16
    own, other = (torch.zeros(1, 3, *size, dtype=torch.uint8) for size in (encoder.size, (96, 224)))
    assert encoder.patches(own).shape[2:] == (10, 10)
    assert encoder.patches(other).shape[2:] == (6, 14)


def test_what_knows_the_place_alone_keeps_the_first_mask(tmp_path):
    from mae.evaluation.region_scores import region_similarity

    source = open_source(str(video(tmp_path / "video", frames=5)))
    found = measured(place_encoder(oracle()), source)
    first = source.read_mask(0)
    expected = [region_similarity(first, source.read_mask(t)) for t in (1, 2, 3)]
    assert found.array("scores")[0, 0] == pytest.approx(np.mean(expected), abs=0.02)
    assert found.array("scores")[0, 0] < 0.9


def test_videos_are_folders_in_the_order_of_names(tmp_path):
    for name in ("b", "a"):
        video(tmp_path / "videos" / name, frames=4)
    write_frame(tmp_path / "videos" / "single", "0", (9, 9))
    videos = videos_of(open_source(str(tmp_path / "videos")))
    assert list(videos) == ["a", "b"]
    assert videos["b"].tolist() == [4, 5, 6, 7]


def test_what_is_finished_is_not_computed_again(tmp_path, monkeypatch):
    given = replace(options(video(tmp_path / "video"), protocols=("propagate",)), run=save_run(tmp_path / "run"))
    result = evaluate(given, quiet=True)
    monkeypatch.setattr(Propagate, "measure", lambda *_, **__: pytest.fail("it is finished"))
    assert evaluate(given, quiet=True) == result
    assert result["test"] == given.source


def test_an_encoder_that_can_not_be_asked_is_told_before_any_is_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(Propagate, "measure", lambda *_, **__: pytest.fail("nothing may run"))
    given = options(video(tmp_path / "video"), protocols=("propagate",), dense_size=40, beside=("timm:resnet10t@none",))
    with pytest.raises(UserError, match="--dense-size 40: timm:resnet10t@none sees images of 176×176 pixels alone"):
        evaluate(replace(given, run=save_run(tmp_path / "run")), quiet=True)
