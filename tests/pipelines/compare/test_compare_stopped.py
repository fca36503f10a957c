"""A comparison that is stopped, killed or fails in a part goes on from there, and leaves nothing behind."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mae.training.training import Training
from pipelines.compare import jobs as compare_jobs
from pipelines.compare import unit as compare_runs
from pipelines.compare.compare import dry_run
from pipelines.compare.plan import plan_from
from pipelines.compare.unit import units_of
from pipelines.pretrain.plain import PlainTask
from tests.pipelines.compare.comparisons import run
from tests.pipelines.pretraining import assert_same_weights, stopping

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("nano")


def test_stopped_in_the_middle_it_goes_on(content, out, tmp_path, trainings):
    content["pretrain"]["checkpoint_every"] = 2
    whole = run(content, tmp_path / "whole")
    trainings.clear()
    with stopping(3), pytest.raises(KeyboardInterrupt):
        run(content, out)
    states = dry_run(plan_from(content), out, device="cpu", workers=0)
    assert [state for _, state in states] == ["begun", "new", "new", "new"]
    resumed = run(content, out)
    assert len([name for name, *_ in trainings if name == "pretrain"]) == 5
    assert resumed.values == whole.values
    for arm in ("random", "image"):
        assert_same_weights(tmp_path / "whole" / "runs" / arm / "seed-0", out / "runs" / arm / "seed-0")


def test_killed_between_training_and_evaluation(content, out, monkeypatch):
    def dies(*_, **__):
        raise KeyboardInterrupt

    steps, update = [], Training.update

    def counted(training, batches):
        steps.append(training.step)
        return update(training, batches)

    monkeypatch.setattr(Training, "update", counted)
    with monkeypatch.context() as patch:
        patch.setattr(compare_runs, "evaluate", dies)
        with pytest.raises(KeyboardInterrupt):
            run(content, out)
    drawn = []  # the pictures that a killed run has not drawn yet
    monkeypatch.setattr(PlainTask, "draw", lambda task, run, model: drawn.append(run.folder.parent.name))
    config = out / "runs" / "random" / "seed-0" / "config.json"
    begun = json.loads(config.read_text())
    begun["options"] |= {"temperature": 3.0, "gate_ratio": 0.1}  # as all arms could share it, to no effect
    config.write_text(json.dumps(begun))
    states = dry_run(plan_from(content), out, device="cpu", workers=0)
    assert [state for _, state in states] == ["trained", "new", "new", "new"]
    assert len(run(content, out).finished) == 4
    assert len(steps) == 4 * 6
    assert sorted(drawn) == ["image", "image", "random", "random"]


def test_a_failing_arm_is_reported_and_the_others_go_on(content, out, trainings):
    content["arms"] = {"random": None, "bad": {"blr": 1e30}, "center": None}
    found = run(content, out)
    assert [(o.unit.arm, o.unit.seed) for o in found.failed] == [("bad", 0), ("bad", 3)]
    assert len(found.finished) == 4
    report = (out / "report.md").read_text()
    assert "4 of 6 runs are finished" in report
    assert "- FAILED bad, seed 0: the " in report
    assert "| bad | 0 | – | – | – | no seed in common |" in report
    assert not (out / "failed").exists()  # the user's mistake needs no traceback
    trainings.clear()
    run(content, out)
    assert {arm for _, arm, _ in trainings} == {"bad"}


def test_a_bug_in_one_arm_leaves_its_traceback(content, out, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such thing")

    with monkeypatch.context() as patch:
        patch.setattr(compare_runs, "evaluate", broken)
        found = run(content | {"seeds": 1}, out)
    assert [o.failed for o in found.failed] == ["RuntimeError: no such thing"] * 2
    assert "Traceback" in (out / "failed" / "image-seed-0.txt").read_text()
    assert "0 of 2 runs are finished" in (out / "report.md").read_text()
    run(content | {"seeds": 1}, out)
    assert list((out / "failed").iterdir()) == []


@pytest.mark.slow
def test_several_at_a_time_find_what_one_after_the_other_finds(content, out, tmp_path):
    small = {"model": "tiny", "image_size": 16, "patch_size": 8, "batch_size": 8, "epochs": 1}
    content |= {"pretrain": small, "seeds": 1}
    found = run(content, out, jobs=2)
    assert (len(found.finished), found.failed) == (2, [])
    alone = run(content, tmp_path / "alone")
    assert found.values == alone.values
    assert_same_weights(out / "runs" / "image" / "seed-0", tmp_path / "alone" / "runs" / "image" / "seed-0")


@pytest.mark.parametrize(
    ("ends", "argument", "message"),
    [(signal.raise_signal, signal.SIGKILL, "was killed by SIGKILL; is there memory"), (os._exit, 3, "exit code 3")],
)
def test_a_process_that_dies_costs_its_own_run_alone(content, ends, argument, message):
    context = multiprocessing.get_context("spawn")
    answer, question = context.Pipe(duplex=False)
    process = context.Process(target=ends, args=(argument,))
    process.start()
    question.close()
    unit = units_of(plan_from(content), Path("out"))[0]
    outcome = compare_jobs._finish(compare_jobs._Job(unit, 0, process, answer, time.monotonic()))
    assert outcome.record is None
    assert message in outcome.failed


def worker_source(plan, out):
    return f"""
import pipelines.compare.jobs as jobs, sys
from pathlib import Path
from pipelines.compare.compare import compare
from pipelines.compare.plan import plan_from
if __name__ == "__main__":
    compare(plan_from({plan!r}), Path({str(out)!r}), jobs=2, device="cpu", workers=0)
"""


def processes():
    """Number, parent's number and state of every process."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state = (place / "stat").read_text().rpartition(")")[2].split()
            found.append((int(place.name), int(state[1]), state[0]))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_command(content, out, tmp_path, how):
    content |= {"pretrain": {"model": "tiny", "image_size": 16, "patch_size": 8, "batch_size": 8, "epochs": 9999}}
    script = tmp_path / "script.py"
    script.write_text(worker_source(content, out))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, str(script)], cwd=ROOT, env=environment(), stderr=log)
    deadline = time.monotonic() + 120
    while len(list(out.glob("runs/*/*/config.json"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.2)
    children = [pid for pid, parent, _ in processes() if parent == process.pid]
    assert len(children) >= 2
    process.send_signal(how)
    process.wait(30)
    time.sleep(0.5)
    while alive := [pid for pid, _, state in processes() if pid in children and state != "Z"]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)
    log = (tmp_path / "log").read_text()
    assert log.count("Traceback") == (how == signal.SIGINT)  # the script's own, which has no mae-cli around it
    states = dry_run(plan_from(content), out, device="cpu", workers=0)
    assert [state for _, state in states] == ["begun", "begun", "new", "new"]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT)}
