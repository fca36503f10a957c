"""Exports, opened by the libraries they are for, and by us again."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import cli
from mae.formats.foreign import build, foreign_kind, load_foreign
from mae.formats.interchange import encoder_weights, from_timm
from mae.masks.masking import mask_from_priorities
from mae.models.vit import MaskedAutoencoder
from pipelines.errors import UserError
from pipelines.evaluate.encoders.encoder import open_encoder
from pipelines.export.export import export, open_weights
from tests.tiny_mae import nano

WRITTEN = Path(__file__).parents[2] / "data" / "written_before" / "salient"


def random_model(image_size=32, **options):
    torch.manual_seed(0)
    model = nano(image_size, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def saved(tmp_path):
    """A saved model's folder, and the model."""
    model = random_model()
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["mae", "timm", "transformers"])
def test_what_is_exported_and_opened_again_is_equal_to_the_bit(saved, tmp_path, kind):
    folder, model = saved
    export(folder, kind, tmp_path / "out")
    weights = load_foreign(tmp_path / "out" / "checkpoint.pth" if kind == "mae" else tmp_path / "out")
    state = model.state_dict()
    assert equal(weights.state, encoder_weights(state) if kind == "timm" else state)
    assert weights.has_decoder == (kind != "timm")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(build(weights, fresh_decoder=True).encode(images), model.encode(images))


@pytest.mark.parametrize("first", ["mae", "timm", "transformers"])
@pytest.mark.parametrize("second", ["mae", "timm", "transformers"])
def test_every_format_becomes_every_other(saved, tmp_path, first, second):
    folder, model = saved
    export(folder, first, tmp_path / "first")
    place = tmp_path / "first" / "checkpoint.pth" if first == "mae" else tmp_path / "first"
    export(place, second, tmp_path / "second")
    place = tmp_path / "second" / "checkpoint.pth" if second == "mae" else tmp_path / "second"
    state = open_weights(place).state
    whole = "timm" not in (first, second)
    assert equal(state, model.state_dict() if whole else encoder_weights(model.state_dict()))


def test_the_reference_finds_its_names_under_model(saved, tmp_path):
    folder, model = saved
    export(folder, "mae", tmp_path / "out")
    checkpoint = torch.load(tmp_path / "out" / "checkpoint.pth", weights_only=True)
    assert equal(checkpoint["model"], model.state_dict())


@pytest.mark.parametrize("size", [32, (32, 16), (8, 24)])
@pytest.mark.parametrize("options", [{}, {"mlp_ratio": 2.0}, {"channels": 1}, {"class_tokens": 3}])
def test_timm_computes_the_same(tmp_path, size, options):
    model = random_model(size, **options)
    model.save_pretrained(tmp_path / "model")
    line = export(tmp_path / "model", "timm", tmp_path / "out")
    theirs = eval(line, {"timm": timm})
    from_folder = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    images = torch.randn(2, model.channels, *model.image_size)
    with torch.no_grad():
        expected = model.encode(images)
        for other in (theirs.eval(), from_folder.eval()):
            assert equal(from_timm(other.state_dict()), encoder_weights(model.state_dict()))
            torch.testing.assert_close(other.forward_features(images), expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(other(images), expected[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"mlp_ratio": 2.0}, {"norm_pix": False}, {"channels": 1}])
def test_transformers_compute_the_same(tmp_path, options):
    transformers = pytest.importorskip("transformers")
    model = random_model(**options)
    model.save_pretrained(tmp_path / "model")
    line = export(tmp_path / "model", "transformers", tmp_path / "out")
    images = torch.randn(2, model.channels, 32, 32)
    whole = eval(line, {"transformers": transformers}).eval()
    encoder, told = transformers.ViTModel.from_pretrained(
        tmp_path / "out", add_pooling_layer=False, output_loading_info=True
    )
    assert not told["missing_keys"]
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(images).last_hidden_state, model.encode(images), rtol=0, atol=1e-5)
        noise = torch.rand(2, 16)
        theirs = whole(images, noise=noise)
        ours = model.predict(images, mask_from_priorities(noise, 0.75))
    torch.testing.assert_close(theirs.logits, ours.prediction, rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs.loss, ours.loss, rtol=0, atol=1e-5)
    whole.save_pretrained(tmp_path / "again")
    assert equal(load_foreign(tmp_path / "again").state, model.state_dict())


