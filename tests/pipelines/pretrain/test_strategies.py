"""Baselines of `pretrain --masking` as runs: each resumes to the bit, says what it did, and can be compared."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from mae.masks.strategies import STRATEGIES, blind, learned
from mae.training.checkpoints import list_checkpoints, load_state
from pipelines.compare.arms import built_in_arms
from pipelines.compare.plan import read_plan
from pipelines.compare.plots import mask_sheet
from pipelines.compare.report import masks_in_words
from pipelines.compare.unit import Unit
from pipelines.errors import UserError
from pipelines.evaluate.options import EvaluateOptions
from pipelines.export.model_card import run_facts
from pipelines.inspect.run import describe_run
from pipelines.sources.open_source import open_source
from tests.pipelines.pretraining import (
    SMALL,
    SOURCE,
    assert_same_weights,
    invoke,
    losses,
    nano_runs,
    run,
    stopping,
)
from tests.tiny_mae import write_maps

BLIND = [name for name in blind() if not STRATEGIES[name].ranked and name != "tube"]  # tubes are of video
LEARNED = [name for name in learned() if "a file" not in STRATEGIES[name].needs]
FIGURES = {
    "attention-high": {"attention_hidden"},
    "attention-hint": {"attention_hidden"},
    "hard": {"hard_loss", "hard_order"},
}


@pytest.fixture
def base(base):
    return replace(base, image_size=(32,))


@pytest.mark.parametrize("masking", ["grid", "color-green", *FIGURES])
def test_a_stopped_run_goes_on_to_the_bit(base, tmp_path, masking):
    base = replace(base, masking=masking, attention_momentum=0.9, accumulate=2, epochs=6)
    whole = run(base)
    stopped = replace(base, out=tmp_path / "stopped")
    with stopping(11), pytest.raises(KeyboardInterrupt):
        run(stopped)
    resumed = run(replace(stopped, resume=True))
    assert losses(resumed) == losses(whole)
    assert_same_weights(resumed.folder, whole.folder)
    assert resumed.metrics()[-1].keys() >= FIGURES.get(masking, set())
    states = [load_state(list_checkpoints(folder.folder)[-1]).get("learner", {}) for folder in (resumed, whole)]
    for one, other in zip(*(state.get("teacher", state.get("network", {})).values() for state in states), strict=True):
        assert torch.equal(one, other)
    idle = {"hard_final": 0.25, "attention_momentum": 0.8}
    own = {name: value for name, value in idle.items() if name in STRATEGIES[masking].options}
    with pytest.raises(UserError, match="started with other settings"):
        run(replace(stopped, resume=True, **(own or {"blr": 0.1})))


@pytest.mark.parametrize("masking", [*BLIND, *LEARNED])
def test_a_run_says_which_masks_it_has_and_no_salient_ratio(base, masking):
    small = {"mlo_unroll": "2,1"} if masking == "mlo" else {}
    done = run(replace(base, masking=masking, epochs=1, **small))
    assert done.config()["masking"]["strategy"] == masking
    assert all("salient_ratio" not in line for line in done.metrics())
    assert FIGURES.get(masking, set()) <= set(done.metrics()[0])
    card = "\n".join(run_facts(done.folder))
    assert masking in card
    assert "salient_ratio" not in card
    assert masking in describe_run(done)[0]["masking"]
    assert not any("salient" in name for name in describe_run(done)[0])


def test_learners_go_with_small_images_first_and_a_part_decoded(base):
    for masking in set(LEARNED) - {"mlo"}:  # which takes whole images and decodes all
        options = replace(base, out=base.out / masking, masking=masking, decode_ratio=0.5, image_size=(48,))
        done = run(replace(options, resolution_schedule="0:32,0.5:48"))
        assert len(done.metrics()) == 18


@pytest.mark.parametrize("masking", ["random", "hard", "attention-high", "salient"])
def test_a_weighted_loss_goes_with_any_masks(base, tmp_path, masking):
    maps = write_maps(tmp_path / "maps", open_source(SOURCE))
    base = replace(base, masking=masking, saliency=maps, epochs=1)
    plain, weighted = run(base), run(replace(base, saliency_weight=1.0, out=tmp_path / "weighted"))
    assert losses(weighted) != losses(plain)
    with pytest.raises(UserError, match="needs maps: --saliency MAPS"):
        run(replace(base, saliency=None, saliency_weight=0.5, out=tmp_path / "none", masking="random"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--masking", "attention-hint", "--attention-shown", "0"], "that is --masking attention-high"),
        (["--masking", "attention-hint", "--attention-shown", "1"], "--attention-shown is 1"),
        (["--masking", "attention-high", "--attention-momentum", "2"], "--attention-momentum is 2"),
        (["--masking", "hard", "--hard-final", "-1"], "--hard-final is -1"),
        (["--masking", "color-pink"], "--masking 'color-pink' is not one of: random, block, grid, color-red"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, arguments, message):
    nano_runs(monkeypatch)
    result = invoke("pretrain", SOURCE, "--out", tmp_path / "run", *SMALL, *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


# In a comparison


PLAN = """
source: shapes:24
saliency: maps
arms:
  random: {{masking: random}}
  salient:
  x: {arm}
