"""`pretrain` under torchrun: two processes on gloo do the run of one process."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from mae.mask_learners.gate import load_gate
from mae.training.checkpoints import list_checkpoints, load_model, load_state
from mae.training.training import Training
from pipelines.errors import UserError
from pipelines.run_folder import RunFolder
from pipelines.sources.open_source import open_source
from pipelines.views.image_views import EpochBatches
from tests.pipelines.pretraining import SOURCE, folder_of, losses, nano_options, nano_runs, run
from tests.tiny_mae import write_maps

ROOT = Path(__file__).parents[3]
SPLITS_ON_CPU = hasattr(torch.cpu.Stream, "record_event")
ACCUMULATE = {"accumulate": 2, "epochs": 7}
BROKEN_STEP = {"blr": 0.05, "seed": 3}


def torchrun(*arguments, processes=2, options=(), timeout=240, **environment):
    """Standard error and exit code of torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *options]
    command += ["-m", "tests.pipelines.torchrun", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    return done


def errors(done):
    """What the processes said, without what torchrun says of it."""
    return done.stderr.partition("torch.distributed.elastic")[0][-6000:]


def broken_images():
    """Of 24 images, those of the second process in the first batch, and one of the first in the second."""
    batches = iter(EpochBatches(24, 4, 6, 3, seed=0))
    first, second = ([index for _, index in next(batches)] for _ in range(2))
    return sorted([first[2], first[3], second[0]])


class Runs:
    """Runs of two processes by name, each beside the same options in one process."""

    def __init__(self, place):
        self.place = place
        self.maps = write_maps(place / "maps", open_source(SOURCE))
        self.pictures = folder_of(place / "pictures", 24, broken=broken_images())
        self.picture_maps = write_maps(place / "picture-maps", open_source(str(self.pictures)))
        saliency = str(self.maps)
        torn = {"source": str(self.pictures), "saliency": str(self.picture_maps), "max_rejected": 0.2}
        self.wanted = {
            "random": (ACCUMULATE, None),
            "salient": ({"saliency": saliency, "salient_schedule": [0.0, 0.5], "salient_pick": "weighted"}, None),
            "block": ({"masking": "block", "epochs": 2}, None),
            "decoded": ({"decode_ratio": 0.5, "epochs": 2}, None),
            "shuffled": ({"saliency": saliency, "masking": "shuffled", "epochs": 2}, None),
            "shuffled-pairs": ({"saliency": saliency, "masking": "shuffled", "batch_size": 2, "epochs": 1}, None),
            "torn": (torn, None),
            "torn-shuffled": (torn | {"masking": "shuffled"}, None),
            "rejected": (torn | {"max_rejected": 0.1}, None),
            "gate": ({"masking": "gate", "gate_contrast": 0.5, "gate_ratio": 1.0} | ACCUMULATE, None),
            "gate-torn": (torn | {"masking": "gate", "gate_contrast": 0.5, "gate_teacher": torn["saliency"]}, None),
            "gate-weighs": ({"masking": "gate", "saliency_weight": 0.7, "weight_by": "gate", "epochs": 2}, None),
            "gate-in-parts": ({"masking": "gate", "shard_model": True}, None),
            "attention": ({"masking": "attention-hint", "attention_momentum": 0.5} | ACCUMULATE, None),
            "hard": ({"masking": "hard"} | ACCUMULATE, None),
            "hard-torn": (torn | {"masking": "hard", "hard_final": 1.0}, None),
            "hard-in-parts": ({"masking": "hard", "shard_model": True}, None),
            "coloured": ({"masking": "color-green", "epochs": 2}, None),
            "weighted": ({"saliency": saliency, "masking": "random", "saliency_weight": 0.7}, None),
            "parts": ({"shard_model": True} | ACCUMULATE, None),
            "parts-torn": ({"shard_model": True} | torn, None),
            "begun-by-two": (ACCUMULATE, ["stopped", 9]),
            "begun-in-parts": (ACCUMULATE | {"shard_model": True}, ["stopped", 9]),
            "begun-by-one": (ACCUMULATE | {"resume": True}, None),
            "begun-by-one-in-parts": (ACCUMULATE | {"resume": True, "shard_model": True}, None),
            "not-finite": (BROKEN_STEP, ["broken_loss", 1, 6]),
            "not-finite-in-parts": (BROKEN_STEP | {"shard_model": True}, ["broken_loss", 1, 6]),
            "infinite-part": (BROKEN_STEP | {"shard_model": True}, ["broken_part", 1, 6]),
            "uneven": ({"batch_size": 5}, None),
            "nowhere": ({"source": "nowhere"}, None),
            "too-few": ({"batch_size": 26}, None),
            "full": ({"out": str(self.pictures)}, None),
        }

    def options(self, name, alone=False):
        changes = dict(self.wanted[name][0])
        out = Path(changes.pop("out", self.place / f"{name}{'-alone' if alone else ''}"))
        changes = {name: tuple(v) if isinstance(v, list) else v for name, v in changes.items()}
        return replace(nano_options(out), **(changes | ({"shard_model": False} if alone else {})))

    def alone(self, name):
        """The run's losses in one process."""
        options = self.options(name, alone=True)
        return losses(RunFolder(options.out) if options.out.exists() else run(replace(options, resume=False)))

    def together(self):
        started = {"begun-by-one", "begun-by-one-in-parts"}
        for name in started:
            with pytest.MonkeyPatch.context() as patch:
                update = Training.update

                def stops(self, batches, update=update):
                    if self.step == 9:
                        raise UserError("stopped")
                    return update(self, batches)

                patch.setattr(Training, "update", stops)
                with pytest.raises(UserError, match="stopped"):
                    run(replace(self.options(name), resume=False, shard_model=False))
        texts = [
            (changes | {"out": changes.get("out", str(self.place / name))}, fault)
            for name, (changes, fault) in self.wanted.items()
        ]
        (self.place / "runs.json").write_text(json.dumps(texts))
        done = torchrun("several", self.place)
        assert done.returncode == 0, errors(done)
        told = [json.loads((self.place / f"told-{rank}.json").read_text()) for rank in (0, 1)]
        self.told = {name: [each[i] for each in told] for i, name in enumerate(self.wanted)}
        return self

    def losses(self, name):
        assert [told["error"] for told in self.told[name]] == [None, None]
        return losses(RunFolder(self.options(name).out))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        nano_runs(patch)
        yield Runs(tmp_path_factory.mktemp("world")).together()


parts = pytest.mark.skipif(not SPLITS_ON_CPU, reason="this torch can't split a model on the CPU")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("random", 21),
        ("salient", 18),
        ("block", 12),
        ("decoded", 12),
        ("shuffled", 12),
        ("shuffled-pairs", 12),
        ("torn", 18),
        ("torn-shuffled", 18),
        ("gate", 21),
        ("gate-torn", 18),
        ("gate-weighs", 12),
        ("attention", 21),
        ("hard", 21),
        ("hard-torn", 18),
        ("coloured", 12),
        ("weighted", 18),
        pytest.param("parts", 21, marks=parts),
        pytest.param("parts-torn", 18, marks=parts),
    ],
)
def test_two_processes_do_the_run_of_one(runs, name, steps):
    together, alone = runs.losses(name), runs.alone(name)
    assert len(together) == steps
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(alone)) > 10
    ours, theirs = (load_model(runs.options(name, alone).out).state_dict() for alone in (False, True))
    for key, weight in theirs.items():
        if "qkv.bias" not in key:  # a key's bias has no gradient but rounding, which AdamW makes as large as any
            torch.testing.assert_close(ours[key], weight, atol=1e-4, rtol=1e-3, msg=key)
    if "gate" in name:
        ours, theirs = (
            load_gate(list_checkpoints(runs.options(name, alone).out)[-1] / "gate.safetensors").state_dict()
            for alone in (False, True)
        )
        for key, weight in theirs.items():
            if "qkv.bias" not in key:
                torch.testing.assert_close(ours[key], weight, atol=1e-4, rtol=1e-3, msg=key)
    if runs.options(name).masking in ("attention-hint", "hard"):
        ours, theirs = (load_state(runs.options(name, alone).out)["learner"] for alone in (False, True))
        part = "network" if "network" in theirs else "teacher"
        for key, weight in theirs[part].items():
            # nor have these of a predictor, whose objective knows differences between patches alone
            if "qkv.bias" not in key and key not in ("norm.bias", "score.bias"):
                torch.testing.assert_close(ours[part][key], weight, atol=1e-4, rtol=1e-3, msg=key)
    assert sorted(p.name for p in runs.options(name).out.iterdir()) == sorted(
        p.name for p in runs.options(name, True).out.iterdir()
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("random", 24), ("torn", 24)])
def test_no_image_is_read_twice_or_by_nobody(runs, name, count):
    each = [told["indices"] for told in runs.told[name]]
    assert len(each[0]) == len(each[1])
    per_epoch = len(each[0]) * 2 * 2 // (count * runs.options(name).epochs) * count // 4
    for start in range(0, len(each[0]), per_epoch):
        read = [index for rank in each for batch in rank[start : start + per_epoch] for index in batch]
        assert sorted(read) == list(range(count))


