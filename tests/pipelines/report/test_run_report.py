"""A run's ``report.html`` says how it was made and how it went, and after an evaluation what that found."""

import json
import shutil

import pytest

from pipelines.report.run_report import REPORT, write_report
from pipelines.run_folder import RunFolder
from tests.pipelines.pretraining import SMALL, invoke, nano_runs
from tests.pipelines.test_html_page import seen


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nano_runs(monkeypatch)
    done = invoke(
        "pretrain", "shapes:24,size=32", "--out", "run", *SMALL, "--mask-ratio", "0.5", "--blr", "0.01", "--quiet"
    )
    assert done.exit_code == 0, done.output
    return RunFolder(tmp_path / "run")


def test_it_has_settings_course_and_evaluation(run):
    path = run.folder / REPORT
    text = seen(path).text
    for part in (
        "nano",
        "shapes:24,size=32",
        "mask-ratio",
        "0.5",
        "blr",
        "0.01",
        "The course of the training",
        "torch",
    ):
        assert part in text
    assert f"{run.metrics()[-1]['loss']:.4g}" in text
    assert "weight-decay" not in text  # a default
    assert "Evaluation" not in text
    done = invoke("evaluate", "run", "shapes:40,size=32", "--workers", "0", "--device", "cpu", "--protocol", "knn")
    assert done.exit_code == 0, done.output
    row = json.loads((run.folder / "evaluation.json").read_text())["rows"][0]
    text = seen(path).text
    assert "Evaluation" in text
    assert f"{100 * row['knn']:.1f} ± {100 * row['knn_interval']:.1f}" in text


def test_an_evaluation_that_is_none_is_left_out(run):
    for text in ("", "[]", "{}", '{"protocols": ["knn"], "rows": [{"encoder": 3}]}', '{"protocols": 3}'):
        (run.folder / "evaluation.json").write_text(text)
        assert "Evaluation" not in seen(write_report(run)).text


def test_a_name_of_a_stranger_is_text(run, tmp_path):
    other = tmp_path / "<script>alert(1)"
    shutil.copytree(run.folder, other)
    assert "script" not in {tag for tag, _ in seen(write_report(RunFolder(other))).tags}
