import itertools
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from mae.training.checkpoints import list_checkpoints, load_model
from mae.training.training import Training
from pipelines.errors import UserError
from pipelines.pretrain import pretrain as module
from pipelines.run_folder import RunFolder
from pipelines.sources.open_source import open_source
from tests.pipelines.pretraining import (
    SMALL,
    SOURCE,
    STEPS,
    assert_same_weights,
    folder_of,
    invoke,
    losses,
    run,
    stopping,
)
from tests.tiny_mae import write_maps

pytestmark = pytest.mark.usefixtures("nano")


@pytest.fixture
def maps(tmp_path):
    return write_maps(tmp_path / "maps", open_source(SOURCE))


def test_a_run_folder(base, pictures):
    folder = run(base)
    assert sorted(path.name for path in base.out.iterdir()) == ["checkpoints", "config.json", "metrics.jsonl", "plots"]
    assert sorted(path.name for path in (base.out / "plots").iterdir()) == ["loss.png", "reconstructions.png"]
    assert [path.name for path in list_checkpoints(base.out)] == ["step-00000016", "step-00000018"]
    lines = folder.metrics()
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines[5]["epoch"] == 1
    assert all(math.isfinite(line["loss"]) and line["learning_rate"] >= 0 for line in lines)
    assert lines[0]["learning_rate"] == 0
    assert max(line["learning_rate"] for line in lines) == pytest.approx(0.05 * 4 / 256)
    assert "salient_ratio" not in lines[0]
    assert [line["step"] for line in lines if "images_per_second" in line] == [4, 8, 12, 16, 18]
    config = folder.config()
    assert (config["images"], config["steps"], config["steps_per_epoch"], config["grid"]) == (24, 18, 6, [2, 2])
    assert config["options"]["model"] == "nano"
    assert config["maps"] is None
    json.dumps(config)


@pytest.mark.parametrize("stop", [2, 4, 7, 13])
def test_a_stopped_run_goes_on_to_the_bit(base, tmp_path, maps, stop, monkeypatch):
    monkeypatch.setattr(module, "_FLUSH_EVERY", 1)  # so that steps behind the newest checkpoint are logged
    options = replace(base, saliency=maps, salient_schedule=(0.0, 0.5))
    whole = run(options)
    stopped = replace(options, out=tmp_path / "stopped")
    with stopping(stop), pytest.raises(KeyboardInterrupt):
        run(stopped)
    assert len(RunFolder(stopped.out).metrics()) == stop
    resumed = run(replace(stopped, resume=True))
    assert [line["step"] for line in resumed.metrics()] == list(range(1, STEPS + 1))
    assert losses(resumed) == losses(whole)
    assert [line["salient_ratio"] for line in resumed.metrics()] == [line["salient_ratio"] for line in whole.metrics()]
    assert_same_weights(options.out, stopped.out)


def test_a_resumed_run_may_have_other_workers_and_checkpoints(base, tmp_path):
    options = replace(base, accumulate=2, source="shapes:50,size=32")
    whole = run(options)
    stopped = replace(options, out=tmp_path / "stopped", workers=2, checkpoint_every=5)
    with stopping(8), pytest.raises(KeyboardInterrupt):
        run(stopped)
    resumed = run(replace(stopped, resume=True, workers=1, checkpoint_every=None, keep=1))
    assert losses(resumed) == losses(whole)
    assert len(losses(whole)) == 18
    assert_same_weights(options.out, stopped.out)