@pytest.mark.slow
def test_an_unreadable_image_of_one_process_is_in_the_one_list(runs):
    assert sorted(line["index"] for line in RunFolder(runs.options("torn").out).rejected()) == broken_images()
    errors = [told["error"] for told in runs.told["rejected"]]
    assert errors[0].startswith("UserError: 3 of 24 images can't be read")
    assert errors[1] == errors[0].replace("UserError", "ToldElsewhereError", 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["begun-by-one", pytest.param("begun-by-one-in-parts", marks=parts)])
def test_a_run_of_one_process_goes_on_in_two(runs, name):
    assert runs.losses(name) == pytest.approx(runs.alone("random"), abs=1e-5)
    assert len(runs.told[name][0]["indices"]) == 2 * (21 - 8)  # from the checkpoint at step 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["begun-by-two", pytest.param("begun-in-parts", marks=parts)])
def test_a_run_of_two_processes_goes_on_in_one(runs, name):
    assert [told["error"] for told in runs.told[name]] == ["UserError: stopped"] * 2
    options = runs.options(name)
    assert list_checkpoints(options.out)[-1].name == "step-00000008"
    resumed = run(replace(options, resume=True, shard_model=False))
    assert losses(resumed) == pytest.approx(runs.alone("random"), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["not-finite", pytest.param("not-finite-in-parts", marks=parts)])
