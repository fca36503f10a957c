"""A strategy that is a row of the table and what makes it, and that no other source file knows, is one of all."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mae.masks.strategies import STRATEGIES, has_effect
from mae.training.checkpoints import list_checkpoints, load_state
from pipelines.compare.plan import plan_from
from pipelines.compare.plots import mask_sheet
from pipelines.compare.report import masks_in_words
from pipelines.compare.unit import Unit
from pipelines.errors import UserError
from pipelines.evaluate.options import EvaluateOptions
from pipelines.export.model_card import run_facts
from pipelines.inspect.run import describe_run
from tests.pipelines.pretrain.toy_masks import ROWS
from tests.pipelines.pretraining import SMALL, SOURCE, losses, run, stopping

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _rows(monkeypatch):
    for name, row in ROWS.items():
        monkeypatch.setitem(STRATEGIES, name, row)


@pytest.fixture(params=ROWS)
def toy(request, base):
    return replace(base, masking=request.param, image_size=(32,))


def test_it_is_pretrained_with_and_resumed_to_the_bit(toy, tmp_path):
    whole = run(toy)
    assert losses(whole) != losses(run(replace(toy, masking="random", out=tmp_path / "random")))
    stopped = replace(toy, out=tmp_path / "stopped")
    with stopping(11), pytest.raises(KeyboardInterrupt):
        run(stopped)
    assert losses(run(replace(stopped, resume=True))) == losses(whole)
    if ROWS[toy.masking].learned:
        assert "toy_mean" in whole.metrics()[0]
        means = [load_state(list_checkpoints(out)[-1])["learner"]["mean"] for out in (toy.out, stopped.out)]
        assert torch.equal(*means)


def test_it_is_told_of_by_all_who_tell_of_a_run(toy):
    done = run(replace(toy, epochs=1))
    assert done.config()["masking"]["strategy"] == toy.masking
    assert toy.masking in describe_run(done)[0]["masking"]
    card = "\n".join(run_facts(done.folder))
    assert f"| masking | {toy.masking} |" in card
    assert "salient" not in card


def test_it_is_an_arm_of_a_comparison(toy, tmp_path):
    plan = plan_from({"source": SOURCE, "arms": ["random", toy.masking], "pretrain": {"epochs": 3}})
    options = plan.pretrain_options(toy.masking, 0, tmp_path / "run")
    words = {"toy-stripes": "toy-stripes, 3 epochs, 0.75 hidden", "toy-bright": "toy-bright, 0.75 hidden"}
    assert masks_in_words(options) == words[toy.masking]
    run(replace(toy, epochs=1))
    judged = EvaluateOptions(str(toy.out), SOURCE)
    mask_sheet(tmp_path / "masks.png", [Unit(toy.masking, 0, toy, judged, tmp_path / "record")])
    assert (tmp_path / "masks.png").exists()


def test_what_its_row_says_holds(toy):
    assert has_effect("mask_ratio", toy.masking) == ROWS[toy.masking].learned
    assert not has_effect("salient_ratio", toy.masking)
    with pytest.raises(ValueError, match=f"--masking {toy.masking} is for images"):
        replace(toy, frames=2)


def test_what_its_row_needs_is_asked_for(base, monkeypatch):
    monkeypatch.setitem(
        STRATEGIES, "toy-stripes", replace(ROWS["toy-stripes"], needs=("maps",), barred=("accumulate",))
    )
    with pytest.raises(UserError, match="--masking toy-stripes needs maps: --saliency MAPS"):
        run(replace(base, masking="toy-stripes"))
    with pytest.raises(UserError, match="--accumulate is not for --masking toy-stripes: leave it out"):
        run(replace(base, masking="toy-stripes", accumulate=2))


def test_the_command_line_lists_and_takes_it(tmp_path):
    """In a process of its own, for the choices are read when the command is made."""
    code = (
        "from tests.pipelines.pretrain.toy_masks import ROWS\n"
        "from mae.masks.strategies import STRATEGIES\n"
        "STRATEGIES.update(ROWS)\n"
        "import sys, cli\n"
        "cli.app(sys.argv[1:])\n"
    )
    model = [*map(str, SMALL)]
    model[model.index("nano")] = "mini"
    model += ["--patch-size", "8"]

    def called(*words):
        environment = os.environ | {"COLUMNS": "120", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code, *map(str, words)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False, text=True)

    told = called("pretrain", "--help")
    assert set(ROWS) <= {word.strip("│,.") for word in told.stdout.split()}, told.stdout + told.stderr
    done = called("pretrain", SOURCE, "--out", tmp_path / "run", "--masking", "toy-bright", *model)
    assert (done.returncode, "step 6, loss" in done.stdout) == (0, True), done.stderr
