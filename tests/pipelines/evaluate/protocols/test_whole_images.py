"""``segment`` and ``propagate`` together: what they see, what they are set against, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipelines.errors import UserError
from pipelines.evaluate.encoders.baseline_encoders import colour_encoder, place_encoder
from pipelines.evaluate.encoders.encoder import Encoder, open_encoder
from pipelines.evaluate.evaluate import EvaluateOptions, evaluate
from pipelines.evaluate.protocols.whole_images import view_size
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


@pytest.mark.parametrize(("name", "any_size"), [("test_vit", True), ("resnet10t", False)])
def test_models_of_timm_have_features_by_place(name, any_size):
    encoder = open_encoder(f"timm:{name}@none", pool="mean", device="cpu")
    features = encoder.patches(torch.zeros(1, 3, *encoder.size, dtype=torch.uint8))
    assert features.ndim == 4
    assert min(features.shape) >= 1
    if any_size:
        assert view_size(encoder, 64).of(100, 64) == (64, 96)
    else:
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