def test_an_encoder_of_transformers_opens_without_its_decoder(saved, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder, model = saved
    export(folder, "transformers", tmp_path / "out")
    transformers.ViTMAEModel.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "encoder")
    weights = load_foreign(tmp_path / "encoder")
    assert equal(weights.state, encoder_weights(model.state_dict()))
    with pytest.raises(ValueError, match="a decoder is needed"):
        build(weights)


@pytest.mark.parametrize("safe", [True, False])
def test_weights_in_several_files_open(saved, tmp_path, safe):
    folder, model = saved
    export(folder, "transformers", tmp_path / "out")
    whole = load_file(tmp_path / "out" / "model.safetensors")
    name, ending = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    places = {key: f"{name}-{1 + number % 3:05d}-of-00003.{ending}" for number, key in enumerate(sorted(whole))}
    for file in set(places.values()):
        part = {key: whole[key] for key in places if places[key] == file}
        save_file(part, tmp_path / "out" / file) if safe else torch.save(part, tmp_path / "out" / file)
    (tmp_path / "out" / "model.safetensors").unlink()
    index = tmp_path / "out" / f"{name}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert equal(build(load_foreign(tmp_path / "out")).state_dict(), model.state_dict())

    index.write_text(json.dumps({"weight_map": places | {"lost": sorted(places.values())[0]}}))
    with pytest.raises(ValueError, match="promises lost, which is not in"):
        load_foreign(tmp_path / "out")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(places, "../model.safetensors")}))
    with pytest.raises(ValueError, match="outside of the folder"):
        load_foreign(tmp_path / "out")


def test_the_references_own_checkpoint_with_its_options_opens(tmp_path):
    with torch.device("meta"):
        model = MaskedAutoencoder.from_size("tiny", 32)
    state = {name: torch.zeros(weight.shape) for name, weight in model.state_dict().items()}
    options = argparse.Namespace(model="mae_vit_tiny", lr=1e-3)
    torch.save({"model": state, "epoch": 3, "args": options, "scaler": {}}, tmp_path / "checkpoint-3.pth")
    weights = load_foreign(tmp_path / "checkpoint-3.pth")
    assert weights.config == model._hub_mixin_config
    assert equal(weights.state, state)


@pytest.mark.parametrize("kind", ["mae", "timm", "transformers"])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_an_exported_encoder_has_the_runs_features(saved, tmp_path, kind, pool):
    folder, _ = saved
    export(folder, kind, tmp_path / "out")
    name = f"mae:{tmp_path}/out/checkpoint.pth" if kind == "mae" else str(tmp_path / "out")
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    encoder = open_encoder(name, pool=pool, device="cpu")
    assert encoder.size == (32, 32)
    expected = open_encoder(str(folder), pool=pool, device="cpu").features(images)
    assert torch.equal(encoder.features(images), expected)
    untrained = open_encoder(name, pool=pool, device="cpu", untrained=True).features(images)
    assert untrained.shape == expected.shape
    assert not torch.equal(untrained, expected)


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


