import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipelines.errors import UserError
from pipelines.evaluate.baseline_encoders import colour_encoder, place_encoder
from pipelines.evaluate.data import open_masked
from pipelines.evaluate.encoder import Encoder, open_encoder
from pipelines.evaluate.evaluate import EvaluateOptions, evaluate
from pipelines.evaluate.protocols import propagate
from pipelines.evaluate.protocols.propagate import propagation, videos_of
from pipelines.evaluate.protocols.segment import segment_row, segmentation
from pipelines.evaluate.protocols.whole_images import view_size
from pipelines.sources.open_source import open_source
from tests.pipelines.evaluate.protocols.test_occlusion_protocol import save_run

SIDE = 24


def write_frame(folder, name, place, colour=(250, 250, 250), radius=5):
    """A disc on noise, and its mask."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:SIDE, :SIDE]
    mask = (y - place[0]) ** 2 + (x - place[1]) ** 2 < radius**2
    image = np.random.default_rng(0).integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
    image[mask] = colour
    Image.fromarray(image).save(folder / f"{name}.png")
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{name}_mask.png")


def video(folder, frames=8):
    for t in range(frames):
        write_frame(folder, f"{t:03d}", (8 + t, 7 + t))
    return folder


def oracle(size=(SIDE, SIDE)):
    """An encoder whose features are the pixels, on which the object can be told from everything else."""

    def refuse(*_):
        raise NotImplementedError

    def pixels(images):
        return images.float() / 255 - 0.5

    return Encoder("oracle", size, refuse, lambda _: nn.Identity(), lambda: "oracle", patches=pixels, stride=1)


def options(source, **given):
    return EvaluateOptions("none", str(source), batch_size=5, workers=0, **given)


def test_an_oracle_segments_without_an_error(tmp_path):
    for i in range(10):
        write_frame(tmp_path / "data", f"{i}", (6 + i, 12))
    given = options(tmp_path / "data", test_fraction=0.3)
    train, test, names = open_masked(given)
    assert (len(train), len(test), names) == (7, 3, [])
    found = segmentation(oracle(), train, test, 2, given, seed=0, quiet=True)
    row = segment_row([found], ["background", "object"], 0)
    assert row["segment"] == 1
    assert row["segment_per_class"] == {"background": 1, "object": 1}
    assert row["segment_ends"] == (1, 1)


def test_an_oracle_segments_classes(tmp_path):
    colours = {"red": (250, 0, 0), "green": (0, 250, 0)}
    for name, colour in colours.items():
        for i in range(6):
            write_frame(tmp_path / "data" / name, f"{i}", (6 + i, 12), colour)
    given = options(tmp_path / "data")
    train, test, names = open_masked(given)
    assert names == ["green", "red"]
    found = segmentation(oracle(), train, test, 3, given, seed=0, quiet=True)
    assert segment_row([found], ["background", *names], 0)["segment_per_class"] == dict.fromkeys(
        ["background", *names], 1
    )
    _, _, names = open_masked(replace(given, segment_classes=False))
    assert names == []


def test_an_oracle_carries_a_moving_object_without_an_error(tmp_path):
    source = open_source(str(video(tmp_path / "video")))
    found = propagation(oracle(), source, options(source.name), quiet=True)
    assert found.array("scores").tolist() == [[1, 1]]
    assert found.facts == {"videos": [source.name], "frames": 6}  # neither the first nor the last


def test_what_knows_the_place_alone_keeps_the_first_mask(tmp_path):
    from mae.evaluation.region_scores import region_similarity

    source = open_source(str(video(tmp_path / "video", frames=5)))
    found = propagation(place_encoder(oracle()), source, options(source.name), quiet=True)
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


def test_the_result(tmp_path):
    run = save_run(tmp_path / "run")
    for name in ("one", "two"):
        video(tmp_path / "videos" / name, frames=5)
    given = replace(
        options(tmp_path / "videos", protocols=("segment", "propagate"), dense_size=40, segment_classes=False), run=run
    )
    result = evaluate(given, quiet=True)
    assert [row["encoder"] for row in result["rows"]] == [run, "untrained"]
    assert [row["encoder"] for row in result["baselines"]] == ["colour", "place"]
    for row in (*result["rows"], *result["baselines"]):
        assert 0 <= row["segment_ends"][0] <= row["segment"] <= row["segment_ends"][1] <= 1
        assert row["propagate"] == pytest.approx((row["propagate_region"] + row["propagate_boundary"]) / 2)
        assert set(row["propagate_videos"]) == {"one", "two"}
        assert row["propagate_frames"] == 6
    assert result["class_names"] == ["background", "object"]
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == json.loads(json.dumps(result))
    assert evaluate(given, quiet=True)["rows"][0]["segment"] == result["rows"][0]["segment"]


def test_what_is_finished_is_not_computed_again(tmp_path, monkeypatch):
    given = replace(options(video(tmp_path / "video"), protocols=("propagate",)), run=save_run(tmp_path / "run"))
    result = evaluate(given, quiet=True)
    monkeypatch.setattr(propagate, "propagation", lambda *_, **__: pytest.fail("it is finished"))
    assert evaluate(given, quiet=True) == result
    assert result["test"] == given.source


def test_fewer_masks_to_learn_from(tmp_path):
    run = save_run(tmp_path / "run")
    given = replace(options("shapes:40,size=32,objects=1", protocols=("segment",)), run=run, untrained=False)
    whole, share = (evaluate(replace(given, label_fraction=f), quiet=True) for f in (1.0, 0.25))
    assert share["train_images"] == 8
    assert whole["train_images"] == 32
    assert "baselines" not in whole
    assert whole["rows"][0]["segment_runs"][0]["patches"] == 32 * 16
    assert share["rows"][0]["segment_runs"][0]["patches"] == 8 * 16


def test_an_encoder_that_can_not_be_asked_is_told_before_any_is_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(propagate, "propagation", lambda *_, **__: pytest.fail("nothing may run"))
    given = options(video(tmp_path / "video"), protocols=("propagate",), dense_size=40, beside=("timm:test_vit@none",))
    with pytest.raises(UserError, match="--dense-size 40: timm:test_vit@none sees images of 160×160 pixels alone"):
        evaluate(replace(given, run=save_run(tmp_path / "run")), quiet=True)


def test_features_by_place_are_those_of_the_tokens(tmp_path):
    from mae.pixels import normalise
    from mae.training.checkpoints import load_model

    encoder = open_encoder(save_run(tmp_path / "run"), pool="mean", device="cpu")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        tokens = load_model(tmp_path / "run").encode(normalise(images))[:, 1:]
    torch.testing.assert_close(encoder.patches(images).flatten(2).transpose(1, 2), tokens)
    assert encoder.patches(images[:, :, :16]).shape == (2, 16, 2, 4)
    assert view_size(encoder, 30).of(60, 30) == (32, 64)
    assert view_size(encoder, None).of(60, 30) == (32, 32)


@pytest.mark.parametrize("name", ["test_vit", "resnet10t"])
def test_models_of_timm_have_features_by_place(name):
    encoder = open_encoder(f"timm:{name}@none", pool="mean", device="cpu")
    features = encoder.patches(torch.zeros(1, 3, *encoder.size, dtype=torch.uint8))
    assert features.ndim == 4
    assert min(features.shape) >= 1
    with pytest.raises(UserError, match="--dense-size 64"):
        view_size(encoder, 64)


def test_plain_encoders_see_colour_and_place_alone():
    like = oracle((8, 8))
    red = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    red[:, 0, 2, 3] = 200
    colour, place = colour_encoder(like), place_encoder(like)
    assert colour.patches(red)[0, 0, 2, 3] == pytest.approx(200 / 255 - 0.5)
    assert torch.equal(place.patches(red), place.patches(red * 0))
    places = place.patches(red)[0].flatten(1).T
    assert len(places.unique(dim=0)) == 64


def test_sources_without_masks_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    run = save_run(tmp_path / "run")
    (tmp_path / "plain").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").rename(tmp_path / "plain" / f"{name}.png")
    for protocol in ("segment", "propagate"):
        with pytest.raises(UserError, match="has no masks"):
            evaluate(replace(options(tmp_path / "plain", protocols=(protocol,)), run=run), quiet=True)
