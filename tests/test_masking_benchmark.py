"""The masking benchmark: worse maps are worse by what they say, plans can be run, and the page is what figures say."""

import json

import numpy as np
import pytest

from benchmarks.masking.leaderboard import PAGE, RESULTS, page, table
from benchmarks.masking.maps import MAPS, blurred, make_maps, moved, noisy
from benchmarks.masking.run import PLANS, different
from pipelines.commandline.yaml_text import read_yaml
from pipelines.compare.plan import plan_from

TRUE = np.zeros((28, 28))
TRUE[10:14, 4:8] = 1


def center(values):
    return (values.sum(1) @ np.arange(28) / values.sum(), values.sum(0) @ np.arange(28) / values.sum())


def test_worse_maps_are_worse_by_the_amount_that_they_say():
    rng = np.random.default_rng(0)
    soft = blurred(TRUE, rng, sigma=0.05)
    assert center(soft) == pytest.approx(center(TRUE), abs=1e-3)
    spread = (soft.sum(1) @ (np.arange(28) - 11.5) ** 2) / soft.sum()
    assert spread == pytest.approx(1.25 + 1.4**2, rel=0.01)  # variances add
    away = moved(TRUE, rng, way=0.1)
    assert np.hypot(*np.subtract(center(away), center(TRUE))) == pytest.approx(2.8, abs=0.01)
    assert away.sum() == pytest.approx(TRUE.sum())
    assert np.array_equal(noisy(TRUE, rng, share=0.0), TRUE)
    inside = [noisy(TRUE, np.random.default_rng(i), share=0.5)[TRUE > 0].mean() for i in range(50)]
    outside = [noisy(TRUE, np.random.default_rng(i), share=0.5)[TRUE == 0].mean() for i in range(50)]
    assert np.mean(inside) - np.mean(outside) == pytest.approx(0.5, abs=0.03)


def test_worse_maps_are_made_once_and_again_alike(tmp_path, monkeypatch):
    import benchmarks.masking.maps as module

    source = "shapes:3,objects=1,size=48"
    kinds = {"true": module.Maps(source), "off": module.Maps(source, MAPS["moved-0.2"].worse, true="true")}
    monkeypatch.setattr(module, "MAPS", kinds)
    first = {path.name: path.read_bytes() for path in (make_maps("off", tmp_path) / "data").iterdir()}
    assert {path.name: path.read_bytes() for path in (make_maps("off", tmp_path) / "data").iterdir()} == first
    assert {path.name: path.read_bytes() for path in (make_maps("true", tmp_path) / "data").iterdir()} != first


@pytest.mark.parametrize("place", sorted(PLANS.glob("*.yaml")), ids=lambda place: place.stem)
def test_every_plan_can_be_read_and_its_maps_made(place):
    asked = read_yaml(place)
    plan = plan_from(asked)
    plan.check_shared()
    assert {part["saliency"] for part in (asked, *asked["arms"].values()) if "saliency" in part} <= set(MAPS)


def test_a_figure_that_is_another_one_is_told(capsys):
    kept = {"accuracy": {"knn": {"random": {"0": 0.5, "1": 0.25}}}}
    assert different({"accuracy": {"knn": {"random": {"0": 0.5}}}}, kept) == 0
    assert different({"accuracy": {"knn": {"random": {"1": 0.3}}}}, kept) == 1
    assert "knn, random, seed 1: 30.00, kept is 25.00" in capsys.readouterr().out


def test_tables_are_paired_and_adjusted():
    values = {"random": [0.1, 0.2, 0.3], "a": [0.2, 0.301, 0.399], "untrained": [0.1, 0.1, 0.1]}
    lines = table(
        {"knn": {arm: dict(zip("012", v, strict=True)) for arm, v in values.items()}}, "random", ["random", "a"]
    )
    assert lines[2] == "| random | 20.0 ± 24.8 |  |  |"
    assert lines[3] == "| a | 30.0 ± 24.7 | +10.0 ± 0.2 | **0.000 better** |"
    assert lines[4] == "| untrained | 10.0 ± 0.0 | −10.0 ± 24.8 | reference |"


def test_the_page_is_what_the_figures_say():
    found = [json.loads(place.read_text()) for place in sorted(RESULTS.glob("*.json")) if place.stem != "quick"]
    assert all(one["plan"] == (PLANS / f"{one['set']}.yaml").read_text() for one in found)
    assert PAGE.read_text() == page(found)
