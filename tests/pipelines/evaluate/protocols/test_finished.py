"""What is finished is not computed again, and a training that was stopped goes on to the bit."""

from dataclasses import replace

import pytest
import torch

from mae.evaluation.attentive_probe import AttentiveSweep
from mae.evaluation.finetune import FineTuning
from mae.evaluation.linear_probe import LinearSweep
from pipelines.errors import UserError
from tests.pipelines.evaluate.protocols.judging import counting, judge, stopping
from tests.pipelines.evaluate.test_evaluate import save_run


def test_what_is_finished_is_not_computed_again(base, tmp_path):
    options = replace(base, seeds="2", untrained=True)
    with counting(LinearSweep, FineTuning) as first:
        result = judge(options)
    assert len(first) == 2 * 2 * (3 * 3 + 2 * 3)  # encoders, seeds, linear's epochs and steps, finetune's
    with counting(LinearSweep, FineTuning) as second:
        assert judge(options) == result
        assert judge(replace(options, workers=1)) == result
    assert second == []
    with counting(LinearSweep, FineTuning) as third:
        judge(replace(options, seeds="3", protocols=("linear",)))  # one seed more
    assert len(third) == 2 * 9
    with counting(LinearSweep, FineTuning) as fourth:
        assert judge(replace(options, fresh=True)) == result
    assert len(fourth) == len(first)
    assert not list((tmp_path / "run" / "evaluation.cells").glob("*.pt"))


@pytest.mark.parametrize(
    "change",
    [{"pool": "mean"}, {"linear_epochs": 2}, {"linear_blr": (1.0,)}, {"label_fraction": 0.5}, {"limit": 30}],
    ids=lambda change: next(iter(change)),
)
def test_another_question_is_computed_anew(base, change):
    options = replace(base, protocols=("linear",))
    judge(options)
    with counting(LinearSweep) as steps:
        judge(replace(options, **change))
    assert steps


def test_other_weights_are_judged_anew(base, tmp_path):
    options = replace(base, protocols=("finetune",), out=tmp_path / "table.json")
    judge(options)
    save_run(tmp_path / "run", seed=9)
    with counting(FineTuning) as steps:
        judge(options)
    assert steps


@pytest.mark.parametrize(
    ("protocol", "kind"), [("linear", LinearSweep), ("attentive", AttentiveSweep), ("finetune", FineTuning)]
)
@pytest.mark.parametrize("step", [2, 3, 5])
def test_an_interrupted_training_goes_on_to_the_bit(base, tmp_path, protocol, kind, step):
    options = replace(base, protocols=(protocol,), out=tmp_path / "whole.json")
    weights = []
    state = kind.state

    def remember(self):
        weights.append(state(self))
        return weights[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "state", remember)
        whole = judge(options)
        expected = weights[-1]
        stopped = replace(options, out=tmp_path / "stopped.json")
        with stopping(kind, step), pytest.raises(KeyboardInterrupt):
            judge(stopped)
        assert len(list((tmp_path / "stopped.cells").glob("*.pt"))) == (step >= 3)
        with counting(kind) as steps:
            resumed = judge(stopped)
    assert len(steps) == {"linear": 9, "attentive": 9, "finetune": 6}[protocol] - step // 3 * 3
    assert resumed == whole
    assert_same(weights[-1], expected)


def assert_same(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_a_torn_training_state_is_one_line(base, tmp_path):
    options = replace(base, protocols=("finetune",))
    with stopping(FineTuning, 4), pytest.raises(KeyboardInterrupt):
        judge(options)
    (state,) = (tmp_path / "run" / "evaluation.cells").glob("*.pt")
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(UserError, match="can't be resumed from.*--fresh"):
        judge(options)
    assert judge(replace(options, fresh=True))


def test_a_torn_cell_is_computed_again(base, tmp_path):
    options = replace(base, protocols=("knn",))
    result = judge(options)
    for content in (b'{"decided', b"[]", b'{"decided_by": {}, "outcome": {}}'):
        for path in (tmp_path / "run" / "evaluation.cells").glob("*.json"):
            path.write_bytes(content)
        assert judge(options) == result
