"""The fuzzer finds what is planted, and every reader stands a few dozen damaged files."""

import os
import signal
import time
from dataclasses import replace

import pytest

from pipelines.errors import UserError
from tools import fuzz
from tools.fuzzing.targets import TARGETS
from tools.fuzzing.worker import Limits, Lost, Target, campaign, input_of

FEW = 40


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_reader_stands_damaged_files(target):
    result = campaign(target, inputs=FEW, seed=7)
    assert result.inputs == FEW
    assert campaign(replace(target, accepted=()), inputs=1).faults == {}, "its first file is a good one"
    assert {place: fault.text for place, fault in result.faults.items()} == {}


def hang(data, folder):
    while True:
        time.sleep(0.01)


def hang_in_c(data, folder):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(60)


def allocate(data, folder):
    return bytearray(b"x") * (150 << 20)


def refuse_in_lines(data, folder):
    raise ValueError("")


def planted(wrong):
    """A reader that is wrong about one input alone."""

    def run(data, folder):
        if data == b"1":
            wrong(data, folder)
        if data == b"2":
            raise UserError("no such file")

    return Target("planted", lambda: [b"0", b"1", b"2", b"3"], run, (UserError, ValueError))


def lose(data, folder):
    raise Lost("a row")


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (lambda data, folder: {}["x"], "KeyError"),
        (lambda data, folder: int("9" * 5000), "none"),
        (lambda data, folder: b"\xff".decode(), "UnicodeDecodeError"),
        (refuse_in_lines, "ValueError"),
        (lose, "Lost"),
        (hang, "hang"),
        (hang_in_c, "hang"),
        (allocate, "memory"),
        (lambda data, folder: bytearray(1 << 40), "MemoryError"),
        (lambda data, folder: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
        (lambda data, folder: os._exit(3), "exit 3"),
    ],
)
def test_a_planted_fault_is_found_and_the_campaign_goes_on(wrong, kind, monkeypatch):
    monkeypatch.setattr("tools.fuzzing.worker._GRACE", 0.3)
    result = campaign(planted(wrong), inputs=4, limits=Limits(seconds=0.5, memory=100 << 20))
    assert result.inputs == 4
    assert [(fault.kind, fault.data, fault.count) for fault in result.faults.values()] == (
        [] if kind == "none" else [(kind, b"1", 1)]
    )


def test_faults_are_written_replayed_and_told(tmp_path, monkeypatch, capsys):
    def run(data, folder):
        assert b"\xff" not in data

    target = Target("planted-one", lambda: [b"plain", b"\xff\xff", b"\xff"], run, (UserError,))
    monkeypatch.setattr("tools.fuzzing.targets.TARGETS", (target,))
    asked = ["--targets", "planted", "--inputs", "3", "--out", str(tmp_path)]
    assert fuzz.main(asked) == 1
    assert "| planted-one | 3 | 0 | 1 |" in capsys.readouterr().out
    (file,) = (path for path in (tmp_path / "planted-one").iterdir() if not path.suffix)
    assert file.read_bytes() == b"\xff"
    assert "AssertionError at tests/test_fuzz.py" in file.with_suffix(".txt").read_text()
    assert fuzz.main(["--replay", str(file)]) == 1
    assert "AssertionError" in capsys.readouterr().out
    file.write_bytes(b"plain")
    assert fuzz.main(["--replay", str(file)]) == 0


def test_inputs_follow_from_the_seed():
    target = next(target for target in TARGETS if target.name == "tars")
    seeds = list(target.seeds())
    once, again, other = ([input_of(target, seeds, seed, i) for i in range(60)] for seed in (3, 3, 4))
    assert once == again
    assert once[: len(seeds)] == seeds
    assert len(set(once)) > 50
    assert other[len(seeds) :] != once[len(seeds) :]
