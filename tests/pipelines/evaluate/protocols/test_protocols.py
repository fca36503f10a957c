"""``evaluate`` by MAE's linear probe and fine-tuning: sources, seeds, fractions and confusion."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy import stats

from pipelines.errors import UserError
from pipelines.evaluate import data
from pipelines.evaluate.data import open_data
from pipelines.evaluate.encoders.encoder import open_encoder
from pipelines.evaluate.features import compute_features
from pipelines.evaluate.protocols import linear
from pipelines.evaluate.results.printed import remarks
from pipelines.evaluate.supervised import plan_batches
from tests.pipelines.evaluate.protocols.judging import ALL, judge, row
from tests.pipelines.evaluate.test_evaluate import COLOURS, invoke, picture, tree
from tests.tiny_mae import nano


def test_every_protocol_says_how_it_came_about(base):
    result = judge(replace(base, untrained=True))
    assert result["protocols"] == list(ALL)
    for found in result["rows"]:
        for protocol in ALL:
            confusion = np.asarray(found[f"{protocol}_confusion"])
            assert confusion.sum() == result["test_images"] == 6
            assert found[protocol] == np.trace(confusion) / 6
            assert found[f"{protocol}_per_class"] == (np.diag(confusion) / confusion.sum(1)).tolist()
            assert [run["seed"] for run in found[f"{protocol}_runs"]] == [0]
    linear_run, finetune_run = (result["rows"][0][f"{name}_runs"][0] for name in ("linear", "finetune"))
    assert str(f"{linear_run['blr']:g}") in linear_run["held_out_accuracy"]
    assert (linear_run["held_out_images"], linear_run["epochs"], linear_run["batch_size"]) == (3, 3, 8)
    assert (finetune_run["epochs"], finetune_run["layer_decay"], finetune_run["batch_size"]) == (2, 0.65, 8)
    assert finetune_run["precision"] == "fp32"


def test_both_trainings_learn_colours(base):
    options = replace(base, linear_epochs=30, finetune_epochs=20, finetune_blr=0.1, protocols=("linear", "finetune"))
    found = row(options)
    assert found["linear"] == 1.0
    assert found["finetune"] >= 5 / 6


def test_the_head_is_chosen_on_training_images_alone(base, monkeypatch):
    """Its accuracy on the held-out part is the best there is, and the held-out part is none of what it learned from."""
    seen = {}
    choose, train = linear._choose, linear.train_epochs
    monkeypatch.setattr(linear, "_choose", lambda *a: seen.setdefault("held", a[3]) and choose(*a))

    def remember(learner, update, views, *arguments, **options):
        seen["fitted"] = views.source
        return train(learner, update, views, *arguments, **options)

    monkeypatch.setattr(linear, "train_epochs", remember)
    run = row(replace(base, protocols=("linear",), linear_epochs=8))["linear_runs"][0]
    held, fitted = (set(keys) for keys in (seen["held"].source.keys.to_pylist(), seen["fitted"].keys.to_pylist()))
    whole, test, _ = open_data(base)
    assert held | fitted == set(whole.source.keys.to_pylist())
    assert not held & fitted
    assert not (held | fitted) & set(test.source.keys.to_pylist())
    shares = run["held_out_accuracy"]
    assert shares[f"{run['blr']:g}"] == max(shares.values())
    lower = [float(rate) for rate, share in shares.items() if share == max(shares.values())]
    assert run["blr"] == min(lower)


def test_a_rate_that_diverges_is_not_chosen_and_one_alone_is_an_error(base):
    options = replace(base, protocols=("linear",), linear_blr=(1.0, 1e35), linear_epochs=6)
    assert row(options)["linear_runs"][0]["blr"] == 1.0
    with pytest.raises(UserError, match=r"diverged.*lower the base learning rate|lower --linear-blr"):
        judge(replace(options, linear_blr=(1e38,)))


def test_one_image_a_class_leaves_none_to_choose_on(base):
    found = row(replace(base, protocols=("linear",), label_fraction=0.01))
    assert found["linear_runs"][0]["held_out_images"] == 0
    assert found["linear_runs"][0]["blr"] > 0


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_a_parquet_table_and_the_built_in_scenes(base, tmp_path, protocol):
    rows = []
    for i in range(24):
        data = io.BytesIO()
        picture(list(COLOURS)[i % 3], i).save(data, "PNG")
        rows.append({"image": {"bytes": data.getvalue(), "path": None}, "label": i % 3, "key": str(i)})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    for source in (str(tmp_path / "data.parquet"), "shapes:40,objects=1,size=32"):
        found = judge(replace(base, source=source, protocols=(protocol,), out=tmp_path / "x.json"))
        assert 0 <= found["rows"][0][protocol] <= 1


@pytest.mark.parametrize("name", ["timm:test_vit@none", "timm:resnet10t@none"])
def test_models_of_timm_are_fine_tuned(base, tmp_path, name):
    found = row(replace(base, run=name, protocols=("finetune",), finetune_epochs=1, out=tmp_path / "timm.json"))
    assert found["encoder"] == name
    assert 0 <= found["finetune"] <= 1


def test_an_image_that_is_not_square(base, tmp_path):
    torch.manual_seed(0)
    nano((16, 32)).save_pretrained(tmp_path / "wide")
    found = row(replace(base, run=str(tmp_path / "wide"), protocols=("linear", "finetune")))
    assert {"linear", "finetune"} < set(found)


def test_the_network_to_train_gives_the_features_of_the_encoder(base):
    encoder = open_encoder(base.run, pool="cls", device="cpu")
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (encoder.mean, encoder.std))
    network = encoder.network(0.0).eval()
    torch.testing.assert_close(network((images / 255 - mean) / std), encoder.features(images), atol=1e-5, rtol=1e-5)
    again = encoder.network(0.0)
    with torch.no_grad():
        next(network.parameters()).add_(1)
    assert not torch.equal(next(network.parameters()), next(again.parameters()))  # a copy each


@pytest.mark.parametrize("name", ["run", "timm:test_vit@none"])
def test_an_encoders_identity_is_of_its_weights(base, name):
    name = base.run if name == "run" else name
    one, again, other = (
        open_encoder(name, pool=pool, device="cpu", untrained=True, seed=seed).identity()
        for pool, seed in (("cls", 0), ("mean", 0), ("cls", 1))
    )
    assert one == again != other


def test_seeds_give_a_mean_and_students_interval(base):
    result = judge(replace(base, seeds="3", protocols=("knn", "linear"), untrained=True, label_fraction=0.3))
    assert result["seeds"] == [0, 1, 2]
    for found in result["rows"]:
        values = [run["accuracy"] for run in found["linear_runs"]]
        assert found["linear"] == pytest.approx(np.mean(values))
        expected = stats.t.ppf(0.975, 2) * stats.sem(values)
        assert found["linear_seed_interval"] == pytest.approx(expected)
        assert np.sum(found["linear_confusion"]) == 3 * result["test_images"]
        share, count = found["linear"], result["test_images"]
        assert found["linear_interval"] == pytest.approx(1.96 * (share * (1 - share) / count) ** 0.5)
    alone = judge(replace(base, seeds="2,1", protocols=("linear",), label_fraction=0.3, fresh=True))
    expected = [run["accuracy"] for run in result["rows"][0]["linear_runs"]]
    assert [run["accuracy"] for run in alone["rows"][0]["linear_runs"]] == expected[:0:-1]


def test_the_test_part_is_the_same_for_every_seed_and_fraction(base, monkeypatch):
    parts = []

    def remember(*arguments):
        train, test, names = open_data(*arguments)
        parts.append((train.identity(), test.identity()))
        return train, test, names

    monkeypatch.setattr(data, "open_data", remember)
    for more in ({}, {"seeds": "5,6"}, {"label_fraction": 0.2}):
        judge(replace(base, protocols=("knn",), **more))
    assert len(parts) == 3
    assert len(set(parts)) == 1


def test_a_fraction_of_the_labels_is_balanced_and_of_the_training_part(base, monkeypatch):
    seen = []
    monkeypatch.setattr(
        data,
        "compute_features",
        lambda encoder, part, **o: seen.append(part) or compute_features(encoder, part, **o),
    )
    result = judge(replace(base, protocols=("knn",), label_fraction=0.1))
    assert result["train_images"] == 3
    test, train = seen
    assert len(test) == 6
    assert sorted(train.labels.tolist()) == [0, 1, 2]
    assert not set(train.source.keys.to_pylist()) & set(test.source.keys.to_pylist())


@pytest.mark.parametrize("protocol", ["linear", "attentive", "finetune"])
def test_workers_change_nothing(base, tmp_path, protocol):
    alone, helped = (
        judge(replace(base, protocols=(protocol,), workers=workers, out=tmp_path / f"{workers}.json"))
        for workers in (0, 2)
    )
    assert alone == helped


def test_unreadable_images_are_recorded_and_labels_stay(base, tmp_path):
    many = tree(tmp_path / "many", count=40)
    (many / "blue" / "03.png").write_bytes(b"no image")
    test = tree(tmp_path / "test", count=3, start=90)
    options = replace(base, source=str(many), test=str(test), linear_epochs=1, finetune_epochs=1)
    result = judge(options)
    assert list(result["unreadable"]) == ["blue/03.png"]
    assert judge(options)["unreadable"] == result["unreadable"]  # from what is kept
    (many / "red" / "04.png").write_bytes(b"")
    for protocol in ("linear", "finetune"):
        with pytest.raises(UserError, match=r"2 of 1\d\d images of .*many can't be read"):
            judge(replace(options, protocols=(protocol,)))


@pytest.mark.parametrize(
    ("images", "asked", "at_a_time", "expected"),
    [
        (1_281_167, None, 256, (256, 64, 78)),  # the paper's 16384
        (2000, None, 256, (62, 1, 32)),
        (100, None, 256, (32, 1, 3)),
        (20, None, 256, (20, 1, 1)),
        (1000, 100, 32, (24, 4, 10)),  # four even parts, and a few images less than asked for
        (1000, 3, 2, (2, 2, 250)),
        (2, 500, 1, (2, 1, 1)),
    ],
)
def test_batches(images, asked, at_a_time, expected):
    plan = plan_batches(images, usual=16384, asked=asked, at_a_time=at_a_time)
    assert (plan.at_a_time, plan.accumulate, plan.steps_per_epoch) == expected
    assert plan.images_per_step * plan.steps_per_epoch <= images
    with pytest.raises(UserError, match="at least two"):
        plan_batches(1, usual=16, asked=None, at_a_time=8)


def test_the_confusion_is_drawn_and_said(base, tmp_path):
    result = judge(replace(base, protocols=("knn", "finetune"), confusion=tmp_path / "deep" / "confusion.png"))
    with Image.open(tmp_path / "deep" / "confusion.png") as drawn:
        assert drawn.width > drawn.height > 200
    result["rows"][0]["finetune_confusion"] = [[2, 0, 0], [3, 1, 0], [0, 0, 2]]
    assert remarks(result) == ["most confused (finetune): green → blue (75%)"]
    result["rows"][0]["finetune_confusion"] = [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
    assert remarks(result) == []


def test_the_file_keeps_lists_of_numbers_on_a_line(base, tmp_path):
    result = judge(replace(base, protocols=("knn",)))
    text = (tmp_path / "run" / "evaluation.json").read_text()
    assert json.loads(text) == result
    assert text.count("\n") < 60
    assert any(line.strip().startswith("[ ") for line in text.splitlines())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_fraction": 0.0}, "--label-fraction is 0"),
        ({"label_fraction": 1.5}, "--label-fraction is 1.5"),
        ({"seeds": "many"}, "--seeds 'many'"),
        ({"seeds": "0"}, "--seeds '0'"),
        ({"seeds": "1,1"}, "--seeds '1,1'"),
        ({"seeds": "1,-2"}, "--seeds '1,-2'"),
        ({"linear_epochs": 0}, "--linear-epochs is 0"),
        ({"linear_blr": (1.0, -1.0)}, "--linear-blr is -1; a base learning rate must be above 0"),
        ({"linear_blr": (1.0, 1.0)}, "same rate twice"),
        ({"linear_batch_size": 1}, "--linear-batch-size is 1"),
        ({"finetune_epochs": 0}, "--finetune-epochs is 0"),
        ({"finetune_blr": float("nan")}, "--finetune-blr is nan; a base learning rate must be above 0"),
        ({"finetune_batch_size": 0}, "--finetune-batch-size is 0"),
        ({"layer_decay": 0.0}, "--layer-decay is 0"),
        ({"drop_path": 1.0}, "--drop-path is 1"),
    ],
)
def test_a_wrong_option_names_itself(base, change, message):
    with pytest.raises(ValueError, match=message):
        replace(base, **change)


def test_the_command(base, tmp_path):
    more = [part for name in ("linear", "finetune") for part in ("--protocol", name)]
    more += ["--linear-epochs", 1, "--finetune-epochs", 1, "--seeds", "2", "--label-fraction", 0.5, "--linear-blr", 1]
    more += ["--linear-blr", 10, "--no-untrained", "--confusion", tmp_path / "c.png", "--workers", 0, "--device", "cpu"]
    result = invoke("evaluate", base.run, base.source, *more)
    assert result.exit_code == 0, result.output
    assert "mean of 2 seeds" in result.stdout
    assert "50 % of the labels" in result.stdout
    assert "untrained" not in result.stdout
    assert re.search(r"linear: base rate 1.*, chosen on 3 held-out training images", result.stdout)
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert set(written["rows"][0]["linear_runs"][0]["held_out_accuracy"]) <= {"1", "10"}
    assert (tmp_path / "c.png").exists()
