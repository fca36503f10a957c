import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

import cli
from mae.evaluation.probes import PENALTIES
from mae.masks.masking import Masking
from mae.pixels import normalise
from mae.splits import hold_out
from mae.training.checkpoints import load_model, save_checkpoint
from mae.training.settings import TrainingSettings
from mae.training.training import Training
from pipelines.errors import UserError
from pipelines.evaluate.data import open_data
from pipelines.evaluate.encoders.encoder import open_encoder
from pipelines.evaluate.evaluate import EvaluateOptions, evaluate
from pipelines.evaluate.features import compute_features
from pipelines.sources.random_access import open_images
from pipelines.views.labelled import open_labelled
from tests.tiny_mae import nano

COLOURS = {"blue": (40, 60, 200), "green": (30, 160, 40), "red": (210, 40, 50)}


def picture(colour, seed):
    noise = np.random.default_rng(seed).normal(0, 25, (24, 24, 3))
    return Image.fromarray(np.clip(np.asarray(COLOURS[colour]) + noise, 0, 255).astype(np.uint8))


def tree(folder, count=10, colours=tuple(COLOURS), start=0):
    """A class tree of noisy pictures of one colour each."""
    for colour in colours:
        (folder / colour).mkdir(parents=True)
        for i in range(count):
            picture(colour, start + i).save(folder / colour / f"{i:02d}.png")
    return folder


def table(folder, labels, seed=0):
    """A table of as many coloured pictures, with these labels; the colours take turns."""
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "label"])
        for i, label in enumerate(labels):
            picture(list(COLOURS)[i % 3], seed + i).save(folder / f"{i:03d}.png")
            writer.writerow([f"{i:03d}.png", label])
    return folder


def save_run(folder, seed=0):
    torch.manual_seed(seed)
    save_checkpoint(folder, Training(nano(16), Masking(), TrainingSettings(), 1))
    return folder


@pytest.fixture
def base(tmp_path):
    run = save_run(tmp_path / "run")
    return EvaluateOptions(str(run), str(tree(tmp_path / "data")), neighbours=3, batch_size=8, workers=0, seed=1)


def test_a_precision_is_recorded_and_has_cells_of_its_own(base):
    asked = replace(base, protocols=("knn",))
    assert "precision" not in judge(asked)
    cells = set(Path(base.run, "evaluation.cells").glob("knn-*"))
    assert judge(replace(asked, precision="bf16"))["precision"] == "bf16"
    both = set(Path(base.run, "evaluation.cells").glob("knn-*"))
    assert (cells < both, len(both)) == (True, 2 * len(cells))
    with pytest.raises(ValueError, match="--precision"):
        replace(asked, precision="fp16")


def judge(options):
    return evaluate(options, quiet=True)