def pickled(content):
    return lambda path: torch.save(content, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "can't be read"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), "can't be read"),
        (pickled({"model": Evil()}), "can't be read"),
        (pickled([1]), "can't be used: the file holds no weights by name"),
        (pickled({"model": {"fc.weight": torch.zeros(2)}}), "can't be used: cls_token is missing"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(tmp_path, capsys, write, message):
    path = tmp_path / "checkpoint.pth"
    write(path)
    with pytest.raises(ValueError, match=message) as caught:
        load_foreign(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "unpickled" not in capsys.readouterr().out
    with pytest.raises(UserError, match=message):
        open_encoder(str(path), pool="cls", device="cpu")


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("kind", ["timm", "transformers"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: cut(f / "model.safetensors"), "can't be read"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors nor pytorch_model.bin"),
        (
            lambda f: (f / "config.json").write_text(json.dumps({"model_type": "bert", "architecture": "resnet50"})),
            "of a 'bert'",
        ),
        (lambda f: (f / "config.json").write_text(json.dumps({"architecture": "resnet50"})), "of a resnet50"),
    ],
)
def test_a_damaged_folder_is_one_line(saved, tmp_path, kind, damage, message):
    export(saved[0], kind, tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(UserError, match=message):
        open_encoder(str(tmp_path / "out"), pool="cls", device="cpu")


def test_weights_that_do_not_fit_their_configuration(saved, tmp_path):
    weights = open_weights(saved[0])
    for change in ({"width": 32}, {"depth": 2}, {"image_size": 16}, {"nonsense": 1}):
        for state in (weights.state, encoder_weights(weights.state)):
            with pytest.raises(ValueError, match="the weights do not fit their model"):
                build(weights._replace(state=state, config=weights.config | change), fresh_decoder=True)


def test_weights_of_another_shape_are_not_exported(saved, tmp_path):
    export(saved[0], "mae", tmp_path / "first")
    checkpoint = torch.load(tmp_path / "first" / "checkpoint.pth", weights_only=True)
    checkpoint["model"]["norm.weight"] = torch.zeros(3)
    torch.save(checkpoint, tmp_path / "damaged.pth")
    with pytest.raises(UserError, match=r"do not fit their model.*norm\.weight"):
        export(tmp_path / "damaged.pth", "timm", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_our_own_folders_are_not_anothers(saved, tmp_path):
    assert foreign_kind(saved[0]) is None
    assert foreign_kind(tmp_path) is None
    assert foreign_kind(tmp_path / "nothing") is None


@pytest.mark.parametrize("strategy", ["salient", "random"])
def test_the_card_tells_the_run_and_no_paths(saved, tmp_path, strategy):
    folder, model = saved
    run = tmp_path / "secret" / "run"
    (run / "checkpoints").mkdir(parents=True)
    folder.rename(run / "checkpoints" / "step-00000007")
    config = json.loads((WRITTEN / "config.json").read_text()) | {"images": 12, "steps": 9}
    config["options"] |= {"source": "/home/someone/photos", "saliency": "/data/someone/maps"}
    masking = {"strategy": strategy, "mask_ratio": 0.75, "salient_ratio": 0.5}
    (run / "config.json").write_text(json.dumps(config | {"masking": masking}))
    (run / "metrics.jsonl").write_text('{"step": 7, "loss": 0.5, "epoch": 2}\n')
    rows = [{"encoder": str(run), "knn": 0.9, "knn_interval": 0.01}]
    facts = {"pool": "cls", "source": "/x/y", "train_images": 8, "test_images": 4, "classes": 2, "chance": 0.5}
    (run / "evaluation.json").write_text(json.dumps(facts | {"rows": rows}))
    export(run, "timm", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    for text in (
        "photos (12 images)",
        f"| masking | {strategy} |",
        "| steps | 7 of 9 |",
        "0.5000",
        "| run | 90.0 ± 1.0 |",
    ):
        assert text in card
    assert "someone" not in card
    assert ("| salient_ratio | 0.5 |" in card) == (strategy == "salient"), "random masks know no salient ratio"
    assert str(tmp_path) not in card
    assert card.startswith("---\nlibrary_name: timm\n")
    assert equal(load_file(tmp_path / "out" / "model.safetensors"), encoder_weights(model.state_dict()))


def test_the_hubs_folder_tells_the_run_and_opens_again(saved, tmp_path):
    folder, model = saved
    facts = "\n".join(["## Results", "", "| encoder | knn |"])
    model.save_pretrained(tmp_path / "hub", model_card_kwargs={"place": "someone/model", "facts": facts})
    card = (tmp_path / "hub" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: saliency-mae\n")
    assert 'from_pretrained("someone/model")' in card
    assert facts in card
    assert "{{" not in card + (folder / "README.md").read_text()
    assert equal(MaskedAutoencoder.from_pretrained(tmp_path / "hub").state_dict(), model.state_dict())


def test_a_head_alone_is_not_a_model(tmp_path):
    torch.save({"head.weight": torch.zeros(5, 192)}, tmp_path / "head.pth")
    with pytest.raises(UserError, match="weights are missing"):
        open_encoder(f"timm:vit_tiny_patch16_224@{tmp_path}/head.pth", pool="cls", device="cpu")


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_fine_tuned_model_that_pools_first_has_timms_features(tmp_path, wrapped):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", global_pool="avg", num_classes=5).eval()
    state = model.state_dict()
    assert "fc_norm.weight" in state
    torch.save({"model": state} if wrapped else state, tmp_path / "tuned.pth")
    encoder = open_encoder(f"timm:vit_tiny_patch16_224@{tmp_path}/tuned.pth", pool="cls", device="cpu")
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    model.reset_classifier(0)
    with torch.no_grad():
        expected = model((images.float() / 255 - 0.5) / 0.5)
    torch.testing.assert_close(encoder.features(images), expected, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=r"\(fc_norm\).* timm:NAME@FILE"):
        open_encoder(str(tmp_path / "tuned.pth"), pool="cls", device="cpu")


def test_a_bare_file_of_weights_opens(tmp_path):
    with torch.device("meta"):
        model = MaskedAutoencoder.from_size("tiny", 32)
    state = {name: torch.randn(weight.shape) for name, weight in encoder_weights(model.state_dict()).items()}
    save_file(state, tmp_path / "model.safetensors")
    assert equal(load_foreign(tmp_path / "model.safetensors").state, state)
    assert open_encoder(str(tmp_path / "model.safetensors"), pool="cls", device="cpu").size == (32, 32)


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_the_command(saved, tmp_path):
    result = invoke("export", saved[0], "--to", "transformers", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "ViTMAEForPreTraining.from_pretrained" in result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.mark.parametrize(
    ("place", "kind", "out", "message"),
    [
        ("model", "jax", "out", "--to 'jax' is not one of: mae, timm, transformers"),
        ("model", "mae", "model", "is not an empty folder"),
        ("nothing", "mae", "out", "does not exist"),
        ("empty", "mae", "out", "holds no checkpoint"),
    ],
)
def test_a_mistake_is_one_line(saved, tmp_path, place, kind, out, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        export(tmp_path / place, kind, tmp_path / out)
    assert not (tmp_path / "out").exists()


def test_several_class_tokens_go_to_timm_and_back_and_nowhere_else(tmp_path):
    random_model(class_tokens=3).save_pretrained(tmp_path / "model")
    export(tmp_path / "model", "timm", tmp_path / "timm")
    assert load_foreign(tmp_path / "timm").config["class_tokens"] == 3
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    ours, theirs = (open_encoder(str(tmp_path / name), pool="cls", device="cpu") for name in ("model", "timm"))
    assert torch.equal(ours.features(images), theirs.features(images))
    assert torch.equal(ours.patches(images), theirs.patches(images))
    for kind in ("mae", "transformers"):
        with pytest.raises(UserError, match=f"--to {kind} has one class token, and this model has 3; --to timm takes"):
            export(tmp_path / "model", kind, tmp_path / kind)


def test_images_that_are_not_square_stay_out_of_transformers(tmp_path):
    random_model((32, 16)).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="square images only"):
        export(tmp_path / "model", "transformers", tmp_path / "out")
