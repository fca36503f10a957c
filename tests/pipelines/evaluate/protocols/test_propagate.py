"""``--protocol propagate`` against encoders of which the result is known."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.evaluate.baseline_encoders import place_encoder
from pipelines.evaluate.data import Data
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
    given = options(video(tmp_path / "video"), protocols=("propagate",), dense_size=40, beside=("timm:test_vit@none",))
    with pytest.raises(UserError, match="--dense-size 40: timm:test_vit@none sees images of 160×160 pixels alone"):
        evaluate(replace(given, run=save_run(tmp_path / "run")), quiet=True)