def test_the_table(base, tmp_path):
    result = judge(base)
    assert list(result) == [
        "source", "test", "train_images", "test_images", "classes", "chance", "pool", "protocols", "label_fraction",
        "seeds", "class_names", "unreadable", "leaks", "rows",
    ]  # fmt: skip
    assert (result["train_images"], result["test_images"], result["classes"]) == (24, 6, 3)
    assert result["chance"] == pytest.approx(1 / 3)
    assert [row["encoder"] for row in result["rows"]] == [base.run, "untrained"]
    for row, more in zip(result["rows"], ((), ("_minus_first",)), strict=True):
        kinds = ("", "_interval", "_per_class", "_confusion", "_runs", *more)
        assert set(row) == {"encoder", *(name + kind for name in ("knn", "logistic") for kind in kinds)}
        assert row["knn"] == 1.0  # colours are easy, even for random weights
        assert row["knn_confusion"] == [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
        assert row["logistic_runs"][0]["penalty"] in PENALTIES
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == result
    assert judge(base) == result


def test_one_protocol_and_a_file_of_its_own(base, tmp_path):
    result = judge(replace(base, protocols=("knn",), out=tmp_path / "deep" / "table.json"))
    assert not any(name.startswith("logistic") for name in result["rows"][0])
    assert json.loads((tmp_path / "deep" / "table.json").read_text()) == result
    assert not (tmp_path / "run" / "evaluation.json").exists()


def images(count=4, side=16, seed=0):
    return torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_features_are_deterministic_and_pooled_as_asked(tmp_path):
    run = str(save_run(tmp_path / "run"))
    mean, cls = (open_encoder(run, pool=pool, device="cpu") for pool in ("mean", "cls"))
    torch.rand(5)
    assert torch.equal(mean.features(images()), mean.features(images()))
    with torch.no_grad():
        tokens = load_model(Path(run)).encode(normalise(images()))
    torch.testing.assert_close(mean.features(images()), tokens[:, 1:].mean(1))
    torch.testing.assert_close(cls.features(images()), tokens[:, 0])
    assert (mean.name, mean.size) == (run, (16, 16))
    # what else is in the batch does not matter
    torch.testing.assert_close(mean.features(images()[:1]), mean.features(images())[:1])


@pytest.mark.parametrize("name", ["{run}", "{run}@keep=0.5,center", "timm:test_vit@none"])
def test_features_in_bf16_are_another_encoders(name, tmp_path):
    name = name.format(run=save_run(tmp_path / "run"))
    opened = {kind: open_encoder(name, pool="mean", device="cpu", precision=kind) for kind in ("auto", "fp32", "bf16")}
    plain, half = opened["fp32"], opened["bf16"]
    pictures = torch.randint(0, 256, (2, 3, *plain.size), dtype=torch.uint8)
    assert torch.equal(opened["auto"].features(pictures), plain.features(pictures))  # a CPU's auto
    assert opened["auto"].identity() == plain.identity()  # so cells of before are found
    assert half.identity() != plain.identity()
    for of in ("features", "patches"):
        if getattr(plain, of):
            exact, rounded = getattr(plain, of)(pictures), getattr(half, of)(pictures)
            assert rounded.dtype == torch.float32
            assert not torch.equal(rounded, exact)
            assert torch.cosine_similarity(rounded.flatten(1), exact.flatten(1)).min() > 0.995


def test_the_untrained_encoder_is_of_the_same_kind_and_follows_from_the_seed(tmp_path):
    run = str(save_run(tmp_path / "run", seed=5))
    trained = open_encoder(run, pool="mean", device="cpu")
    first, again, other = (
        open_encoder(run, pool="mean", device="cpu", untrained=True, seed=seed).features(images()) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == trained.features(images()).shape
    torch.manual_seed(5)
    fresh = open_encoder(run, pool="mean", device="cpu", untrained=True, seed=5)
    assert torch.equal(fresh.features(images()), trained.features(images()))  # this run was saved before any step


def test_others_beside_it(base, tmp_path):
    other = str(save_run(tmp_path / "other", seed=3))
    result = judge(replace(base, beside=(other, "timm:resnet10t@none")))
    assert [row["encoder"] for row in result["rows"]] == [base.run, other, "timm:resnet10t@none", "untrained"]


@pytest.mark.parametrize("kind", ["safetensors", "pth", "wrapped"])
def test_timm_weights_from_a_file(tmp_path, kind):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=7).eval()
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        safetensors.torch.save_file(model.state_dict(), path)
    else:
        torch.save({"state_dict": model.state_dict()} if kind == "wrapped" else model.state_dict(), path)
    encoder = open_encoder(f"timm:test_vit@{path}", pool="mean", device="cpu", seed=9)
    config = timm.data.resolve_model_data_config(model)
    assert encoder.size == tuple(config["input_size"][1:])
    pictures = images(side=encoder.size[0])
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = model.forward_head(model.forward_features((pictures / 255 - mean) / std), pre_logits=True)
    torch.testing.assert_close(encoder.features(pictures), expected)
    assert torch.equal(encoder.features(pictures), encoder.features(pictures))
    bare = open_encoder("test_vit@none", pool="mean", device="cpu", seed=9)
    assert not torch.allclose(bare.features(pictures), expected)


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:test_vit@{folder}/absent.pth", "absent.pth is not a file of weights"),
        ("timm:test_vit@{folder}/resnet.pth", "does not fit the model: .* weights are missing"),
        ("timm:test_vit@{folder}/more.pth", "does not fit the model: it holds extra"),
        ("timm:test_vit@{folder}/torn.pth", "weights of test_vit can't be had here"),
        ("timm:test_vit@{folder}/evil.pth", "weights of test_vit can't be had here"),
        ("timm:vit_tiny_patch16_224", "weights of vit_tiny_patch16_224 can't be had here.*@FILE, or @none"),
        ("timm:vit_of_mine", "timm:vit_of_mine is neither a run folder nor a timm model"),
        ("runs/lost", "runs/lost is neither a run folder nor a timm model"),
        ("{folder}", "holds no checkpoint"),
    ],
)
def test_an_encoder_that_is_not_there_is_one_line(tmp_path, name, message, capsys):
    torch.save(timm.create_model("resnet10t", num_classes=0).state_dict(), tmp_path / "resnet.pth")
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    torch.save(state | {"extra": torch.zeros(1)}, tmp_path / "more.pth")
    (tmp_path / "torn.pth").write_bytes(b"PK")
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=message) as caught:
        open_encoder(name.format(folder=tmp_path), pool="mean", device="cpu")
    assert "\n" not in str(caught.value)
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "labels", [["blue", "green", "red"], [0, 1, 2], [7, 30, 1000]], ids=["names", "numbers", "gaps"]
)
def test_labels_of_any_kind(base, tmp_path, labels):
    result = judge(replace(base, source=str(table(tmp_path / "table", labels * 10))))
    assert (result["classes"], result["train_images"], result["test_images"]) == (3, 24, 6)
    assert result["rows"][0]["knn"] == 1.0


