"""What trackers were told, read back from what they wrote: TensorBoard's by its own reader, W&B's by one made here."""

import json
import struct
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipelines.errors import UserError
from pipelines.pretrain import pretrain as module
from pipelines.pretrain.record import trackers
from pipelines.run_folder import RunFolder
from tests.pipelines.pretraining import SMALL, SOURCE, STEPS, invoke, run, stopping


@pytest.fixture(autouse=True)
def _offline(nano, monkeypatch):
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    forget_wandb()


def forget_wandb():
    """Ends W&B's service, which reads its variables once a process."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def expected(folder):
    """{name: [(step, value), …]} of the numbers in metrics.jsonl."""
    found = {}
    for line in RunFolder(folder).metrics():
        for name, value in line.items():
            if name != "step":
                found.setdefault(name, []).append((line["step"], value))
    return found


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def scalars(folder):
    found = events(folder)
    return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def wandb_records(folder):
    """Every record in the files of W&B's runs: LevelDB's log format, whose records are protobufs."""
    from wandb.proto.wandb_internal_pb2 import Record

    forget_wandb()  # its service writes the last bytes when it ends
    for path in sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        position, record = 7, b""  # behind ``:W&B`` and a version
        while position + 7 <= len(content):
            left = 32768 - position % 32768
            if left < 7:
                position += left
                continue
            checksum, size, kind = struct.unpack("<IHB", content[position : position + 7])
            part = content[position + 7 : position + 7 + size]
            assert kind in (1, 2, 3, 4)
            assert checksum == zlib.crc32(bytes([kind]) + part)
            record, position = record + part, position + 7 + size
            if kind in (1, 4):
                yield Record.FromString(record)
                record = b""


def wandb_numbers(folder):
    """{name: [(step, value), …]} of all runs in the folder, in the order they were made."""
    found = {}
    for record in wandb_records(folder):
        items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name, value in items.items():
            if not name.startswith(("_", "plots/")) and isinstance(value, int | float):
                found.setdefault(name, []).append((items["_step"], value))
    return found


def wandb_runs(folder):
    return [record.run for record in wandb_records(folder) if record.HasField("run")]


def assert_same_numbers(found, folder, rel):
    wanted = expected(folder)
    assert found.keys() == wanted.keys()
    for name, pairs in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in pairs], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in pairs], rel=rel, abs=1e-12)


def test_tensorboard_has_the_numbers_of_the_log(base, pictures):
    run(replace(base, track=("tensorboard",)))
    assert_same_numbers(scalars(base.out), base.out, rel=1e-6)
    found = events(base.out)
    assert sorted(found.Tags()["images"]) == ["plots/loss", "plots/reconstructions"]
    (picture,) = found.Images("plots/loss")
    assert picture.step == STEPS
    with Image.open(base.out / "plots" / "loss.png") as image:
        assert (picture.width, picture.height) == image.size
    text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(text.strip("`").removeprefix("json"))["options"]["batch_size"] == 4


def test_wandb_has_the_numbers_of_the_log(base, pictures):
    run(replace(base, track=("wandb",)))
    assert_same_numbers(wandb_numbers(base.out), base.out, rel=1e-12)
    (told,) = wandb_runs(base.out)
    assert (told.project, told.display_name) == ("saliency-mae", "run")
    settings = {item.key: json.loads(item.value_json) for item in told.config.update}
    assert settings["options"]["batch_size"] == 4
    assert settings["steps"] == STEPS
    names = sorted(path.name.split("_")[0] for path in (base.out / "wandb").rglob("plots/*.png"))
    assert names == ["loss", "reconstructions"]
    assert [record.exit.exit_code for record in wandb_records(base.out) if record.HasField("exit")] == [0]


def test_wandbs_own_variables_are_heard(base, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_NAME", "first")
    run(replace(base, track=("wandb",), epochs=1))
    (told,) = wandb_runs(base.out)
    assert (told.project, told.display_name) == ("mine", "first")


def test_a_resumed_run_goes_on_and_has_no_step_twice(base, monkeypatch):
    """Stopped at step 7, with a checkpoint of step 4: steps 5 to 7 are made again."""
    monkeypatch.setattr(module, "_FLUSH_EVERY", 1)
    options = replace(base, track=("tensorboard", "wandb"))
    with stopping(7), pytest.raises(KeyboardInterrupt):
        run(options)
    assert [step for step, _ in scalars(base.out)["loss"]] == list(range(1, 8))
    time.sleep(1.1)  # W&B names its folders by the second
    run(replace(options, resume=True))
    assert_same_numbers(scalars(base.out), base.out, rel=1e-6)
    losses = wandb_numbers(base.out)["loss"]
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    assert losses == expected(base.out)["loss"]
    assert len({told.run_id for told in wandb_runs(base.out)}) == 1
    codes = [record.exit.exit_code for record in wandb_records(base.out) if record.HasField("exit")]
    assert codes == [1, 0]


def test_a_tracker_that_joins_late_gets_what_was_before(base):
    with stopping(9), pytest.raises(KeyboardInterrupt):
        run(base)
    run(replace(base, resume=True, track=("tensorboard", "wandb")))
    assert_same_numbers(scalars(base.out), base.out, rel=1e-6)
    assert_same_numbers(wandb_numbers(base.out), base.out, rel=1e-12)


def test_a_finished_run_that_is_resumed_adds_no_numbers(base):
    options = replace(base, track=("tensorboard", "wandb"))
    run(options)
    time.sleep(1.1)
    run(replace(options, resume=True))
    assert_same_numbers(scalars(base.out), base.out, rel=1e-6)
    assert_same_numbers(wandb_numbers(base.out), base.out, rel=1e-12)


class Failing:
    """Fails in the call that it is told to."""

    def __init__(self, where):
        self.where, self.calls = where, []

    def __call__(self, run, config, step):
        self._do("open")
        return self

    def _do(self, name):
        self.calls.append(name)
        if name == self.where:
            raise ConnectionError("no network\nat all")

    def log(self, lines):
        self._do("log")

    def picture(self, name, path, step):
        self._do("picture")

    def close(self, *, failed):
        self._do("close")


@pytest.mark.parametrize("where", ["open", "log", "picture", "close"])
def test_a_tracker_that_fails_does_not_stop_the_training(base, pictures, monkeypatch, capsys, where):
    failing, other = Failing(where), Failing(None)
    monkeypatch.setattr(trackers, "_OPENERS", {"wandb": failing, "tensorboard": other})
    folder = run(replace(base, track=("wandb", "tensorboard")))
    assert len(folder.metrics()) == STEPS
    assert capsys.readouterr().err.count("warning: wandb failed and is left out") == 1
    assert failing.calls.count(where) == 1
    assert failing.calls[-1] == where
    assert other.calls[-1] == "close"
    assert {"open", "log", "picture", "close"} == set(other.calls)


def test_the_warning_is_one_line_with_the_reason(base, monkeypatch, capsys):
    monkeypatch.setattr(trackers, "_OPENERS", {"wandb": Failing("log")})
    run(replace(base, track=("wandb",), epochs=1))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert lines == ["warning: wandb failed and is left out; training continues: no network at all"]


def test_a_missing_package_is_one_line_and_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    result = invoke("pretrain", SOURCE, "--out", tmp_path / "run", *SMALL, "--track", "wandb")
    assert result.exit_code == 2
    assert result.stderr == "error: --track wandb needs wandb: pip install 'saliency-mae[track]'\n"
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_one_line(tmp_path):
    result = invoke("pretrain", SOURCE, "--out", tmp_path / "run", *SMALL, "--track", "mlflow")
    assert result.exit_code == 2
    assert result.stderr == "error: --track 'mlflow' is not one of: tensorboard, wandb\n"


def test_wandb_without_a_key_says_what_to_do(base, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError, match="--track wandb: .*wandb.login.*WANDB_MODE=offline"):
        run(replace(base, track=("wandb",)))
    monkeypatch.setenv("WANDB_MODE", "offline")
    forget_wandb()
    assert len(run(replace(base, track=("wandb",), resume=True)).metrics()) == STEPS


def test_the_command_takes_several(tmp_path):
    arguments = ("pretrain", SOURCE, "--out", tmp_path / "run", *SMALL, "--track", "tensorboard", "--track", "wandb")
    assert invoke(*arguments).exit_code == 0
    assert_same_numbers(scalars(tmp_path / "run"), tmp_path / "run", rel=1e-6)
    assert (Path(tmp_path) / "run" / "wandb").is_dir()


def test_a_run_without_trackers_imports_none(base):
    run(replace(base, epochs=1))
    assert not (base.out / "tensorboard").exists()
    assert not (base.out / trackers.STATE).exists()
