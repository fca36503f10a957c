"""`pretrain --masking mlo` as a run: splits, resumption to the bit, pictures, cost, what is done with it, mistakes."""

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mae.multilevel.mlo_training import MultilevelTraining
from mae.training.checkpoints import list_checkpoints, load_model
from pipelines.compare.plan import ComparePlan
from pipelines.errors import UserError
from pipelines.evaluate.evaluate import evaluate
from pipelines.evaluate.options import EvaluateOptions
from pipelines.export.export import export
from pipelines.pretrain.multilevel.cost import told_cost
from pipelines.pretrain.multilevel.data import StepBatches, open_levels
from pipelines.pretrain.settings import settings_of
from pipelines.sources.open_source import open_source
from tests.pipelines.pretraining import assert_same_weights, folder_of, invoke, losses, run
from tests.tiny_mae import write_maps


@pytest.fixture
def base(base):
    return replace(
        base, source="shapes:60,size=32", masking="mlo", mlo_buffer=16, mlo_unroll="2,1", keep=9, checkpoint_every=2
    )


@contextmanager
def stopping(step):
    update = MultilevelTraining.update

    def stops(self, batches):
        if self.step == step:
            raise KeyboardInterrupt
        return update(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MultilevelTraining, "update", stops)
        yield


STEPS = {"mlo_masker": "mlp", "mlo_path": "weighted", "mlo_head": "steps", "mlo_unroll": "1,2"}
STEPS |= {"mlo_through": 0, "mlo_wait": 0.0}
PAPER = {"mlo_form": "paper", "mlo_buffer": None, "mlo_unroll": None}


@pytest.mark.parametrize("changes", [{"mlo_wait": 0.0}, STEPS])
def test_a_stopped_run_goes_on_to_the_bit(base, tmp_path, changes):
    base = replace(base, epochs=2, **changes)
    whole = run(base)
    stopped = replace(base, out=tmp_path / "stopped")
    with stopping(7), pytest.raises(KeyboardInterrupt):
        run(stopped)
    resumed = run(replace(stopped, resume=True))
    assert losses(resumed) == losses(whole)
    for name in ("head_loss", "masker_loss"):
        assert [line.get(name) for line in resumed.metrics()] == [line.get(name) for line in whole.metrics()]
    assert resumed.config()["options"] == {**whole.config()["options"], "out": str(stopped.out)}
    assert_same_weights(resumed.folder, whole.folder)
    ours, theirs = (
        torch.load(list_checkpoints(r.folder)[-1] / "training.pt", weights_only=True)["point"] for r in (resumed, whole)
    )
    for group, values in theirs.items():
        assert all(torch.equal(ours[group][name], value) for name, value in values.items())
    assert (resumed.folder / "cost.json").read_text() == (whole.folder / "cost.json").read_text()


def test_the_config_says_what_the_splits_are(base, tmp_path):
    config = run(replace(base, epochs=1)).config()
    assert config["splits"]["training"] + config["splits"]["mask"] == config["images"] == 60
    assert config["masking"]["strategy"] == "mlo"
    assert config["masking"]["mask_ratio"] == 0.75
    again = run(replace(base, epochs=1, out=tmp_path / "again")).config()
    assert again["splits"] == config["splits"]
    other = run(replace(base, epochs=1, out=tmp_path / "other", seed=1)).config()
    assert other["splits"]["mask_keys_sha256"] != config["splits"]["mask_keys_sha256"]


def test_no_level_reads_the_others_split_and_each_reads_all_of_its_own(base):
    data = open_levels(base)
    counts = {"mae": 2, "head": 1, "masker": 1}
    batches = list(StepBatches(data.rows(), counts, 4, 40, seed=0))
    seen = {name: set() for name in counts}
    views = []
    for step in range(40):
        group = iter(batches[4 * step : 4 * step + 4])
        for name, count in counts.items():
            for _ in range(count):
                pairs = next(group)
                seen[name] |= {index for _, index in pairs}
                views += pairs
    assert seen["mae"] == seen["head"] == set(data.training.tolist())
    assert seen["masker"] == set(data.mask.tolist())
    assert not seen["mae"] & seen["masker"]
    assert len(set(views)) == len(views)  # an image is never shown in one view twice
    rest = list(StepBatches(data.rows(), counts, 4, 40, seed=0, start=7))
    assert rest == batches[28:]
    assert len(StepBatches(data.rows(), counts, 4, 40, seed=0, start=7)) == len(rest)


def test_pairs_of_one_image_stay_together(base):
    from pipelines.pretrain.multilevel.data import split_by_key
    from pipelines.views.labelled import Labelled

    source = open_source("shapes:40,size=32").select(np.repeat(np.arange(40), 2))
    data = split_by_key(Labelled(source, source.labels), ["x"] * 8, 0.3, 0)
    keys = np.asarray(source.keys.to_pylist())
    assert not set(keys[data.training]) & set(keys[data.mask])
    assert len(data.training) + len(data.mask) == 80


def test_pictures_and_cost(base, pictures):
    done = run(replace(base, epochs=1, **PAPER))
    for name in ("loss", "levels", "reconstructions", "scores"):
        assert Image.open(done.folder / "plots" / f"{name}.png").size[0] > 300
    cost = json.loads((done.folder / "cost.json").read_text())
    steps = done.config()["steps"]
    assert [cost["levels"][name]["steps"] for name in ("mae", "head", "masker")] == [2 * steps, steps, steps]
    assert [cost["levels"][name]["forward"] for name in ("mae", "head", "masker")] == [6 * steps, 3 * steps, steps]
    assert cost["flops"] == sum(level["flops"] for level in cost["levels"].values())
    assert cost["plain_steps"] > 6 * steps
    assert f"those of {cost['plain_steps']:.0f} steps of plain pretraining" in told_cost(done.folder)