def test_a_run_stopped_twice_and_in_a_torn_line(base, tmp_path):
    whole = run(base)
    stopped = replace(base, out=tmp_path / "stopped")
    for step, resume in ((6, False), (15, True)):
        with stopping(step), pytest.raises(KeyboardInterrupt):
            run(replace(stopped, resume=resume))
    with (stopped.out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 16, "loss": 0.')
    assert RunFolder(stopped.out).metrics()[-1]["step"] == 12
    resumed = run(replace(stopped, resume=True))
    assert losses(resumed) == losses(whole)
    assert_same_weights(base.out, stopped.out)


def test_every_seed_is_another_run(base, tmp_path):
    first = losses(run(base))
    assert losses(run(replace(base, out=tmp_path / "again"))) == first
    assert losses(run(replace(base, out=tmp_path / "other", seed=1))) != first


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("deterministic", True, "deterministic False → True"), ("norm_pix", False, "norm_pix True → False")],
)
def test_a_run_of_before_an_option_existed_goes_on(base, option, value, message):
    with stopping(5), pytest.raises(KeyboardInterrupt):
        run(base)
    config = json.loads((base.out / "config.json").read_text())
    del config["options"][option]
    (base.out / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        run(replace(base, resume=True, **{option: value}))
    assert len(losses(run(replace(base, resume=True)))) == STEPS


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", lambda content: content[: len(content) // 2]),
        ("model.safetensors", lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]),
        ("model.safetensors", lambda _: b""),
        ("model.safetensors", lambda _: pickle.dumps({"weight": 1})),
        ("model.safetensors", lambda _: save({"layer.weight": torch.zeros(2)})),
        ("training.pt", lambda content: content[: len(content) // 2]),
        ("training.pt", lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]),
        ("training.pt", lambda _: b""),
    ],
)
@pytest.mark.parametrize("sums", [True, False])
def test_a_damaged_checkpoint_is_one_line_and_the_one_before_goes_on(base, name, damage, sums):
    with stopping(10), pytest.raises(KeyboardInterrupt):
        run(base)
    before, newest = list_checkpoints(base.out)
    content = (newest / name).read_bytes()
    (newest / name).write_bytes(damage(content))
    if not sums:
        (newest / "SHA256SUMS").unlink()
    if sums or len(damage(content)) != len(content):  # without sums nobody can know of one bit
        with pytest.raises(UserError, match=f"{newest} can't be .*--resume continues from the one before") as told:
            run(replace(base, resume=True))
        assert "\n" not in str(told.value)
        if name == "model.safetensors":
            result = invoke("evaluate", base.out, "shapes:20,size=32", "--workers", 0, "--device", "cpu")
            assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
            assert f"error: {newest} can't be loaded" in result.stderr
    shutil.rmtree(newest)
    assert list_checkpoints(base.out) == [before]
    assert len(losses(run(replace(base, resume=True)))) == STEPS


def test_salient_ratio_0_is_the_random_run(base, tmp_path, maps):
    random = run(base)
    salient = run(replace(base, out=tmp_path / "salient", saliency=maps, salient_ratio=0))
    assert salient.config()["masking"]["strategy"] == "salient"
    assert losses(salient) == losses(random)
    other = run(replace(base, out=tmp_path / "other", saliency=maps, salient_ratio=0.5))
    assert losses(other) != losses(random)


def test_a_finished_run_that_is_resumed_stays_as_it_is(base, pictures):
    before = run(base).metrics()
    weights = (list_checkpoints(base.out)[-1] / "model.safetensors").read_bytes()
    again = run(replace(base, resume=True))
    assert again.metrics() == before
    assert (list_checkpoints(base.out)[-1] / "model.safetensors").read_bytes() == weights
    (base.out / "metrics.jsonl").unlink()
    run(replace(base, resume=True))


def test_resume_in_an_empty_folder_begins(base):
    base.out.mkdir()
    (base.out / ".tmp-1-config.json").write_text("{")  # of a run that was killed at once
    assert len(losses(run(replace(base, resume=True, epochs=1)))) == 6


