"""What each image was taken for: the file of ``--predictions``, and differences that are paired by image."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.evaluate.evaluate import EvaluateOptions, evaluate
from pipelines.evaluate.results.outcome import Outcome
from pipelines.evaluate.results.predictions import difference
from pipelines.evaluate.results.printed import remarks

SCENES, TEST = "shapes:40,size=32,objects=1", "shapes:20,split=test,size=32,objects=1"


def outcome(*predicted):
    return Outcome([], predicted=list(predicted))


def test_differences_are_paired_by_image():
    labels = np.array([0, 1, 0, 1, 0])
    first, other = outcome(0, 0, 1, None, 1), outcome(0, 1, 0, 1, 1)  # of the readable: 1, 0, 0, 0 and 1, 1, 1, 0
    found = difference([other], [first], labels)
    assert found == {"accuracy": 0.5, "interval": pytest.approx(1.96 * np.std([0, 1, 1, 0], ddof=1) / 2)}
    seeds = difference([other, first], [first, first], labels)  # the mean over seeds, image by image
    assert seeds == {"accuracy": 0.25, "interval": pytest.approx(1.96 * np.std([0, 0.5, 0.5, 0], ddof=1) / 2)}
    assert difference([other], [replace(first, predicted=None)], labels) is None
    assert difference([outcome(0, None)], [outcome(None, 1)], labels[:2]) is None


@pytest.mark.parametrize(("name", "read"), [("found.parquet", pd.read_parquet), ("found.csv", pd.read_csv)])
def test_the_file_has_what_the_accuracies_are_of(tmp_path, monkeypatch, name, read):
    options = EvaluateOptions(
        "timm:test_vit@none", SCENES, test=TEST, protocols=("knn", "logistic"), seeds="0,3", out=tmp_path / "x.json",
        workers=0,
    )  # fmt: skip
    evaluate(options, quiet=True)
    asked = replace(options, predictions=tmp_path / "new" / name)
    monkeypatch.setattr("pipelines.evaluate.protocols.knn.Knn.fit", lambda *_: pytest.fail("it is finished"))
    result = evaluate(asked, quiet=True)
    table = read(asked.predictions)
    assert list(table) == ["key", "class", "encoder", "protocol", "seed", "predicted"]
    assert len(table) == 20 * 2 * 2 * 2
    right = (table["class"] == table["predicted"]).groupby([table["encoder"], table["protocol"]], observed=True).mean()
    for row in result["rows"]:
        for protocol in options.protocols:
            assert right[row["encoder"], protocol] == pytest.approx(row[protocol])
    trained, untrained = result["rows"]
    assert "knn_minus_first" not in trained
    assert untrained["knn_minus_first"]["accuracy"] == pytest.approx(untrained["knn"] - trained["knn"])
    untrained |= {"knn_minus_first": {"accuracy": -0.125, "interval": 0.01}, "logistic_minus_first": {}}
    assert remarks(result)[0] == "difference from untrained, paired by image: knn +12.5 ± 1.0 points"


def test_old_results_are_computed_again_for_it(tmp_path):
    options = EvaluateOptions("timm:test_vit@none", SCENES, protocols=("knn",), out=tmp_path / "x.json", workers=0)
    kept = evaluate(options, quiet=True)
    for cell in (tmp_path / "x.cells").glob("*.json"):
        content = json.loads(cell.read_text())
        del content["outcome"]["predicted"]
        cell.write_text(json.dumps(content))
    assert "knn_minus_first" not in evaluate(options, quiet=True)["rows"][1]
    assert evaluate(replace(options, predictions=tmp_path / "p.csv"), quiet=True) == kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": "found.txt"}, "--predictions is found.txt; it must end in .parquet or .csv"),
        ({"predictions": "found.csv", "protocols": ("segment",)}, "--predictions lists what these protocols predict"),
    ],
)
def test_refused(change, message):
    change["predictions"] = Path(change["predictions"])
    with pytest.raises(ValueError, match=message):
        EvaluateOptions(**({"run": "run", "source": SCENES} | change))