def test_the_command_prints_the_cost(base):
    small = ("--model", "nano", "--image-size", 16, "--batch-size", 4, "--epochs", 1, "--workers", 0, "--device", "cpu")
    done = invoke("pretrain", base.source, "--out", base.out, "--masking", "mlo", *small)
    assert done.exit_code == 0, done.output
    assert "cost of the levels" in done.output
    plain = invoke("pretrain", base.source, "--out", base.out.with_name("plain"), *small)
    assert "cost of the levels" not in plain.output


def test_what_is_made_of_it(base, tmp_path):
    done = run(replace(base, epochs=1))
    assert "timm.create_model" in export(done.folder, "timm", tmp_path / "timm")
    result = evaluate(EvaluateOptions(str(done.folder), "shapes:60,size=32,split=test", workers=0), quiet=True)
    assert result
    assert load_model(done.folder).image_size == (16, 16)


def test_a_comparison_has_it_as_an_arm(tmp_path):
    arms = {"random": {"masking": "random"}, "mlo": {"masking": "mlo", "mlo_path": "relative", "mlo_unroll": "1,1"}}
    options = ComparePlan("shapes:60", arms, "random").pretrain_options("mlo", 0, tmp_path / "run")
    assert options.masking_name == "mlo"
    assert settings_of(options).learner.unroll == (1, 1)
    wrong = ComparePlan("shapes:60", arms | {"random": {"masking": "random", "mlo_path": "relative"}}, "mlo")
    with pytest.raises(ValueError, match="--mlo-path has no effect with --masking random"):
        wrong.pretrain_options("random", 0, tmp_path / "run")


def test_unreadable_images_are_passed_over(base, tmp_path):
    folder = tmp_path / "pictures"
    for name in ("a", "b"):
        folder_of(folder / name, 20, broken=[3])
    done = run(replace(base, source=str(folder), max_rejected=0.2, epochs=2))
    assert len(done.rejected()) == 2
    assert all(np.isfinite(losses(done)))


def test_a_mix_reads_maps_and_tells_its_numbers(base, tmp_path, pictures):
    maps = write_maps(tmp_path / "maps", open_source(base.source))
    done = run(replace(base, epochs=1, saliency=maps, mlo_wait=0.0))
    assert done.config()["maps"] is not None
    last = done.metrics()[-1]
    assert last["masker_waits"] == 0
    assert {f"masker_{name}" for name in ("map", "contrast", "distinct", "center", "clumps", "share")} <= set(last)
    assert last["masker_map"] != 0
    told = invoke("inspect", done.folder).output
    assert "contrast" in told
    assert "temperature" in told
    assert Image.open(done.folder / "plots" / "scores.png").size[0] > 300


def test_bf16_and_other_paths(base, tmp_path):
    for name, changes in {
        "bf16": {"precision": "bf16"},
        "exact": {"mlo_hypergradient": "exact"},
        "straight": {"mlo_path": "straight-through", "mlo_pool": "mean"},
        "drawn": {"mlo_path": "drawn", "mlo_exploration": 1.0, "precision": "bf16"},
    }.items():
        done = run(replace(base, out=tmp_path / name, epochs=1, **changes))
        assert all(np.isfinite(losses(done)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlo_masker": "cnn"}, "--mlo-masker 'cnn' is not one of: gate, mlp"),
        ({"mlo_path": "soft"}, "--mlo-path 'soft' is not one of"),
        ({"mlo_exploration": 0.0}, "--mlo-path drawn needs masks that are drawn: --mlo-exploration above 0"),
        (
            {"mlo_form": "paper", "mlo_head": "solved"},
            "--mlo-unroll 2,1 is not|--mlo-head solved is not --mlo-form paper",
        ),
        ({"mlo_share": 0.0}, "--mlo-share is 0; it must be above 0 and at most 1"),
        ({"mlo_through": 3}, "--mlo-through is 3; it must lie between 0 and 2"),
        ({"mlo_unroll": "2"}, "--mlo-unroll '2' is not two numbers, such as 2,1"),
        ({"mlo_unroll": "0,1"}, "from 1 on"),
        ({"mlo_split": 1.0}, "--mlo-split is 1; it must lie between 0 and 1"),
        ({"mlo_masker_rate": -1.0}, "--mlo-masker-rate is -1.0; it must be a number from 0 on"),
        ({"accumulate": 2}, "--accumulate is not for --masking mlo"),
        ({"decode_ratio": 0.5}, "--decode-ratio is not for --masking mlo"),
        ({"mlo_split": 0.01, "batch_size": 16}, "split of level 'masker' has 8 images, fewer than --batch-size 16"),
        ({"mlo_unroll": "20,1"}, "fewer than one step takes"),
    ],
)
def test_mistakes(base, changes, message):
    with pytest.raises((UserError, ValueError), match=message):
        run(replace(base, **changes))
    assert not base.out.exists()


def test_a_source_without_labels_is_refused(base, tmp_path):
    with pytest.raises(UserError, match="has no labels: --masking mlo needs a class per image"):
        run(replace(base, source=str(folder_of(tmp_path / "pictures", 24))))
