"""A run with a gate: its scores are a map, and its masks are those of the training, at any ratio."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

import saliency_mae as sm
from mae.mask_learners.learner import Look, look_noise
from pipelines.explore.app import app_of
from pipelines.explore.opened import open_all
from pipelines.explore.options import ExploreOptions
from pipelines.explore.requests import asked_by
from pipelines.pretrain.mask_learners import trained_learner
from pipelines.sources.open_source import open_source
from tests.pipelines.explore.test_explore_app import HOST, picture, png


@pytest.fixture(scope="module")
def client(gated):
    return TestClient(app_of(gated), base_url=HOST)


@pytest.fixture(scope="module")
def words(client, gated_options):
    """Of the image 2, at the run's own settings."""
    about = client.get("/api/about").json()
    ((scores, model),) = about["gates"].items()
    return {"row": 2, "map": scores, "model": model} | about["masks"][model]


@pytest.fixture(scope="module")
def image(gated_options):
    """What the run's model sees of it, [1, 3, 32, 32], and its gate's logits [1, 16]."""
    model = sm.load(gated_options.out, device="cpu")
    pixels = np.asarray(Image.open(io.BytesIO(open_source(gated_options.source).read_image(2))).convert("RGB"))
    images = model.transform(pixels)[None]
    with torch.no_grad():
        return pixels, images, model.gate.scores(model.network, images)


def cells(client, words):
    found = client.get("/api/mask", params=words)
    assert found.status_code == 200, found.text
    return np.array([int(cell) for cell in found.json()["cells"]])


def test_a_run_opens_with_its_own_masks(client, words):
    assert "gate" in client.get("/api/about").json()["strategies"]
    assert {name: words[name] for name in ("strategy", "gate_ratio", "gate_sign", "mask_ratio")} == {
        "strategy": "gate",
        "gate_ratio": 0.6,
        "gate_sign": "hide",
        "mask_ratio": 0.5,
    }
    assert client.get("/api/pair", params=words).json()["maps"] == [words["map"]]


def test_masks_that_can_not_be_drawn_are_told(client, gated, words, monkeypatch):
    assert client.get("/api/about").json()["undrawn"] == {}
    monkeypatch.setitem(gated.masking, words["model"], {"strategy": "hard", "mask_ratio": 0.6})
    about = client.get("/api/about").json()
    assert about["undrawn"] == {words["model"]: "hard"}
    assert about["masks"][words["model"]] == {"mask_ratio": 0.6}


def test_the_scores_are_drawn_over_the_image(client, words, image):
    pixels, _, logits = image
    scores = torch.sigmoid(logits).reshape(4, 4).numpy()
    drawn = picture(client.get("/picture/map", params=words))
    assert np.array_equal(drawn, np.asarray(sm.overlay(pixels, scores - scores.min())))


@pytest.mark.parametrize(
    "asked",
    [{}, {"gate_ratio": 1}, {"gate_ratio": 1, "gate_sign": "keep"}, {"seed": 5, "mask_granularity": 2}],
)
def test_the_mask_is_the_one_the_training_draws(client, words, image, gated_options, asked):
    """By the learner that the run's checkpoint gives back to `pretrain`."""
    found, logits = cells(client, words | asked), image[2]
    granularity = asked.get("mask_granularity", 1)
    options = {name: asked[name] for name in ("gate_ratio", "gate_sign") if name in asked}
    learner = trained_learner(replace(gated_options, **options))
    noise = look_noise(torch.Generator().manual_seed(asked.get("seed", 0)), 1, torch.device("cpu"))
    mask = learner.draw(Look(image[1], (4, 4), 0.5, noise, granularity=granularity))
    assert np.array_equal(np.isin(found, (1, 2)), mask.hidden[0].numpy())
    if granularity == 1:
        count = min(max(int((logits > 0).sum()), 1), 6)  # 5 to 40 % of 16
        assert set(np.flatnonzero(np.isin(found, (2, 3)))) == set(logits[0].topk(count).indices.tolist())
    if asked.get("gate_ratio") == 1:  # all that is important is hidden, or kept
        assert (3 if asked.get("gate_sign") is None else 2) not in found


def test_what_is_filled_in_keeps_what_is_visible(client, words, image):
    filled = picture(client.get("/picture/filled", params=words))
    hidden = np.kron(np.isin(cells(client, words), (1, 2)).reshape(4, 4), np.ones((8, 8), bool))
    assert (filled[~hidden] == image[0][~hidden]).all()
    assert (filled[hidden] != image[0][hidden]).any()


def test_other_masks_can_follow_the_scores(client, words, image):
    asked = words | {"strategy": "salient", "salient_ratio": 0.25, "mask_ratio": 0.25}
    assert set(np.flatnonzero(cells(client, asked) == 2)) == set(image[2][0].topk(4).indices.tolist())


def test_an_image_of_ones_own(client, words):
    own = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    row = client.post("/api/bring", content=png(own)).json()["row"]
    assert client.get("/api/pair", params={"row": row}).json()["maps"] == [words["map"]]
    assert (cells(client, words | {"row": row}) > 0).sum() >= 8
    assert picture(client.get("/picture/map", params=words | {"row": row})).shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"map": ""}, "choose the gate"),
        ({"model": ""}, "chooses among 4×4 patches, and there are 14×14"),
        ({"gate_ratio": 2}, "--gate-ratio 2 must lie between 0 and 1"),
        ({"gate_sign": "x"}, "--gate-sign"),
        ({"mask_ratio": 0.99}, "would hide 16 of 16"),
        ({"mask_granularity": 0}, "--mask-granularity 0"),
        ({"mask_granularity": 3}, "does not divide"),
    ],
)
def test_a_mistake_is_a_line(client, words, asked, said):
    answer = client.get("/api/mask", params=words | asked)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_a_saved_model_brings_its_gate(gated_options, client, words):
    step = next((gated_options.out / "checkpoints").glob("step-*"))
    found = open_all(ExploreOptions((str(step), gated_options.source), device="cpu"))
    other = TestClient(app_of(found), base_url=HOST)
    ((scores, model),) = other.get("/api/about").json()["gates"].items()
    assert np.array_equal(cells(other, words | {"map": scores, "model": model}), cells(client, words))


def test_the_masks_of_a_run_as_the_page_asks_for_them():
    salient = {"strategy": "salient", "mask_ratio": 0.75, "salient_ratio": 0.2, "salient_cap": 0.8, "tubes": True}
    assert asked_by(salient | {"salient_schedule": [0.1, 0.4]}) == {
        "strategy": "salient",
        "salient_ratio": 0.4,
        "mask_ratio": 0.75,
        "salient_cap": 0.8,
    }
    assert asked_by({"strategy": "hard", "mask_ratio": 0.6, "salient_of": 3, "cap": None}) == {"mask_ratio": 0.6}
