"""Files for ONNX Runtime against the models they come from, and judged by evaluate."""

import copy
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import cli
from mae.evaluation.kept_encoder import KeptEncoder
from mae.mask_learners.gate import Gate, load_gate, save_gate
from mae.on_device import kept_speed
from mae.on_device.conversion import exports_here
from mae.on_device.graph import DeviceEncoder
from mae.on_device.session import DeviceModel
from mae.pixels import normalise
from mae.training.checkpoints import load_model
from pipelines.errors import UserError
from pipelines.evaluate.encoders import speed
from pipelines.evaluate.encoders.encoder import device_encoder, open_encoder
from pipelines.evaluate.encoders.speed import unmet
from pipelines.evaluate.results.requirements import Requirements, parse_requirements
from pipelines.export import onnx_file
from pipelines.export.onnx_file import export_onnx
from pipelines.export.options import ExportOptions
from pipelines.views.geometry import central_view
from tests.tiny_mae import nano

onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
if not exports_here():
    pytest.skip("this torch exports no such graph", allow_module_level=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model with a gate, and two files made of one graph of it: ``whole.onnx`` and ``int8.onnx``."""
    folder = tmp_path_factory.mktemp("on-device")
    torch.manual_seed(0)
    model = nano().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "model")
    save_gate(Gate(16, depth=1), folder / "model" / "gate.safetensors")
    made = []

    def once(*arguments):
        made[:] = made or [onnx_file.to_onnx.__wrapped__(*arguments)]
        return copy.deepcopy(made[0])

    once.__wrapped__ = onnx_file.to_onnx
    command = ["export", folder / "model", "--to", "onnx", "--keep", "0.5", "--reconstruct"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "to_onnx", once)
        invoke(*command, "--out", folder / "whole.onnx")
        invoke(*command, "--out", folder / "int8.onnx", "--int8", "--classify", "shapes:60,size=32")
    return folder


def invoke(*arguments, code=0):
    done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


def images(count):
    return torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8)


@pytest.mark.parametrize("count", [1, 5])
def test_outputs_are_those_of_the_graph_with_any_batch(folder, count):
    gate = load_gate(folder / "model" / "gate.safetensors")
    graph = DeviceEncoder(load_model(folder / "model"), 0.5, "gate", gate, reconstruct=True).eval()
    pixels = images(count)
    session = onnxruntime.InferenceSession(folder / "whole.onnx")
    found = session.run(None, {"image": pixels.numpy()})
    with torch.no_grad():
        expected = dict(zip(graph.outputs, graph(pixels), strict=True))
    assert [each.name for each in session.get_outputs()] == list(expected)
    *features, kept, scores, filled = (torch.from_numpy(each) for each in found)
    for mine, theirs in zip(features, [*expected.values()][:3], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    assert torch.equal(kept, expected["kept_patches"])
    torch.testing.assert_close(scores, expected["gate_scores"], rtol=0, atol=1e-5)
    assert (filled.int() - expected["filled"].int()).abs().max() <= 1


def test_int8_keeps_the_gates_choice_and_its_logits_fit_its_features(folder):
    opened = DeviceModel(folder / "int8.onnx")
    assert (opened.facts.keep_by, opened.facts.int8, opened.facts.patches) == ("gate", True, 8)
    model, gate = load_model(folder / "model"), load_gate(folder / "model" / "gate.safetensors")
    kept, pixels = KeptEncoder(model, 0.5, "gate", gate), images(6)
    found = opened.run(pixels.numpy())
    seen = normalise(pixels.permute(0, 3, 1, 2))
    assert np.array_equal(found["kept_patches"], kept.kept(seen)), "the gate is not rounded"
    apart = np.abs(found["class_token"] - kept.features(seen, "cls").numpy()).max()
    assert 0 < apart < 0.2, "the blocks are, by little"
    assert found["logits"].shape == (6, len(opened.facts.classes))
    alone = opened.run(pixels[3:4].numpy())
    assert np.array_equal(found["class_token"][3:4], alone["class_token"]), "whatever images are with it"


def test_a_file_holds_standard_operators_and_no_path_of_the_machine(folder):
    for name in ("whole.onnx", "int8.onnx"):
        model = onnx.load(folder / name)
        assert {node.domain for node in model.graph.node} <= {"", "com.microsoft"}
        assert {each.op_type for each in model.graph.node}.isdisjoint({"NonZero", "ScatterND", "Compress"})
        assert b".py" not in (folder / name).read_bytes()
        texts = onnxruntime.InferenceSession(folder / name).get_modelmeta().custom_metadata_map
        assert json.loads(texts["image_size"]) == [32, 32]
        assert str(folder).encode() not in (folder / name).read_bytes()


def test_evaluate_judges_the_file_beside_the_run(folder, monkeypatch):
    monkeypatch.setattr(speed, "usable_cores", lambda: 1)
    command = ["evaluate", folder / "int8.onnx", "shapes:60,size=32", "--beside", f"{folder}/model@keep=0.5"]
    command += ["--protocol", "knn", "--out", folder / "evaluation.json"]
    text = invoke(*command, "--require", "accuracy=-100,latency=1000x", code=1)
    assert "8, gate, int8" in text
    assert "not met: it is" in text
    assert "points" not in text.split("not met: ")[1]
    result = json.loads((folder / "evaluation.json").read_text())
    names = [row["encoder"] for row in result["rows"]]
    assert names == [str(folder / "int8.onnx"), f"{folder}/model@keep=0.5", "untrained"]
    first = result["on_device"]["rows"][0]
    assert first["bytes"] == (folder / "int8.onnx").stat().st_size
    assert 0.2 < first["own_accuracy"] <= 1, "of images that its classifier was fitted to"
    assert "its own classes" in text
    assert {*first["latency"]} == {"1"}
    assert first["latency"]["1"] > 0


def test_a_file_gives_evaluate_its_own_features(folder):
    encoder, pixels = open_encoder(str(folder / "int8.onnx"), pool="mean", device="cpu"), images(3)
    expected = DeviceModel(folder / "int8.onnx").run(pixels.numpy())["patch_mean"]
    assert np.array_equal(encoder.features(pixels.permute(0, 3, 1, 2)), expected)
    assert open_encoder(f"{folder}/int8.onnx@keep=0.5", pool="cls", device="cpu").size == (32, 32)
    with pytest.raises(UserError, match="give the run"):
        encoder.network(0.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("int8.onnx@keep=0.25", "was made with --keep 0.5: export one with 0.25"),
        ("nothing.onnx", "does not exist"),
        ("bad.onnx", r"does not open in onnxruntime .*: Protobuf parsing failed\.$"),
        ("new.onnx", r"does not open in onnxruntime .*: it needs opset 999, and the newest there is \d+$"),
        ("strange.onnx", "does not say how it was made"),
    ],
)
def test_a_file_that_can_not_be_judged_is_one_line(folder, name, message):
    (folder / "bad.onnx").write_bytes(b"\x08\x07nonsense")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["image"], ["copy"])],
        "graph",
        [value("image", onnx.TensorProto.FLOAT, [1])],
        [value("copy", onnx.TensorProto.FLOAT, [1])],
    )
    for file, opset in (("strange.onnx", 18), ("new.onnx", 999)):
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
        onnx.save(model, folder / file)
    with pytest.raises(UserError, match=message) as caught:
        open_encoder(str(folder / name), pool="cls", device="cpu")
    assert "\n" not in str(caught.value)


def test_images_and_maps_that_do_not_fit_are_told(folder):
    opened, pixels = DeviceModel(folder / "int8.onnx"), images(1).numpy()
    with pytest.raises(ValueError, match=r"uint8 \[1, 16, 32, 3\]; this file takes uint8 \[batch, 32, 32, 3\]"):
        opened.run(pixels[:, :16])
    with pytest.raises(ValueError, match="no map beside"):
        opened.run(pixels, maps=np.zeros((1, 4, 4), np.float32))
    opened.inputs, opened.facts = ("image", "map"), replace(opened.facts, keep_by="map")
    with pytest.raises(ValueError, match="a map of every image"):
        opened.run(pixels)
    with pytest.raises(ValueError, match="chooses patches by a map of each image"):
        device_encoder("file", opened, "cls")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out": "folder"}, "give a name that ends in .onnx"),
        ({"out": "int8.onnx"}, "exists already"),
        ({"opset": 17}, "--opset is 17; it must be from 18 to"),
        ({"opset": 999}, "--opset is 999; it must be from 18 to"),
        ({"reconstruct": True}, "give --keep below 1"),
        ({"run": Path("nothing")}, "does not exist"),
        ({"run": "gateless", "keep": "0.5"}, "has no gate to keep patches by: give --keep-by center or map"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(folder, settings, message):
    nano().save_pretrained(folder / "gateless")
    before = {path.name for path in folder.iterdir()}
    run, out = folder / settings.pop("run", "model"), folder / settings.pop("out", "out.onnx")
    with pytest.raises(UserError, match=message):
        export_onnx(ExportOptions(run, "onnx", out, **settings))
    assert {path.name for path in folder.iterdir()} == before


def test_what_this_runtime_can_not_run_is_not_written(folder, monkeypatch):
    def refused(*arguments):
        raise ValueError("the file does not open in onnxruntime 1.0")

    monkeypatch.setattr(onnx_file, "to_onnx", lambda *arguments: onnx.ModelProto())
    monkeypatch.setattr(onnx_file, "DeviceModel", refused)
    with pytest.raises(UserError, match=r"--opset 23: the file does not open in onnxruntime 1\.0"):
        export_onnx(ExportOptions(folder / "model", "onnx", folder / "out.onnx", opset=23))
    assert not (folder / "out.onnx").exists()


@pytest.mark.parametrize("keep", ["0", "1.1", "half", "1x", "nanx", "nan", "autox"])
def test_a_keep_that_is_none_is_told(keep):
    with pytest.raises(ValueError, match="--keep"):
        ExportOptions(Path("run"), "onnx", Path("out.onnx"), keep=keep)


def test_an_older_torch_is_told(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.8.1+cpu")
    with pytest.raises(UserError, match=r"needs torch 2\.9 or newer, and this is 2\.8\.1"):
        export_onnx(ExportOptions(folder / "model", "onnx", tmp_path / "new.onnx"))
    assert not list(tmp_path.iterdir())


def test_options_of_onnx_have_no_effect_elsewhere(folder):
    text = invoke("export", folder / "model", "--to", "timm", "--out", folder / "timm", "--int8", code=2)
    assert "--int8 has no effect with --to timm; it is for --to onnx" in text


def test_the_most_patches_that_are_fast_enough_are_kept(monkeypatch):
    steps = {2: 1.0, 4: 1.1, 6: 1.5, 8: 1.5, 10: 2.4, 16: 3.0}
    monkeypatch.setattr(kept_speed, "time_patches", lambda *arguments, **options: steps)
    settings = {"by": "center", "gate": None, "int8": False}
    assert kept_speed.patches_for_speed(nano(), 2.0, **settings) == (8, steps)
    with pytest.raises(ValueError, match="2 of 16 patches are only 3.0 times as fast"):
        kept_speed.patches_for_speed(nano(), 4.0, **settings)


def test_every_number_of_patches_can_be_timed():
    found = kept_speed.time_patches(nano().eval(), [3, 16], "center", None, int8=True)
    assert {*found} == {3, 16}
    assert all(seconds > 0 for seconds in found.values())


def test_requirements():
    assert parse_requirements("accuracy=-1,latency=2x") == Requirements(-1.0, 2.0, None)
    for text in ("accuracy=-1x", "latency=2", "speed=2x", "", "size=0x", "latency=2x,latency=3x", "accuracy=nan"):
        with pytest.raises(ValueError, match="--require"):
            parse_requirements(text)
    found = [{"latency": {"1": 1.0, "2": 0.6}, "bytes": 10}, {"latency": {"1": 2.0, "2": 1.1}, "bytes": 40}]
    rows = [{"knn": 0.50}, {"knn": 0.515}]
    result = {"protocols": ["knn"], "rows": rows, "on_device": {"threads": [1, 2], "rows": found}}
    assert unmet(result, Requirements(-1.5, 1.8, 4.0)) == []
    assert unmet(result, Requirements(-1.0, 2.0, 5.0)) == [
        "knn differs by -1.5 points, not -1",
        "it is 1.83x as fast on 2 threads, not 2x",
        "it is 4.00x as small, not 5x",
    ]


def test_the_program_of_the_docs_runs_without_torch(folder, tmp_path):
    """On pictures in the place of a camera; it says of each what the file says of the view of it that evaluate has."""
    page = (Path(__file__).parents[3] / "docs" / "guide" / "on-device.md").read_text()
    program = re.search(r"^```py\n(.*?)^```", page, re.M | re.S)[1]
    assert len(program.split("import Image\n")[1].splitlines()) <= 25
    frames = np.random.default_rng(0).integers(0, 256, (4, 40, 64, 3), np.uint8)
    frames[2:] //= 4
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame-{number}.png")
    for name in ("torch", "mae", "pipelines"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('this machine has none')\n")
    (tmp_path / "camera.py").write_text(program)
    command = [sys.executable, "camera.py", str(folder / "int8.onnx"), "frame-%d.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    opened = DeviceModel(folder / "int8.onnx")
    seen = np.stack([central_view(Image.fromarray(frame), (32, 32)) for frame in frames])
    logits = opened.run(seen.transpose(0, 2, 3, 1).copy(), ["logits"])["logits"]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = [f"{opened.facts.classes[row.argmax()]} {row.max():.0%}" for row in shares]
    assert done.stdout.splitlines() == expected