"""


def asked(tmp_path, arm):
    (tmp_path / "plan.yaml").write_text(PLAN.format(arm=arm))
    return read_plan(tmp_path / "plan.yaml").pretrain_options("x", 0, Path("run"))


@pytest.mark.parametrize("name", [*LEARNED, "grid", "color-green"])
def test_an_arm_keeps_its_masks(tmp_path, name):
    options = asked(tmp_path, f"{{masking: {name}}}")
    assert (options.masking, options.saliency) == (name, None)
    assert masks_in_words(options) == f"{name}, 0.75 hidden"
    assert built_in_arms()[name] == {"masking": name}


def test_an_arm_of_weighted_errors_has_maps(tmp_path):
    options = asked(tmp_path, "{masking: random, saliency_weight: 1}")
    assert (options.masking, options.saliency, options.saliency_weight) == ("random", "maps", 1.0)
    assert masks_in_words(options) == "random, 0.75 hidden, errors 1 by saliency"


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("{masking: hard, salient_ratio: 0.5}", "--salient-ratio has no effect with --masking hard"),
        ("{masking: grid, salient_of: mask}", "--salient-of has no effect with --masking grid"),
        ("{masking: hard, attention_momentum: 0.5}", "--attention-momentum has no effect with --masking hard"),
        ("{masking: random, hard_final: 1}", "--hard-final has no effect with --masking random"),
        ("{masking: attention-high, saliency: maps}", "--saliency has no effect with --masking attention-high"),
        ("{masking: hard, hard_final: 2}", "arms: x: --hard-final is 2"),
    ],
)
def test_an_arm_that_could_not_run(tmp_path, arm, message):
    with pytest.raises(ValueError, match=message):
        asked(tmp_path, arm)


def test_options_of_its_own_masks_have_an_effect(tmp_path):
    assert asked(tmp_path, "{masking: hard, hard_final: 1}").hard_final == 1
    assert asked(tmp_path, "{masking: attention-hint, attention_shown: 0.2}").attention_shown == 0.2
    assert asked(tmp_path, "{salient_ratio: 0.5}").masking == "salient"


def test_the_sheet_of_a_comparison_shows_what_was_learned(base, tmp_path):
    units = []
    for masking in ("random", *FIGURES):
        options = replace(base, masking=masking, out=tmp_path / masking, epochs=1)
        run(options)
        units.append(
            Unit(masking, 0, options, EvaluateOptions(str(options.out), source=SOURCE), tmp_path / f"{masking}.json")
        )
    mask_sheet(tmp_path / "masks.png", units)
    assert Image.open(tmp_path / "masks.png").size[0] > 100