def test_a_test_source_with_its_classes_in_another_order(base, tmp_path):
    labels = ["red", "blue", "green"]  # what was named blue in training is named red here, and so on
    wrong = table(tmp_path / "wrong", labels * 4, seed=100)
    right = table(tmp_path / "right", ["blue", "green", "red"] * 4, seed=100)
    part = tree(tmp_path / "part", colours=("green", "red"), start=100)  # its class 0 is the training source's class 1
    scores = [judge(replace(base, test=str(test)))["rows"][0] for test in (wrong, right, part)]
    assert [(row["knn"], row["logistic"]) for row in scores] == [(0, 0), (1, 1), (1, 1)]
    result = judge(replace(base, test=str(part), test_limit=4))
    assert (result["train_images"], result["test_images"], result["chance"]) == (30, 4, 1.0)


def test_a_class_without_training_images(base, tmp_path):
    test = tree(tmp_path / "test", count=2)
    few = tree(tmp_path / "few", colours=("blue", "green"))
    with pytest.raises(UserError, match="has classes without a training image, first: red"):
        judge(replace(base, source=str(few), test=str(test)))
    with pytest.raises(UserError, match="first: red"):  # named by the training source, yet cut off
        judge(replace(base, limit=20, test=str(test)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: tree(folder, colours=("blue",)) / "blue", "has no labels: evaluate needs a class per image"),
        (lambda folder: table(folder, ["blue"] * 5), "all images are of one class, blue"),
        (lambda folder: tree(folder, count=1), "3 training and 0 test images; both are needed"),
        (lambda folder: folder / "nowhere", "nowhere does not exist"),
    ],
)
def test_a_source_that_cannot_be_judged_on(base, tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        judge(replace(base, source=str(make(tmp_path / "odd"))))


def test_rows_without_a_label_are_left_out(base, tmp_path):
    result = judge(replace(base, source=str(table(tmp_path / "table", ["blue", "green", "red"] * 5 + [""] * 3))))
    assert result["train_images"] + result["test_images"] == 15


def test_the_held_out_part_is_of_every_class_disjoint_and_seeded():
    labels = np.repeat([0, 1, 2, 3, 4], [10, 40, 3, 2, 1])
    held = hold_out(labels, 0.2, seed=0)
    assert [int(held[labels == label].sum()) for label in range(5)] == [2, 8, 1, 1, 0]
    np.testing.assert_array_equal(hold_out(labels, 0.2, seed=0), held)
    assert (hold_out(labels, 0.2, seed=1) != held).any()
    assert [int(hold_out(labels, 0.99, 0)[labels == label].sum()) for label in range(5)] == [9, 39, 2, 1, 0]


def test_training_and_test_share_no_image(base):
    train, test, names = open_data(base)
    assert not set(train.source.keys.to_pylist()) & set(test.source.keys.to_pylist())
    assert len(train.source) + len(test.source) == 30
    assert names == list(COLOURS)
    for part in (train, test):
        assert [names[label] for label in part.labels] == [key.split("/")[0] for key in part.source.keys.to_pylist()]


def test_a_split_is_the_training_sources(base, tmp_path):
    tree(tmp_path / "splits" / "train")
    tree(tmp_path / "splits" / "test", count=2, start=50)
    result = judge(
        replace(base, source=str(tmp_path / "splits"), split="train", test=str(tmp_path / "splits" / "test"))
    )
    assert (result["train_images"], result["test_images"]) == (30, 6)


def test_one_unreadable_image_in_a_hundred_is_passed_over(base, tmp_path):
    many = tree(tmp_path / "many", count=40)
    test = tree(tmp_path / "test", count=3, start=90)
    options = replace(base, source=str(many), test=str(test), protocols=("knn",))
    (many / "red" / "05.png").write_bytes(b"no image")
    assert judge(options)["rows"][0]["knn"] == 1.0
    (many / "blue" / "06.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 120 images of .*many can't be read"):
        judge(options)


def test_labels_stay_with_their_images_when_one_is_unreadable(base, tmp_path):
    many = tree(tmp_path / "many", count=40)
    (many / "blue" / "00.png").write_bytes(b"no image")
    whole, _ = open_labelled(open_images(replace(base, source=str(many))))
    encoder = open_encoder(base.run, pool="mean", device="cpu")
    found = compute_features(encoder, whole, batch_size=7, workers=0, quiet=True)
    features, labels = found.values, found.labels
    assert list(found.unreadable) == ["blue/00.png"]
    assert len(features) == len(labels) == 119
    assert labels.tolist() == [0] * 39 + [1] * 40 + [2] * 40


def test_a_diverged_encoder_is_not_judged(base, tmp_path):
    torch.manual_seed(0)
    model = nano(16)
    with torch.no_grad():
        model.norm.bias[0] = float("nan")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="features that are infinite or NaN"):
        judge(replace(base, run=str(tmp_path / "model")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"protocols": ("knn", "finetuned")},
            "--protocol 'finetuned' is not one of: knn, logistic, linear, attentive, finetune",
        ),
        ({"test_fraction": 1.0}, "--test-fraction is 1"),
        ({"neighbours": 0}, "--neighbours"),
        ({"temperature": 0.0}, "--temperature above 0"),
    ],
)
def test_a_wrong_option_names_itself(base, change, message):
    with pytest.raises(ValueError, match=message):
        replace(base, **change)


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_the_command(base):
    result = invoke("evaluate", base.run, base.source, "--neighbours", 3, "--workers", 0, "--device", "cpu")
    assert result.exit_code == 0
    assert "6 test images, 3 classes, largest class 33.3%" in result.stdout
    assert "untrained" in result.stdout
    assert "Loading weights" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--protocol", "best"), "--protocol 'best'"),
        (("--pool", "max"), "--pool 'max' is not one of: mean, cls"),
        (("--beside", "runs/lost"), "runs/lost is neither"),
        (("--test", "nowhere"), "nowhere does not exist"),
        (("--test-fraction", "2"), "--test-fraction is 2"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(base, arguments, message):
    result = invoke("evaluate", base.run, base.source, "--workers", 0, "--device", "cpu", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
