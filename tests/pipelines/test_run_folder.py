"""Run folders of strangers: a config of another shape is one line, and what is no line of metrics is passed over."""

import copy
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.compare.plots import loss_curves
from pipelines.errors import UserError
from pipelines.evaluate.independent_maps import training_record
from pipelines.export.model_card import run_facts
from pipelines.inspect.run import describe_run
from pipelines.run_folder import RunFolder

WRITTEN = Path(__file__).parents[1] / "data" / "written_before"
CONFIG = json.loads((WRITTEN / "gate" / "config.json").read_text())
LINE = b'{"step": 1, "loss": 1.5, "epoch": 0.5, "images_per_second": 9.5, "starved": 0.25}\n'
MUTATED = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = st.sampled_from(
    [None, True, -1, 0, 10**30, 1e300, float("nan"), float("inf"), "", "x", "\ud800", [], [1], {}, {"a": []}, [[[]]]]
)


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(WRITTEN / "gate" / "config.json", run)
    (run / "metrics.jsonl").write_bytes(LINE * 3)
    (run / "rejected.jsonl").write_text('{"key": "a", "index": 3, "reason": "broken"}\n')
    return run


def read_all(folder):
    """Everything that reads of a run that is not being trained."""
    run = RunFolder(folder)
    training_record(str(folder))
    run_facts(folder)
    run.rejected()
    describe_run(run)
    RunFolder(folder).rewind(1)


def without(*names):
    return {name: value for name, value in CONFIG.items() if name not in names}


CONFIGS = {
    "a list": (b"[]", "it is no object"),
    "no JSON": (b"{", "Expecting property name"),
    "no UTF-8": (b"\xff\xfe\x00", "can't decode byte"),
    "nested deep": (b"[" * 200_000, "nested too deep"),
    "a model's own": (b'{"width": 16, "depth": 1}', "options is missing"),
    "no masking": (without("masking"), "masking is missing"),
    "options that are a list": (CONFIG | {"options": []}, "options is no object"),
    "options without a source": (CONFIG | {"options": {}}, "options.source is missing"),
    "steps as text": (CONFIG | {"steps": "6"}, "steps is '6', not a whole number"),
    "a huge number of images": (CONFIG | {"images": 10**30}, "images is 10+, not a whole number"),
    "a ratio above one": (CONFIG | {"masking": CONFIG["masking"] | {"mask_ratio": 2}}, "mask_ratio is 2, not from 0"),
    "a grid of texts": (CONFIG | {"grid": ["2", "2"]}, r"grid\[0\] is '2'"),
    "half a surrogate pair": (CONFIG | {"more": "\ud800"}, "surrogate"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_of_another_shape(kind, folder):
    content, message = CONFIGS[kind]
    (folder / "config.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(UserError, match=f"run is not a run folder: config.json can't be used: .*{message}") as caught:
        describe_run(RunFolder(folder))
    assert "\n" not in str(caught.value)
    assert run_facts(folder) == []


def test_a_config_that_is_no_file(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(UserError, match="Not a regular file"):
        RunFolder(folder).config()


@pytest.mark.parametrize(
    "line",
    [
        b'{"loss": 1.0, "epoch": 1}', b'{"step": "1", "loss": 1, "epoch": 1}', b'{"step": 1, "loss": null, "epoch": 1}',
        b'{"step": 1, "loss": 1, "epoch": 1, "starved": "no"}', b"[1]", b"3", b"{", b"\xff", b"[" * 100_000,
        b'{"step": ' + b"9" * 5000 + b"}", b'{"step": 1, "loss": 1, "epoch": 1, "note": "\\ud800"}', b"\0" * 50,
    ],
)  # fmt: skip
def test_lines_that_are_none_of_metrics_are_passed_over(line, folder):
    (folder / "metrics.jsonl").write_bytes(LINE + line + b"\n" + LINE)
    run = RunFolder(folder)
    assert [step["loss"] for step in run.metrics()] == [1.5, 1.5]
    assert describe_run(run)[1]["loss_over"] == 2
    run.rewind(1)
    assert (folder / "metrics.jsonl").read_bytes().count(b"\n") == 2


def test_a_loss_that_is_no_number_any_more_is_a_metric(folder):
    """It is the last line of a run that diverged."""
    (folder / "metrics.jsonl").write_bytes(LINE + b'{"step": 2, "loss": NaN, "epoch": 1.0}\n')
    assert [line["step"] for line in RunFolder(folder).metrics()] == [1, 2]
    assert "nan over the last 2 steps" in describe_run(RunFolder(folder))[0]["loss"]


def test_metrics_that_are_a_pipe(folder):
    (folder / "metrics.jsonl").unlink()
    os.mkfifo(folder / "metrics.jsonl")
    with pytest.raises(UserError, match="metrics.jsonl can't be read: Not a regular file"):
        RunFolder(folder).metrics()
    assert loss_curves([]) == {}


def places(content, place=()):
    yield place
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in inner:
        yield from places(value, (*place, name))


def changed(content, place, value):
    """The content with another value in a place."""
    if not place:
        return value
    content = copy.deepcopy(content)
    inner = content
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    return content


@MUTATED
@given(place=st.sampled_from(list(places(CONFIG))), value=VALUES, line=st.sampled_from(["step", "loss", "epoch", "x"]))
def test_another_value_anywhere_is_taken_or_one_line(place, value, line, folder):
    (folder / "config.json").write_text(json.dumps(changed(CONFIG, place, value)))
    (folder / "metrics.jsonl").write_bytes(LINE + json.dumps(json.loads(LINE) | {line: value}).encode() + b"\n")
    try:
        read_all(folder)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017


@MUTATED
@given(data=st.data(), name=st.sampled_from(["config.json", "metrics.jsonl", "rejected.jsonl"]))
def test_other_bytes_anywhere_are_taken_or_one_line(data, name, folder):
    shutil.copy(WRITTEN / "gate" / "config.json", folder)
    whole = (WRITTEN / "gate" / "config.json").read_bytes() if name == "config.json" else LINE * 3
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    (folder / name).write_bytes(whole[:at] + (b"" if cut else data.draw(st.binary(max_size=3)) + whole[at + 1 :]))
    try:
        read_all(folder)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
