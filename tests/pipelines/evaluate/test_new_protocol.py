"""Protocols made by the recipe, a class and a row each: evaluated, printed, compared and carded like all others."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.table import Table

from pipelines.compare.compare import compare
from pipelines.compare.comparison import print_comparison
from pipelines.compare.plan import UNTRAINED, plan_from
from pipelines.errors import UserError
from pipelines.evaluate.data import open_data
from pipelines.evaluate.encoders.encoder import open_encoder
from pipelines.evaluate.evaluate import EvaluateOptions, evaluate
from pipelines.evaluate.protocol import Measurement, Probe, load
from pipelines.evaluate.results.outcome import Measured
from pipelines.evaluate.results.printed import print_evaluation, remarks
from pipelines.evaluate.table import PROTOCOLS, Row
from pipelines.export.model_card import run_facts
from tests.pipelines.pretraining import nano_runs

SCENES, TEST = "shapes:40,size=32,objects=1", "shapes:20,split=test,size=32,objects=1"


class Centroid(Probe):
    """The class whose mean feature is nearest."""

    name = "centroid"

    def settings(self, encoder, seed):
        return {"pool": self.options.pool}

    def fit(self, known, seed):
        means = [known.values[known.labels == label].mean(0) for label in range(len(self.parts.names))]
        return lambda queries: -torch.cdist(queries, torch.stack(means)), {"distance": "euclidean"}


class Mirror(Measurement):
    """How alike the features of an image and of its mirror image are."""

    name, unit, meaning = "mirror", "cosine", "the cosine of the features of an image and of its mirror image"

    @classmethod
    def check_encoder(cls, encoder, options):
        if "timm" in encoder.name:
            raise UserError(f"{encoder.name} has no mirror")

    def settings(self, encoder, seed):
        return {"pool": self.options.pool}

    def measure(self, encoder, seed, checkpoint):
        likeness = [
            torch.cosine_similarity(encoder.features(batch.images), encoder.features(batch.images.flip(-1))).tolist()
            for batch in self.parts.test.batches(encoder.size, 8, workers=0)
        ]
        return Measured({"likeness": [[value] for part in likeness for value in part]}, {"axis": "x"})

    def figures(self, found, first):
        values = np.mean([each.array("likeness") for each in found], axis=0)[:, 0]
        half = 1.96 * values.std() / len(values) ** 0.5
        return {"mirror": float(values.mean()), "mirror_interval": half, "mirror_is_first": first is None}

    def facts(self):
        return {"mirrored": "left to right"}

    def draw(self, folder, result, encoder):
        folder.mkdir(exist_ok=True)
        (folder / "mirror.txt").write_text(f"{encoder.name} {result['rows'][0]['mirror']}")

    @classmethod
    def tables(cls, result):
        yield Table("a table of its own")

    @classmethod
    def remarks(cls, result):
        return [f"mirror: along {result['rows'][0]['mirror_runs'][0]['axis']}"]


@pytest.fixture(autouse=True)
def _rows(monkeypatch):
    nano_runs(monkeypatch)
    monkeypatch.setitem(PROTOCOLS, "centroid", Row(f"{__name__}:Centroid", labels=True, clips=True, accuracy=True))
    monkeypatch.setitem(PROTOCOLS, "mirror", Row(f"{__name__}:Mirror", labels=True))


def plan(**judged):
    settings = {"model": "nano", "image_size": 16, "batch_size": 8, "epochs": 1, "blr": 0.05, "warmup_epochs": 0.5}
    judged = {"source": SCENES, "test": TEST, "protocols": ["centroid", "mirror", "knn"], **judged}
    arms = {"random": {"masking": "random"}, "block": {"masking": "block"}}
    return plan_from(
        {"source": "shapes:24,size=32", "seeds": [0], "pretrain": settings, "evaluate": judged, "arms": arms}
    )


def test_a_new_protocol_is_a_class_and_a_row(tmp_path, capsys):
    found = compare(plan(), tmp_path / "out", device="cpu", workers=0, quiet=True)
    assert not found.failed
    assert {name: set(table) for name, table in found.values.items()} == {
        name: {"random", "block", UNTRAINED} for name in ("centroid", "mirror", "knn")
    }
    print_comparison(found)
    assert "centroid: means over seeds and paired differences" in capsys.readouterr().out
    report = (tmp_path / "out" / "report.md").read_text()
    assert "*mirror* is the cosine of the features of an image and of its mirror image." in report
    assert "*centroid* is" not in report

    run = tmp_path / "out" / "runs" / "block" / "seed-0"
    options = EvaluateOptions(
        str(run), SCENES, test=TEST, protocols=("centroid", "mirror"), seeds="2", workers=0,
        confusion=tmp_path / "confusion.png",
    )  # fmt: skip
    result = evaluate(options, quiet=True)
    trained, untrained = result["rows"]
    assert trained["centroid"] == accuracy_by_hand(options)
    assert trained["mirror"] == pytest.approx(found.values["mirror"]["block"][0])
    assert (trained["mirror_is_first"], untrained["mirror_is_first"]) == (True, False)
    assert [run["distance"] for run in trained["centroid_runs"]] == ["euclidean"] * 2
    assert trained["mirror_seed_interval"] == 0 < untrained["mirror_seed_interval"]
    assert result["mirrored"] == "left to right"
    assert (tmp_path / "confusion.png").exists()
    assert (run / "plots" / "mirror.txt").read_text() == f"{run} {trained['mirror']}"
    assert json.loads((run / "evaluation.json").read_text()) == result

    print_evaluation(result)
    told = capsys.readouterr().out
    assert "mirror, cosine %" in told
    assert "centroid %" in told
    assert "a table of its own" in told
    above, confused, axis = remarks(result)
    assert above.startswith("difference from untrained, paired by image: centroid ")
    assert confused.startswith("most confused (centroid): ")
    assert axis == "mirror: along x"
    card = "\n".join(run_facts(run))
    assert f"| seed-0 | {100 * trained['centroid']:.1f} ± {100 * trained['centroid_interval']:.1f} |" in card
    assert "mirror" not in card  # the card tells accuracies


def accuracy_by_hand(options):
    train, test, _ = open_data(options)
    encoder = open_encoder(options.run, pool=options.pool, device="cpu")
    known, asked = (
        torch.cat([encoder.features(batch.images) for batch in part.batches(encoder.size, 64, workers=0)]).numpy()
        for part in (train, test)
    )
    means = np.stack([known[train.labels == label].mean(0) for label in np.unique(train.labels)])
    nearest = np.linalg.norm(asked[:, None] - means[None], axis=2).argmin(1)
    return float((nearest == test.labels).mean())


def test_what_is_finished_is_found_again(tmp_path, monkeypatch):
    options = EvaluateOptions("timm:test_vit@none", SCENES, protocols=("centroid",), out=tmp_path / "x.json", workers=0)
    result = evaluate(options, quiet=True)
    monkeypatch.setattr(Centroid, "fit", lambda *_: pytest.fail("it is finished"))
    assert evaluate(options, quiet=True) == result
    with pytest.raises(UserError, match="timm:test_vit@none has no mirror"):
        evaluate(replace(options, protocols=("mirror",)), quiet=True)


def test_what_a_row_says_is_asked_of_models_and_options(tmp_path):
    options = EvaluateOptions("run", SCENES, protocols=("centroid", "mirror"))
    with pytest.raises(ValueError, match="--protocol mirror is for models of images, .* give knn, .*, centroid"):
        options.check_model("a run", video=True)
    with pytest.raises(ValueError, match="--confusion draws .* finetune, centroid"):
        replace(options, protocols=("mirror",), confusion=tmp_path / "x.png")


def test_every_protocol_has_the_name_of_its_row():
    assert {name: load(name).name for name in PROTOCOLS} == {name: name for name in PROTOCOLS}
    assert all(bool(load(name).meaning) != row.accuracy for name, row in PROTOCOLS.items())
    assert all(bool(load(name).unit) != row.accuracy for name, row in PROTOCOLS.items())
    assert all(row.labels or row.masks for row in PROTOCOLS.values())
