"""The masking benchmark: worse maps are worse by what they say, plans can be run, and the page is what figures say."""

import numpy as np
import pytest
import torch

from benchmarks.masking.boundary import Boundary
from benchmarks.masking.leaderboard import PAGE, page, sets_found, table
from benchmarks.masking.maps import MAPS, blurred, hits, make_maps, moved, noisy
from benchmarks.masking.run import PLANS, different, further_accuracies, joined, share_runs
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
    (own, others), (off, _) = hits("true", tmp_path), hits("off", tmp_path)
    assert (own > 0.95, off < own, others < own) == (True, True, True)


def test_the_boundary_prior_hides_what_is_unlike_the_border():
    images = torch.zeros(2, 3, 48, 48)
    images[0, :, 16:32, 16:32], images[1, :, 24:40, 8:24] = 1, -1
    scores = Boundary()(images, (6, 6), torch.rand(2, 36, generator=torch.Generator().manual_seed(0))).reshape(2, 6, 6)
    assert (scores >= 1).sum((1, 2)).tolist() == [9, 9]
    assert (scores[0, 2:4, 2:4] >= 1).all()
    assert (scores[1, 3:5, 1:3] >= 1).all()


def test_arms_with_equal_options_are_one_run(tmp_path):
    asked = {"source": "shapes:9", "seeds": 2, "pretrain": {"model": "mini"}}
    for name, arms in (("a", ["random", "block"]), ("b", {"random": None, "chance": {"masking": "random"}})):
        share_runs(plan_from(asked | {"arms": arms}), tmp_path / name, tmp_path / "shared")
    runs = {f"{run.parents[2].name} {run.parent.name} {run.name}": run.resolve() for run in tmp_path.glob("*/runs/*/*")}
    assert runs["a random seed-0"] == runs["b random seed-0"] == runs["b chance seed-0"]
    assert len(set(runs.values())) == 4  # two masks, two seeds


@pytest.mark.parametrize("place", sorted(PLANS.glob("*.yaml")), ids=lambda place: place.stem)
def test_every_plan_can_be_read_and_its_maps_made(place):
    asked = read_yaml(place)
    plan = plan_from(asked)
    plan.check_shared()
    parts = filter(None, (asked, *asked["arms"].values()))
    assert {part["saliency"] for part in parts if "saliency" in part} <= set(MAPS)


def test_a_figure_that_is_another_one_is_told(capsys):
    kept = {"accuracy": {"knn": {"random": {"0": 0.5, "1": 0.25}}}}
    assert different({"accuracy": {"knn": {"random": {"0": 0.5}}}}, kept) == 0
    assert different({"accuracy": {"knn": {"random": {"1": 0.3}}}}, kept) == 1
    assert "knn, random, seed 1: 30.00, kept is 25.00" in capsys.readouterr().out
    assert different({"accuracy": {"knn": {"image": {"0": 0.5}}}}, kept) == 0


def test_seeds_and_arms_that_were_not_run_are_kept():
    kept, found = {"knn": {"a": {"0": 0.1, "1": 0.2}, "b": {"0": 0.3}}}, {"knn": {"a": {"1": 0.25, "2": 0.4}}}
    assert joined(kept, found) == {"knn": {"a": {"0": 0.1, "1": 0.25, "2": 0.4}, "b": {"0": 0.3}}}


def test_shares_of_the_labels_and_occluders_are_figures():
    few = {"protocols": ["knn"], "rows": [{"knn": 0.2}, {"knn": 0.1}]}
    hidden = {"rows": [{"occlusion_curves": {"block": {"area": 0.6}}}, {"occlusion_curves": {"block": {"area": 0.3}}}]}
    run = {"arm": "a", "seed": 3, "result": {"protocols": ["occlusion"], **hidden}}
    assert further_accuracies([run | {"label_fractions": {"0.01": {"result": few}}}]) == {
        "under block": {"a": {"3": 0.6}, "untrained": {"3": 0.3}},
        "knn, 1% of the labels": {"a": {"3": 0.2}, "untrained": {"3": 0.1}},
    }


def test_tables_are_paired_and_adjusted():
    values = {"random": [0.1, 0.2, 0.3], "a": [0.2, 0.301, 0.399], "untrained": [0.1, 0.1, 0.1]}
    accuracy = {"knn": {arm: dict(enumerate(by_seed)) for arm, by_seed in values.items()}}
    lines = table(accuracy, {"arms": {"random": None, "a": None, "not-run": None}, "margin": 12})
    assert lines[2] == "| random | 3 | 20.0 ± 24.8 |  |  |"
    assert lines[3] == "| a | 3 | 30.0 ± 24.7 | +10.0 ± 0.2 | < 0.001 **better, equal within 12** |"
    assert lines[4] == "| untrained | 3 | 10.0 ± 0.0 | −10.0 ± 24.8 | reference |"
    assert len(lines) == 5


def test_the_page_is_what_the_figures_say():
    found = sets_found()
    assert all(one["plan"] == (PLANS / f"{one['set']}.yaml").read_text() for one in found)
    assert PAGE.read_text() == page(found)
