"""A model at hand encodes and fills in as the commands do."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import cli
import saliency_mae as sm
from mae.mask_learners import GATE_FILE
from mae.mask_learners.gate import Gate, save_gate
from mae.models.vit import MaskedAutoencoder
from mae.pixels import normalise
from mae.training.checkpoints import load_model
from pipelines.export.export import export
from pipelines.views.geometry import View, central_box, view_image
from tests.hub_server import LoopbackHub
from tests.pipelines.publish.test_push_model import python
from tests.tiny_mae import nano

BOX = (0.25, 0.25, 0.5, 0.75)


def invoke(*words):
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``saved``, a model of 32 px with a gate, and two pictures of another shape."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model = nano().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "saved")
    save_gate(Gate(16), folder / "saved" / GATE_FILE)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3)).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def model(folder):
    return sm.load(folder / "saved", device="cpu")


def test_features_are_those_that_encode_writes(folder, model, tmp_path):
    for name in ("a", "b"):
        shutil.copy(folder / f"{name}.png", tmp_path)
    invoke("encode", folder / "saved", tmp_path, "--out", folder / "features.parquet", "--device", "cpu")
    written = np.stack(pq.read_table(folder / "features.parquet")["feature"].to_pylist()).astype(np.float32)
    assert np.array_equal(np.stack([model.encode(folder / f"{name}.png").numpy() for name in ("a", "b")]), written)
    together = model.encode([folder / "a.png", folder / "b.png"])
    assert together.shape == (2, 16)
    assert np.allclose(together.numpy(), written, atol=1e-5)


def test_pictures_go_through_the_transform(folder, model):
    image = Image.open(folder / "a.png")
    view = view_image(image, View(central_box(60, 40, 1)), (32, 32))
    expected = normalise(torch.from_numpy(view)[None])
    assert torch.equal(model.transform(folder / "a.png"), expected[0])
    array = np.asarray(image)
    for form in (image, array, torch.from_numpy(array.copy()).permute(2, 0, 1) / 255):
        assert torch.equal(model.transform(form), expected[0])
        assert torch.equal(model.encode(form), model.encode(folder / "a.png"))
    assert torch.equal(model.encode(array[None]), model.encode([array]))
    network = load_model(folder / "saved")
    with torch.no_grad():
        assert torch.equal(model.encode(array, pool="cls"), network.features(expected, "cls")[0])
        assert torch.equal(model.encode(array), network.features(expected)[0])
    with pytest.raises(sm.UserError, match="pool 'max' is not one of: mean, cls"):
        model.encode(array, pool="max")
    with pytest.raises(sm.UserError, match="no pictures"):
        model.encode([])


def test_batches_do_not_matter(folder, model):
    pictures = [folder / "a.png", folder / "b.png"] * 3
    assert torch.allclose(model.encode(pictures, batch_size=2), model.encode(pictures), atol=1e-5)


@pytest.mark.parametrize("blend", [True, False])
def test_pictures_are_filled_in_as_reconstruct_does_it(folder, model, tmp_path, blend):
    flags = [] if blend else ["--no-blend"]
    words = ["reconstruct", folder / "saved", folder / "a.png", "--out", tmp_path / "out", "--device", "cpu", *flags]
    invoke(*words, "--box", "0.25,0.25,0.5,0.75")
    expected = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    for hidden in (BOX, [BOX], np.array(BOX)):
        assert np.array_equal(np.asarray(model.reconstruct(folder / "a.png", hidden, blend=blend)), expected)
    mask = np.zeros((40, 60), bool)
    mask[10:30, 15:30] = True
    for hidden in (mask, torch.from_numpy(mask)):
        assert np.array_equal(np.asarray(model.reconstruct(folder / "a.png", hidden, blend=blend)), expected)
    given = np.asarray(Image.open(folder / "a.png"))
    assert np.array_equal(expected[~mask], given[~mask])
    assert (expected[mask] != given[mask]).any()


def test_several_boxes_and_the_gate(folder, model, tmp_path):
    words = ["reconstruct", folder / "saved", folder / "a.png", "--device", "cpu"]
    invoke(*words, "--box", "0,0,0.25,0.25", "--box", "0.5,0.5,1,1", "--out", tmp_path / "boxes")
    two = model.reconstruct(folder / "a.png", [(0, 0, 0.25, 0.25), (0.5, 0.5, 1, 1)])
    assert np.array_equal(np.asarray(two), np.asarray(Image.open(tmp_path / "boxes" / "a.png")))
    invoke(*words, "--gate", "--out", tmp_path / "gate")
    by_gate = model.reconstruct(folder / "a.png", "gate")
    assert np.array_equal(np.asarray(by_gate), np.asarray(Image.open(tmp_path / "gate" / "a.png")))


@pytest.mark.parametrize(
    ("hidden", "line"),
    [
        (np.zeros((60, 40), bool), r"hidden has the shape \[60, 40\], and the picture \[40, 60\]"),
        (np.zeros((40, 60), np.uint8), "hidden is a bool array"),
        ((0.5, 0.5, 0.2, 0.9), "--box 0.5,0.5,0.2,0.9: give x0,y0,x1,y1 in fractions"),
        ((10, 10, 20, 20), "--box 10.0,10.0,20.0,20.0: give x0,y0,x1,y1 in fractions"),
        ("face", "hidden='face': give a bool array, boxes, or 'gate'"),
        ([], "hidden is a bool array"),
    ],
)
def test_regions_that_do_not_fit(folder, model, hidden, line):
    with pytest.raises(sm.UserError, match=line):
        model.reconstruct(folder / "a.png", hidden)


def test_a_model_without_a_gate_says_so(folder, tmp_path):
    load_model(folder / "saved").save_pretrained(tmp_path / "plain")
    with pytest.raises(sm.UserError, match="has no gate"):
        sm.load(tmp_path / "plain").reconstruct(folder / "a.png", "gate")


def test_what_the_commands_open_opens(folder, model, tmp_path):
    expected = model.encode(folder / "a.png")
    filled = np.asarray(model.reconstruct(folder / "a.png", BOX))
    for kind in ("mae", "transformers", "timm"):
        export(folder / "saved", kind, tmp_path / kind)
    for place in (tmp_path / "mae" / "checkpoint.pth", tmp_path / "transformers", tmp_path / "timm"):
        opened = sm.load(place)
        assert torch.allclose(opened.encode(folder / "a.png"), expected, atol=1e-6), place
        if place.name != "timm":
            opened.network.norm_pix = model.network.norm_pix
            assert np.array_equal(np.asarray(opened.reconstruct(folder / "a.png", BOX)), filled)
    encoder = sm.load(tmp_path / "timm")
    with pytest.raises(sm.UserError, match="timm is an encoder alone"):
        encoder.reconstruct(folder / "a.png", BOX)
    assert repr(encoder).endswith("32×32 pixels, 0.0 M parameters, on cpu)")


def test_a_run_and_its_best_checkpoint(tmp_path, folder, model):
    for step, name in ((1, "step-00000001"), (2, "step-00000002"), (0, "best")):
        torch.manual_seed(step)
        nano().save_pretrained(tmp_path / "run" / "checkpoints" / name)
    newest, best = sm.load(tmp_path / "run"), sm.load(tmp_path / "run" / "checkpoints" / "best")
    for opened, name in ((newest, "step-00000002"), (best, "best")):
        weights = load_model(tmp_path / "run" / "checkpoints" / name).state_dict()
        assert all(weight.equal(weights[key]) for key, weight in opened.network.state_dict().items())
        assert not opened.network.training


def test_what_is_no_model_is_one_line(tmp_path):
    with pytest.raises(sm.UserError, match="nothing does not exist; give a run folder"):
        sm.load(tmp_path / "nothing")
    with pytest.raises(sm.UserError, match="holds no checkpoint"):
        sm.load(tmp_path)
    with pytest.raises(sm.UserError, match="there is no folder me/model, and the Hub model of this name is not whole"):
        sm.load("me/model")


def test_a_video_model_encodes_clips(models):
    model = sm.load(models / "video")
    clip = torch.randint(0, 255, (3, 8, 16, 24), dtype=torch.uint8)
    network = load_model(models / "video")
    with torch.no_grad():
        expected = network.features(normalise(clip[None]))[0]
    assert torch.equal(model.encode(clip), expected)
    assert torch.equal(model.encode(clip[None])[0], expected)
    frames = [frame.permute(1, 2, 0).numpy() for frame in clip.movedim(1, 0)]
    assert torch.equal(model.encode(frames), expected)
    with pytest.raises(sm.UserError, match="a clip has 8 frames, not 1"):
        model.encode(frames[:1])
    with pytest.raises(sm.UserError, match="is a model of video"):
        model.reconstruct(frames[0], BOX)


@pytest.mark.parametrize("kind", ["ours", "transformers", "pickled"])
def test_a_model_of_the_hub(folder, model, tmp_path, kind):
    place = folder / "saved"
    if kind != "ours":
        export(folder / "saved", "transformers", tmp_path / "exported")
        place = tmp_path / "exported"
    files = {path.name: path.read_bytes() for path in place.iterdir()}
    if kind == "pickled":
        from safetensors.torch import load as read

        torch.save(read(files.pop("model.safetensors")), tmp_path / "weights.bin")
        files["pytorch_model.bin"] = (tmp_path / "weights.bin").read_bytes()
    code = 'import sys, torch, saliency_mae as sm; torch.save(sm.load("me/model").encode(sys.argv[1]), sys.argv[2])'
    with LoopbackHub() as hub:
        hub.create("me/model", files)
        python(code, folder / "a.png", tmp_path / "features.pt", hub=hub, home=tmp_path)
    found = torch.load(tmp_path / "features.pt", weights_only=True)
    assert torch.allclose(found, model.encode(folder / "a.png"), atol=1e-6)


def test_the_network_is_the_real_one(model):
    assert isinstance(model.network, MaskedAutoencoder)
    assert model.image_size == (32, 32)
    assert model.device.type == "cpu"