def test_a_loss_of_one_process_that_is_no_number_stops_all_at_that_step(runs, name):
    errors = [told["error"] for told in runs.told[name]]
    assert "the loss became nan at step 6" in errors[0]
    assert errors[1] == errors[0].replace("UserError", "ToldElsewhereError", 1)
    folder = runs.options(name).out
    facts = json.loads((folder / "nonfinite" / "step.json").read_text())
    expected = [index for _, index in next(iter(EpochBatches(24, 4, 6, 3, seed=3, start=5)))]
    assert [image["index"] for image in facts["batches"][0]] == expected
    assert [line["step"] for line in RunFolder(folder).metrics()] == [1, 2, 3, 4, 5, 6]
    assert load_model(folder / "nonfinite").norm.weight.isfinite().all()


@pytest.mark.slow
@parts
def test_a_gradient_that_is_infinite_in_one_part_stops_all_at_that_step(runs):
    errors = [told["error"] for told in runs.told["infinite-part"]]
    assert "the gradients became infinite" in errors[0]
    assert "at step 6" in errors[0]
    assert "gradient of decoder_pred.weight" in errors[0]
    assert errors[1] == errors[0].replace("UserError", "ToldElsewhereError", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("uneven", "--batch-size 5 can't be shared out evenly among 2 processes"),
        ("nowhere", "nowhere does not exist"),
        ("too-few", "has 24 images, fewer than one step takes (26)"),
        ("full", "is not empty and holds no run"),
        pytest.param("hard-in-parts", "--masking hard reads it whole: leave one out", marks=parts),
        pytest.param("gate-in-parts", "--masking gate reads it whole: leave one out", marks=parts),
        pytest.param(
            "parts",
            "--shard-model: torch",
            marks=pytest.mark.skipif(SPLITS_ON_CPU, reason="this torch splits a model on the CPU"),
        ),
    ],
)
def test_a_mistake_is_told_by_the_main_process_and_known_to_all(runs, name, message):
    errors = [told["error"] for told in runs.told[name]]
    assert errors[0].startswith("UserError: ")
    assert message in errors[0]
    assert errors[1].startswith("ToldElsewhereError: ")


def command(out):
    options = asdict(replace(nano_options(out), checkpoint_every=3, epochs=2))
    names = ("model", "batch_size", "epochs", "blr", "warmup_epochs", "checkpoint_every", "workers", "device")
    given = [text for name in names for text in (f"--{name.replace('_', '-')}", str(options[name]))]
    return ["pretrain", options["source"], "--out", str(out), "--image-size", "16", *given]


@pytest.mark.slow
def test_torchrun_starts_a_killed_run_again_where_it_was(tmp_path):
    done = torchrun(*command(tmp_path / "run"), options=["--max-restarts", "2"], FAULT="killed 1 8")
    assert done.returncode == 0, errors(done)
    assert done.stdout.count("step 12, loss") == 1
    with pytest.MonkeyPatch.context() as patch:
        nano_runs(patch)
        alone = run(replace(nano_options(tmp_path / "alone"), epochs=2))
    folder = RunFolder(tmp_path / "run")
    assert [line["step"] for line in folder.metrics()] == list(range(1, 13))
    assert losses(folder) == pytest.approx(losses(alone), abs=1e-5)


@pytest.mark.slow
def test_a_mistake_is_one_line_of_two_processes_and_not_tried_again(tmp_path):
    """A folder with a run in it, which a restart alone would take for its own."""
    with pytest.MonkeyPatch.context() as patch:
        nano_runs(patch)
        run(replace(nano_options(tmp_path / "run"), epochs=1))
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    done = torchrun(
        *command(tmp_path / "run"), "--epochs", "1", options=["--max-restarts", "1"], FAULT="slow_to_tell 3"
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "holds a run; add --resume" in lines[0]
    assert "exitcode  : 2" in done.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_model_is_not_split_in_one_process(tmp_path, monkeypatch):
    nano_runs(monkeypatch)
    with pytest.raises(UserError, match="--shard-model shares a model out to several processes: start them with torch"):
        run(replace(nano_options(tmp_path / "run"), shard_model=True))
    assert not (tmp_path / "run").exists()