def test_another_run_in_the_folder(base, tmp_path, maps):
    run(replace(base, epochs=1))
    before = (base.out / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="holds a run; add --resume"):
        run(base)
    with pytest.raises(UserError, match=r"other settings \(blr 0\.05 → 0\.1; epochs 1 → 3\)"):
        run(replace(base, blr=0.1, resume=True))
    with pytest.raises(UserError, match=r"other settings \(saliency None → '.*maps'\)"):
        run(replace(base, epochs=1, saliency=maps, resume=True))
    assert (base.out / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("content", ["{}", "[]", '{"options": 1}', '{"options": '])
def test_a_folder_with_a_configuration_of_something_else(base, content):
    base.out.mkdir()
    (base.out / "config.json").write_text(content)
    with pytest.raises(UserError, match="not a run folder"):
        run(replace(base, resume=True))
    assert (base.out / "config.json").read_text() == content


def test_a_folder_of_something_else(base, tmp_path):
    (base.out / "photos").mkdir(parents=True)
    for resume in (False, True):
        with pytest.raises(UserError, match="not empty and holds no run"):
            run(replace(base, resume=resume))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        run(replace(base, out=tmp_path / "file"))


def test_images_or_maps_that_changed_since(base, tmp_path):
    pictures = folder_of(tmp_path / "pictures", 12)
    maps = write_maps(tmp_path / "maps", open_source(str(pictures)))
    options = replace(base, source=str(pictures), saliency=maps)
    with stopping(5), pytest.raises(KeyboardInterrupt):
        run(options)
    write_maps(maps, open_source(str(pictures)), grid=5)
    with pytest.raises(UserError, match="the maps are not the ones"):
        run(replace(options, resume=True))
    (pictures / "00.png").rename(pictures / "aa.png")
    write_maps(maps, open_source(str(pictures)))
    with pytest.raises(UserError, match="the images are not the ones"):
        run(replace(options, resume=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 25}, r"has 24 images, fewer than one step takes \(25\): lower --batch-size"),
        ({"accumulate": 7}, r"fewer than one step takes \(28\)"),
        ({"limit": 3}, "has 3 images"),
        ({"masking": "salient"}, "--masking salient needs maps: --saliency MAPS"),
        ({"masking": "shuffled"}, "--masking shuffled needs maps"),
        ({"masking": "best"}, "--masking 'best' is not one of: random"),
        ({"image_size": (17,)}, "--image-size 17×17 must be a multiple of --patch-size 8"),
        ({"image_size": (16, 20)}, "--image-size 16×20 must be a multiple"),
        ({"patch_size": 16}, "--mask-ratio 0.75 would hide 1 of 1 patches"),
        ({"model": "giant"}, "--model 'giant' is not one of: mini, tiny"),
        ({"precision": "fp8"}, "--precision 'fp8'"),
        ({"source": "nowhere"}, "nowhere does not exist"),
        ({"saliency": Path("nowhere")}, "nowhere holds no saliency maps"),
        ({"masking": "center", "salient_ratio": 0.8}, "--salient-ratio 0.8 is above --mask-ratio 0.75"),
        ({"saliency": Path("x"), "salient_schedule": (0, 0.9)}, "--salient-schedule 0.9 is above --mask-ratio 0.75"),
    ],
)
def test_a_wrong_setting_is_one_line_and_leaves_no_folder(base, change, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(") if "\\" not in message else message):
        run(replace(base, **change))
    assert not base.out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"on_missing": "skip"}, "--on-missing 'skip' is not one of: error, random"),
        ({"image_size": (1, 2, 3)}, "--image-size takes one side"),
        ({"image_size": (0,)}, "--image-size takes one side"),
        ({"checkpoint_every": 0}, "--checkpoint-every is 0"),
        ({"keep": 0}, "--keep must be at least 1"),
        ({"workers": -1}, "--workers at least 0"),
        ({"max_rejected": 1.5}, r"--max-rejected is 1\.5"),
        ({"max_rejected": math.nan}, "--max-rejected is nan"),
    ],
)
def test_a_wrong_option_names_itself(base, change, message):
    with pytest.raises(ValueError, match=message):
        replace(base, **change)


def test_a_shuffled_run_needs_two_images_at_a_time(base, maps):
    with pytest.raises(UserError, match="--batch-size must be at least 2"):
        run(replace(base, saliency=maps, masking="shuffled", batch_size=1))
    assert not base.out.exists()


def test_missing_maps(base, tmp_path):
    source = open_source(SOURCE)
    few = write_maps(tmp_path / "few", source.select(range(12)))
    first = ", ".join(source.keys.to_pylist()[12:17])
    with pytest.raises(UserError, match=f"12 of 24 images have no map in .*, first: {first};.*--on-missing random"):
        run(replace(base, saliency=few))
    folder = run(replace(base, saliency=few, on_missing="random", epochs=1))
    assert folder.config()["maps"]["images_without_map"] == 12
    assert folder.config()["maps"]["method"] == "drawn"
    other = write_maps(tmp_path / "other", open_source("shapes:5,size=32,split=b"))
    for on_missing in ("error", "random"):
        with pytest.raises(UserError, match=r"no image of .* has a map"):
            run(replace(base, out=tmp_path / "x", saliency=other, on_missing=on_missing))


def test_the_best_epoch_is_kept_and_a_resumed_run_keeps_the_same(base, tmp_path, monkeypatch):
    saved, save_checkpoint = {}, module.save_checkpoint

    def saves(folder, training, *, keep, loss, interim):
        saved.setdefault(training.step, []).append(loss)
        return save_checkpoint(folder, training, keep=keep, loss=loss, interim=interim)

    monkeypatch.setattr(module, "save_checkpoint", saves)
    options = replace(base, keep=1, blr=0.2, checkpoint_every=3)
    log = losses(run(options))
    best = json.loads((options.out / "checkpoints" / "best" / "loss.json").read_text())
    means = {step: math.fsum(log[max(0, step - 6) : step]) / min(step, 6) for step in range(3, STEPS + 1, 3)}
    assert best["step"] == min(means, key=means.get)
    assert {step: values[0] for step, values in saved.items()} == pytest.approx(means)
    assert best["loss"] == saved[best["step"]][0]
    stopped = replace(options, out=tmp_path / "stopped")
    with stopping(10), pytest.raises(KeyboardInterrupt):
        run(stopped)
    run(replace(stopped, resume=True))
    assert all(first == second for first, second in saved.values())
    assert json.loads((stopped.out / "checkpoints" / "best" / "loss.json").read_text()) == best
    assert_same_weights(options.out / "checkpoints" / "best", stopped.out / "checkpoints" / "best")


