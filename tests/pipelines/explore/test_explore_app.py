"""What the app answers: the pictures and figures are those of the Python functions; a mistake is a line."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

import saliency_mae as sm
from pipelines.explore.app import app_of
from pipelines.explore.opened import open_all
from pipelines.explore.options import ExploreOptions
from pipelines.sources.open_source import open_source
from pipelines.views.geometry import view_maps
from tests.pipelines.explore.conftest import SOURCE

HOST = "http://127.0.0.1"


@pytest.fixture(scope="module")
def client(opened):
    return TestClient(app_of(opened), base_url=HOST)


@pytest.fixture(scope="module")
def about(client):
    return client.get("/api/about").json()


def picture(answer):
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def true_image(number):
    return np.asarray(Image.open(io.BytesIO(open_source(SOURCE).read_image(number))).convert("RGB"))


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("explore.js", "pair.js", "occlude.js", "common.js", "explore.css"):
        text = client.get(f"/page/{name}").text
        assert "://" not in text
        assert len(text) > 500
    assert client.get("/page/..%2Fapp.py").status_code == 404


def test_what_there_is(about):
    assert (about["pairs"], len(about["maps"]), about["images"]) == (12, 2, True)
    assert about["maps"][0].startswith("gradcam · ")
    assert len(about["models"]) == 1
    assert about["clip"] is not None
    assert "salient" in about["strategies"]
    assert "gate" not in about["strategies"]


def test_a_page_of_pairs(client):
    found = client.get("/api/pairs", params={"start": 8}).json()
    assert (found["found"], found["start"]) == (12, 8)
    assert [row["row"] for row in found["rows"]] == ["8", "9", "10", "11"]
    best = client.get("/api/pairs", params={"order": "score"}).json()["rows"]
    scores = [row["score"] for row in best]
    assert scores == sorted(scores, reverse=True)


def test_a_pair_and_the_tables_that_have_it(client, about):
    assert client.get("/api/pair", params={"row": 3}).json()["maps"] == about["maps"]
    known = client.get("/api/pair", params={"row": 11}).json()
    assert known["maps"] == about["maps"][:1]  # the second table has 8 of the 12
    assert known["facts"]["pair"] == "12 of 12"
    assert client.get("/picture/map", params={"row": 11, "map": about["maps"][1]}).status_code == 400


def test_image_and_map_are_those_of_the_functions(client, places):
    image = picture(client.get("/picture/image", params={"row": 2}))
    assert (image == true_image(2)).all()
    drawn = picture(client.get("/picture/map", params={"row": 2}))
    assert (drawn == np.asarray(sm.overlay(true_image(2), sm.open_maps(places[0])[2]))).all()
    mask = picture(client.get("/picture/true-mask", params={"row": 2}))
    assert ((mask > 0) == open_source(SOURCE).read_mask(2)).all()


@pytest.mark.parametrize("asked", [{}, {"salient_ratio": 0.5, "salient_of": "mask", "seed": 7}, {"strategy": "block"}])
def test_the_mask_is_the_one_a_training_draws(client, places, about, asked):
    found = client.get("/api/mask", params={"row": 2, "model": about["models"][0]} | asked).json()
    hidden = np.array([cell != "0" for cell in found["cells"]]).reshape(found["rows"], found["columns"])
    strategy = asked.get("strategy", "salient")
    heat = sm.open_maps(places[0])[2]
    grid, whole = (4, 4), torch.tensor([[0.0, 0, 1, 1]])
    saliency = view_maps(torch.tensor(heat.map[None]), torch.tensor([heat.box]), whole, torch.tensor([False]), grid)
    options = {name: asked[name] for name in ("salient_ratio", "salient_of") if name in asked}
    generator = torch.Generator().manual_seed(asked.get("seed", 0))
    if strategy == "salient":
        wanted = sm.mask(strategy, **options)(saliency, generator, grid=grid)
    else:
        wanted = sm.mask(strategy)(None, generator, batch=1, grid=grid)
    assert (hidden.ravel() == wanted.hidden[0].numpy()).all()
    assert found["hidden"] == 12
    assert found["mass"] == pytest.approx(float(saliency[wanted.hidden].sum() / saliency.sum()))


def test_what_is_filled_in_keeps_what_is_visible(client, about):
    words = {"row": 2, "model": about["models"][0], "seed": 3}
    filled, view = picture(client.get("/picture/filled", params=words)), true_image(2)
    cells = client.get("/api/mask", params=words).json()["cells"]
    small = np.asarray(Image.fromarray(view).resize((32, 32), Image.Resampling.BICUBIC))
    hidden = np.kron(np.array([cell != "0" for cell in cells]).reshape(4, 4), np.ones((8, 8), bool))
    assert (filled[~hidden] == small[~hidden]).all()
    assert (filled[hidden] != small[hidden]).any()


def test_a_typed_caption_gives_its_own_map_and_mask(client, about, opened):
    words = {"row": 4, "map": about["typed"], "caption": "a green square"}
    found = client.get("/api/caption", params=words).json()
    heat = sm.heatmap(opened.clip, Image.fromarray(true_image(4)), "a green square")
    assert found["score"] == pytest.approx(heat.score, abs=1e-6)
    assert found["strength"] == pytest.approx(heat.strength, rel=1e-5)
    drawn = picture(client.get("/picture/map", params=words))
    assert (drawn == np.asarray(sm.overlay(true_image(4), heat))).all()
    assert client.get("/api/mask", params=words).status_code == 200
    assert "type a caption" in client.get("/api/caption", params=words | {"caption": " "}).json()["error"]


def test_what_is_painted_over_is_filled_in_and_nothing_else(client, about):
    painted = np.zeros((48, 48), np.uint8)
    painted[10:30, 5:25] = 255
    words = {"row": 1, "model": about["models"][0]}
    found = picture(client.post("/recovered", params=words, content=png(painted)))
    changed = (found != true_image(1)).any(-1)
    assert changed.any()
    assert not changed[painted == 0].any()
    nothing = client.post("/recovered", params=words, content=png(np.zeros((48, 48), np.uint8)))
    assert "paint over something" in nothing.json()["error"]


def test_an_image_of_ones_own(client, about):
    own = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    row = client.post("/api/bring", content=png(own)).json()["row"]
    assert (picture(client.get("/picture/image", params={"row": row})) == own).all()
    assert client.get("/api/pair", params={"row": row}).json()["maps"] == []
    words = {"row": row, "model": about["models"][0]}
    assert "has no map" in client.get("/api/mask", params=words).json()["error"]
    assert client.get("/api/mask", params=words | {"strategy": "random"}).json()["mass"] is None
    typed = words | {"map": about["typed"], "caption": "noise"}
    assert picture(client.get("/picture/filled", params=typed)).shape == (32, 32, 3)
    for _ in range(8):
        client.post("/api/bring", content=png(own))
    assert "bring it again" in client.get("/picture/image", params={"row": row}).json()["error"]
    assert "no image" in client.post("/api/bring", content=b"text").json()["error"]


@pytest.mark.parametrize(
    ("place", "words", "said"),
    [
        ("/api/pair", {"row": "12"}, "they go from 0 to 11"),
        ("/api/pair", {"row": "-1"}, "there is no pair"),
        ("/api/pair", {"row": "²"}, "there is no pair"),
        ("/api/pairs", {"order": "beauty"}, "can't be sorted by"),
        ("/api/pairs", {"start": "nan"}, "no number"),
        ("/api/mask", {"row": 0, "strategy": "gate"}, "can't be drawn here"),
        ("/api/mask", {"row": 0, "salient_ratio": "2"}, "salient.ratio"),
        ("/api/mask", {"row": 0, "salient_of": "x"}, "salient.of"),
        ("/api/mask", {"row": 0, "seed": "1e99"}, "seed"),
        ("/api/mask", {"row": 0, "model": "x"}, "no model 'x'"),
        ("/picture/map", {"row": 0, "map": "x"}, "no maps 'x'"),
        ("/picture/x", {"row": 0}, "no picture 'x'"),
        ("/report", {"name": "x"}, "no report"),
    ],
)
def test_a_mistake_is_a_line(client, place, words, said):
    answer = client.get(place, params=words)
    assert answer.status_code == 400
    assert re.search(said, answer.json()["error"])
    assert "\n" not in answer.json()["error"]


def test_what_is_too_large_is_refused(client):
    assert client.post("/api/bring", content=b"0" * (33 << 20)).status_code == 413


def test_only_this_machine_is_answered(opened):
    app = app_of(opened)
    assert TestClient(app, base_url="http://localhost:7860").get("/api/about").status_code == 200
    assert TestClient(app, base_url="http://evil.example").get("/api/about").status_code == 400


def test_a_password_is_asked_for_everything(opened):
    client = TestClient(app_of(opened, password="sésame: open"), base_url=HOST)
    for place in ("/", "/api/about", "/page/explore.js", "/picture/image?row=0"):
        assert client.get(place).status_code == 401
        wrong = {"Authorization": "Basic " + base64.b64encode(b"me:wrong").decode()}
        assert client.get(place, headers=wrong).status_code == 401
        right = {"Authorization": "Basic " + base64.b64encode("me:sésame: open".encode()).decode()}
        assert client.get(place, headers=right).status_code == 200
    assert client.get("/", headers={"Authorization": "Basic %%%"}).status_code == 401


def test_maps_without_their_images(places, tmp_path):
    """As they are downloaded from the Hub: maps, masks and search are there, and pictures say what is missing."""
    from tests.tiny_mae import write_maps

    write_maps(tmp_path / "maps", open_source("shapes:3"))
    client = TestClient(app_of(open_all(ExploreOptions((str(tmp_path / "maps"),)))), base_url=HOST)
    assert client.get("/api/about").json()["images"] is False
    assert picture(client.get("/picture/map", params={"row": 1, "side": 64})).shape == (64, 64, 3)
    assert client.get("/api/mask", params={"row": 1}).json()["hidden"] == 147
    assert "--source" in client.get("/picture/image", params={"row": 1}).json()["error"]
    assert "--clip" in client.get("/api/caption", params={"row": 1, "caption": "x"}).json()["error"]
