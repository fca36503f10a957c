"""What `compare --dry-run` says of the time that the rest will take."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pipelines.compare import forecast as forecasting
from pipelines.compare.compare import dry_run
from pipelines.compare.forecast import forecast
from pipelines.compare.plan import plan_from
from pipelines.compare.unit import BEGUN, FINISHED, NEW, TRAINED
from pipelines.errors import UserError

EVALUATION = "its evaluation 10 s"

pytestmark = pytest.mark.usefixtures("nano")


@pytest.fixture
def threads(monkeypatch):
    """How many threads steps were measured with. A `random` run takes 100 s, an `image` run 300 s, evaluation 10 s."""
    used = []

    @contextmanager
    def measured(options, *, seconds):
        used.append(torch.get_num_threads())
        work = 299.0 if options.masking == "salient" else 99.0
        training = SimpleNamespace(total_steps=6)
        yield (
            SimpleNamespace(options=options, run=None, task=SimpleNamespace(training=training, saved=lambda run: None)),
            SimpleNamespace(opening=1.0, work=lambda steps: work),
        )

    monkeypatch.setattr(forecasting, "measured", measured)
    monkeypatch.setattr(forecasting, "save_checkpoint", lambda run, training, keep: None)
    monkeypatch.setattr(forecasting, "checkpoint_bytes", lambda training: 1e6)
    monkeypatch.setattr(forecasting, "seconds_of", lambda options: 10.0)
    monkeypatch.setattr(forecasting, "cores", lambda: 6)
    return used


@pytest.mark.parametrize(
    ("states", "jobs", "facts"),
    [
        ((NEW,) * 4, 1, {"time": "about 14 min 0 s", "a run": f"random 1 min 40 s, image 5 min 0 s; {EVALUATION}"}),
        ((NEW,) * 4, 2, {"time": "about 7 min 0 s, if 2 jobs at a time do not slow each other down"}),
        ((FINISHED, BEGUN, TRAINED, NEW), 1, {"time": "about 10 min 30 s", "note": "runs that have begun count whole"}),
        ((FINISHED, FINISHED, TRAINED), 4, {"a run": EVALUATION, "runs": "1 to finish, 1 of them trained already"}),
        ((FINISHED,) * 4, 1, {"time": "every run is finished"}),
    ],
)
def test_it_adds_up(content, out, threads, states, jobs, facts):
    units = [unit for unit, _ in dry_run(plan_from(content), out, device="cpu", workers=0)]
    assert [unit.arm for unit in units] == ["random", "image"] * 2
    before = torch.get_num_threads()
    found = forecast(list(zip(units, states, strict=False)), jobs)
    assert {name: found[name] for name in facts} == facts
    assert torch.get_num_threads() == before
    assert set(threads) <= {before if jobs == 1 else 6 // jobs}


def test_shares_of_the_labels_are_evaluated_too(content, out, threads):
    content |= {"label_fractions": [0.1, 0.5], "seeds": 1}
    content["evaluate"]["protocols"] = ["logistic"]
    assert forecast(dry_run(plan_from(content), out, device="cpu", workers=0), 1)["time"] == "about 7 min 40 s"


def test_steps_of_every_arm_are_measured_and_nothing_is_written(content, out, monkeypatch):
    for place in ("estimates", "compare.forecast"):
        monkeypatch.setattr(f"pipelines.{place}.SECONDS", 0.1)
    states = dry_run(plan_from(content | {"seeds": 1}), out, device="cpu", workers=0)
    found = forecast(states, 1)
    assert set(found) == {"runs", "a run", "time", "memory", "to write"}
    assert found["runs"] == "2 to finish, 0 of them trained already"
    assert "random" in found["a run"]
    assert "image" in found["a run"]
    assert not out.exists()


def test_an_arm_that_can_not_train_is_named(content, out):
    states = dry_run(plan_from(content | {"seeds": 1}), out, device="cpu", workers=0)
    broken = [(replace(unit, pretrain=replace(unit.pretrain, batch_size=4096)), state) for unit, state in states]
    with pytest.raises(UserError, match="arms: random: "):
        forecast(broken, 1)