def test_a_frame_that_is_not_square_and_a_control(base, maps, pictures):
    folder = run(replace(base, saliency=maps, masking="inverse", image_size=(16, 32), norm_pix=False, epochs=1))
    assert folder.config()["grid"] == [2, 4]
    assert load_model(base.out).image_size == (16, 32)
    assert all("salient_ratio" in line for line in folder.metrics())


def test_the_losses_are_looked_at_together(base, monkeypatch):
    """A look at a loss waits for a GPU: it happens at every twentieth step and where a checkpoint is written."""
    looks, step = [], [0]
    update, tolist, item = Training.update, torch.Tensor.tolist, torch.Tensor.item

    def counted(self, batches):
        step[0] = self.step + 1
        return update(self, batches)

    def look(real):
        def looks_at(tensor, *args):
            if tensor.requires_grad or tensor.dtype == torch.float32:
                looks.append(step[0])
            return real(tensor, *args)

        return looks_at

    monkeypatch.setattr(Training, "update", counted)
    monkeypatch.setattr(torch.Tensor, "tolist", look(tolist))
    monkeypatch.setattr(torch.Tensor, "item", look(item))
    run(replace(base, epochs=8, checkpoint_every=1000))
    assert [number for number, _ in itertools.groupby(looks)] == [20, 40, 48]


def test_the_command(tmp_path):
    result = invoke("pretrain", SOURCE, "--out", tmp_path / "run", *SMALL)
    assert result.exit_code == 0
    assert f"{tmp_path / 'run'}: step 6, loss " in result.stdout
    assert "Loading weights" not in result.stdout
    again = invoke("pretrain", SOURCE, "--out", tmp_path / "run", *SMALL, "--resume")
    assert again.stdout == result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "nowhere does not exist"),
        ((SOURCE, "--masking", "salient"), "needs maps"),
        ((SOURCE, "--image-size", "17"), "--image-size 17×17"),
        ((SOURCE, "--image-size", "big"), "--image-size 'big' is not a side"),
        ((SOURCE, "--salient-schedule", "1"), "--salient-schedule '1' is not A:B"),
        ((SOURCE, "--on-missing", "skip"), "--on-missing 'skip'"),
        ((SOURCE, "--batch-size", "0"), "--batch-size is 0"),
        ((SOURCE, "--blr", "nan"), "--blr is nan"),
        ((SOURCE, "--device", "abacus"), "--device abacus can't be used here"),
        ((SOURCE, "--masking", "center", "--salient-ratio", "0.9"), "above --mask-ratio"),
        ((SOURCE, "--captions", "some"), "--captions 'some' is not one of: first, all"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    result = invoke("pretrain", arguments[0], "--out", tmp_path / "run", *SMALL, *arguments[1:])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert not (tmp_path / "run").exists()


def test_ctrl_c_says_how_to_go_on(tmp_path):
    arguments = ("pretrain", SOURCE, "--out", tmp_path / "run", *SMALL, "--checkpoint-every", 2)
    with stopping(3):
        result = invoke(*arguments)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert "--resume" in result.stderr
    assert invoke(*arguments, "--resume").exit_code == 0
    assert [line["step"] for line in RunFolder(tmp_path / "run").metrics()] == list(range(1, 7))


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_bit(base, tmp_path):
    """The command itself, killed without warning in the middle, ends as if it had not been."""
    options = replace(base, source="shapes:48,size=32", model="tiny", patch_size=8, epochs=2, warmup_epochs=None)
    whole = run(options)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "cli", "pretrain", options.source, "--out", str(out), "--device", "cpu"]
    command += ["--model", "tiny", "--image-size", "16", "--patch-size", "8", "--batch-size", "4", "--epochs", "2"]
    command += ["--blr", str(options.blr), "--checkpoint-every", "3", "--workers", "1"]

    def start(*more):
        root, environment = Path(__file__).parents[3], os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([*command, *more], cwd=root, env=environment, stderr=subprocess.PIPE)

    with start() as killed:
        deadline = time.monotonic() + 120
        while not list_checkpoints(out) and killed.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
    assert len(RunFolder(out).metrics()) < 24
    with start("--resume") as resumed:
        error = resumed.communicate(timeout=120)[1].decode()
    assert resumed.returncode == 0, error
    assert "Traceback" not in error
    assert [line["step"] for line in RunFolder(out).metrics()] == list(range(1, 25))
    assert losses(RunFolder(out)) == losses(whole)
    assert_same_weights(options.out, out)
