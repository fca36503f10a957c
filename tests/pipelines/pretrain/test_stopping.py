"""A training that a signal or a kill ends between two checkpoints goes on to the files of one that nothing ended."""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from mae.distributed import World
from mae.training import checkpoints
from mae.training.checkpoints import list_checkpoints
from mae.training.training import Training
from pipelines.errors import UserError
from pipelines.pretrain.stopping import stop_signals
from pipelines.views.workers import WorkerBatches
from tests.pipelines.pretraining import SMALL, SOURCE, invoke
from tools.killed_runs import tree

pytestmark = pytest.mark.usefixtures("nano")

KEPT = ("--checkpoint-every", 4, "--keep", 2, "--epochs", 3)


@pytest.fixture
def arguments(monkeypatch, tmp_path):
    """A run of 18 steps in ``out``, at any place: the folder's name is in its config."""

    def begun(place):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        return ("pretrain", SOURCE, "--out", "out", *SMALL, *KEPT)

    return begun


@pytest.fixture
def whole(arguments, tmp_path):
    assert invoke(*arguments("whole")).exit_code == 0
    return tree(tmp_path / "whole")


def names():
    return [path.name[-2:] for path in list_checkpoints(Path("out"))]


@pytest.mark.parametrize(
    ("number", "step", "kept"),
    [(signal.SIGTERM, 5, ["04", "05"]), (signal.SIGUSR1, 17, ["16", "17"]), (signal.SIGUSR2, 8, ["04", "08"])],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_is_answered_with_a_checkpoint(whole, arguments, tmp_path, monkeypatch, number, step, kept, workers):
    words, update = arguments("stopped"), Training.update

    def signalled(training, batches):
        if training.step == step - 1:
            os.kill(os.getpid(), number)
        return update(training, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "update", signalled)
        done = invoke(*words, "--workers", workers)
    assert done.exit_code == 128 + number
    assert f"stopped: {number.name} came: the state after step {step} of 18 is saved" in done.stderr
    assert names() == kept
    assert signal.getsignal(number) is signal.SIG_DFL
    done = invoke(*words, "--resume", "--workers", workers)
    assert done.exit_code == 0, done.output
    found = tree(tmp_path / "stopped")
    assert {name for name in whole if whole[name] != found.get(name)} == ({"out/config.json"} if workers else set())
    assert found.keys() == whole.keys()


def test_a_signal_at_the_last_step_stops_nothing(whole, arguments, tmp_path, monkeypatch):
    words, update = arguments("stopped"), Training.update
    monkeypatch.setattr(
        Training,
        "update",
        lambda training, batches: (signal.raise_signal(signal.SIGTERM), update(training, batches))[1],
    )
    assert invoke(*words).exit_code == 128 + signal.SIGTERM
    monkeypatch.setattr(Training, "update", update)
    monkeypatch.setattr(
        Training,
        "update",
        lambda training, batches: (
            training.step == 17 and signal.raise_signal(signal.SIGTERM),
            update(training, batches),
        )[1],
    )
    assert invoke(*words, "--resume").exit_code == 0
    assert tree(tmp_path / "stopped") == whole


@pytest.mark.parametrize("fails", ["_make_best", "_remove", "_sync"])
@pytest.mark.parametrize("at", range(3))
def test_what_follows_a_checkpoint_is_made_up_for(whole, arguments, tmp_path, monkeypatch, fails, at):
    """A kill after the last checkpoint is written, and before the best and the newest ones are settled."""
    words, real, calls = arguments("killed"), getattr(checkpoints, fails), iter(range(1000))

    def killed(*given):
        if Path("out/checkpoints/step-00000018").exists() and next(calls) == at:
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, fails, killed)
        invoke(*words)
    (Path("out") / ".tmp-1-metrics.jsonl").write_text("half")
    assert invoke(*words, "--resume").exit_code == 0
    assert tree(tmp_path / "killed") == whole


def test_handlers_of_others_are_left_alone():
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with stop_signals(World()) as stop:
            signal.raise_signal(signal.SIGUSR1)
            assert stop.name() is None
            signal.raise_signal(signal.SIGTERM)
            assert stop.name() == "SIGTERM"
    finally:
        signal.signal(signal.SIGUSR1, before)
    told = []
    thread = threading.Thread(target=lambda: told.append(stop_signals(World()).__enter__().name()))
    thread.start()
    thread.join()
    assert told == [None]


def test_workers_without_shared_memory_are_one_line(arguments, monkeypatch):
    """Copied by PyTorch's own thread, the batch would be lost without a word and waited for for ever."""

    def full(*_):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_0>: No space left on device (28)")

    words = arguments("full")
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "share_memory_", full)
        done = invoke(*words, "--workers", 1)
    assert (done.exit_code, done.stderr.count("error: ")) == (2, 1)
    assert "/dev/shm" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that", "/dev/shm"),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", "out of memory"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "fewer --workers"),
    ],
)
def test_a_dead_worker_is_one_line(message, advice):
    def dies():
        yield 1
        raise RuntimeError(message)

    batches = iter(WorkerBatches(dies()))
    assert next(batches) == 1
    with pytest.raises(UserError, match=advice):
        next(batches)
