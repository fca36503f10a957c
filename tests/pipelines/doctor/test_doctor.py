import json
import shutil
from dataclasses import replace

import pytest
import torch

from mae.pixels import normalise
from mae.training.checkpoints import list_checkpoints, load_model
from pipelines.doctor import from_log
from pipelines.doctor.doctor import doctor
from pipelines.doctor.options import DoctorOptions
from pipelines.errors import UserError
from pipelines.inspect.health import sample_of
from pipelines.run_folder import METRICS, RunFolder
from tests.pipelines.pretraining import invoke, losses, nano_options, nano_runs, run, stopping

LABELLED = "shapes:120,size=32,objects=1"


@pytest.fixture
def base(tmp_path, monkeypatch):
    nano_runs(monkeypatch)
    monkeypatch.setattr(from_log, "FEW_STEPS", 100)
    return replace(nano_options(tmp_path / "run"), blr=0.1)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        nano_runs(patch)
        out = tmp_path_factory.mktemp("healthy") / "run"
        return run(replace(nano_options(out), epochs=30, blr=0.1))


def states(folder, **options):
    found = doctor(DoctorOptions(folder, **options))
    return {finding.name: finding for finding in found.findings}, found.verdict


def test_a_run_that_learns(base, healthy, tmp_path):
    found, verdict = states(healthy.folder, json=tmp_path / "found.json")
    assert verdict == "the run learns, as far as these figures show", found
    assert {name for name, finding in found.items() if finding.state == "good"} >= {"length", "loss", "collapse"}
    assert found["loss"].numbers["gain"] > 0.05
    assert found["length"].sentence == "The run is at step 180 of 180, 30.0 passes over 24 images."
    assert "raw predictions look like noise" in found["pictures"].sentence
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["verdict"] == verdict
    assert [each["name"] for each in written["findings"]] == list(found)
    labelled, _ = states(healthy.folder, source=LABELLED, limit=120)
    assert labelled["features"].numbers["test_images"] == 60
    printed = invoke("doctor", healthy.folder)
    assert printed.exit_code == 0
    assert "explains" in " ".join(printed.stdout.split())


def test_the_loss_of_the_mean_is_that_of_patches_filled_with_it(base):
    """Images of noise with no patch flat: a prediction of zeros misses by (n − 1) / n; of pixels by their variance."""
    for norm_pix in (True, False):
        done = run(replace(base, epochs=1, norm_pix=norm_pix, out=base.out.with_name(f"run-{norm_pix}")))
        found, _ = states(done.folder)
        model, images = load_model(done.folder), sample_of(done, source=None, count=512, allow_outside=False)[1]
        patches = model.patchify(normalise(images))
        error = patches - patches.mean(-1, keepdim=True)
        if norm_pix:
            error = error / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
        by_hand = error.square().mean(-1)
        low, high = by_hand.mean() * 0.8, by_hand.mean() * 1.2  # hidden patches are a part of all
        assert low < found["loss"].numbers["loss_of_the_mean"] < high
        assert ("pictures" in found) == norm_pix


def test_a_collapsed_run(base):
    found, verdict = states(run(replace(base, blr=300.0, warmup_epochs=0, epochs=6)).folder)
    assert found["learning rate"].state == "bad"
    assert "lower --blr" in str(found["learning rate"])
    assert found["collapse"].state == "bad", found["collapse"]
    assert found["loss"].state == "bad", found["loss"]
    assert "collapse" in verdict


def test_a_starved_run(base, healthy, tmp_path):
    healthy = RunFolder(shutil.copytree(healthy.folder, tmp_path / "starved"))
    lines = [json.loads(line) for line in (healthy.folder / METRICS).read_text().splitlines()]
    lines = [line | ({"starved": 0.83} if "starved" in line else {}) for line in lines]
    (healthy.folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, verdict = states(healthy.folder)
    assert verdict == "1 finding to act on: loader"
    assert "The model waited for images 83% of the time" in found["loader"].sentence
    assert "--workers" in found["loader"].advice


def test_a_run_that_has_not_learned(base):
    found, _ = states(run(replace(base, blr=1e-6, epochs=6)).folder)
    assert {name for name, each in found.items() if each.state == "bad"} == {
        *("length", "course of the loss", "learning rate", "loss"),
    }
    assert found["collapse"].state == "good"
    assert found["features"].numbers.get("agreement", 1) > 0.99


def test_what_can_not_be_looked_at(base, tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        states(tmp_path / "none")
    with stopping(2), pytest.raises(KeyboardInterrupt):
        run(replace(base, checkpoint_every=1000))
    if not list_checkpoints(base.out):
        with pytest.raises(UserError, match="has no checkpoint yet"):
            states(base.out)
    gone = run(replace(base, epochs=1, out=tmp_path / "gone"))
    config = json.loads((gone.folder / "config.json").read_text())
    config["options"]["source"] = str(tmp_path / "deleted")
    (gone.folder / "config.json").write_text(json.dumps(config))
    found, _ = states(gone.folder)
    assert "can't be read" in found["images"].sentence
    assert "loss" not in found


def test_health_in_the_log_changes_nothing_else(base):
    plain = run(replace(base, epochs=2))
    looked = run(replace(base, epochs=2, health_every=5, out=base.out.with_name("looked")))
    assert losses(plain) == losses(looked)
    lines = looked.metrics()
    assert [line["step"] for line in lines if "layer_1_rankme" in line] == [5, 10]
    assert 1 <= lines[4]["layer_2_effective_rank"] <= 16
    with pytest.raises(ValueError, match="--health-every looks at the whole model"):
        replace(base, health_every=5, shard_model=True)
    printed = invoke("inspect", looked.folder, "--health")
    assert "RankMe" in printed.stdout
    assert "output" in printed.stdout
    torch.testing.assert_close(load_model(plain.folder).norm.weight, load_model(looked.folder).norm.weight)
