"""The graph for devices against the encoder on kept patches, and what torch.export and AOTInductor make of it."""

import math
import shutil

import pytest
import torch

from mae.evaluation.kept_encoder import KeptEncoder
from mae.mask_learners.gate import Gate
from mae.mask_learners.momentum import MomentumEncoder
from mae.models import linear
from mae.on_device.conversion import exports_here
from mae.on_device.graph import DeviceEncoder
from mae.pixels import normalise
from mae.recovery.recover import recover
from tests.tiny_mae import nano

BATCH = torch.export.Dim("batch")
exported = pytest.mark.skipif(not exports_here(), reason="this torch exports no such graph")


def model_and_gate(**options):
    torch.manual_seed(0)
    model = nano((32, 24), **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, Gate(16).eval()


def images(count=3):
    return torch.randint(0, 256, (count, 3, 32, 24), dtype=torch.uint8)


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("by", ["gate", "center"])
@pytest.mark.parametrize("class_tokens", [1, 3])
def test_features_and_choice_are_those_of_the_kept_encoder(keep, by, class_tokens):
    model, gate = model_and_gate(class_tokens=class_tokens)
    graph, kept = DeviceEncoder(model, keep, by, gate).eval(), KeptEncoder(model, keep, by, gate)
    pixels = images()
    with torch.no_grad():
        found = dict(zip(graph.outputs, graph(pixels.permute(0, 2, 3, 1)), strict=True))
    seen = normalise(pixels)
    torch.testing.assert_close(found["class_token"], kept.features(seen, "cls"), rtol=0, atol=1e-5)
    torch.testing.assert_close(found["patch_mean"], kept.features(seen, "mean"), rtol=0, atol=1e-5)
    assert found["patch_tokens"].shape == (3, kept.count, 16)
    assert ("gate_scores" in found) == (by == "gate" and keep < 1)
    if keep < 1:
        assert torch.equal(found["kept_patches"], kept.kept(seen))
    if "gate_scores" in found:
        torch.testing.assert_close(found["gate_scores"].flatten(1), gate.scores(model, seen), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_gate_that_reads_a_momentum_encoder(sparse):
    model, _ = model_and_gate()
    gate = Gate(16, reader=MomentumEncoder.of(model, 1), sparse=sparse).eval()
    pixels = images()
    with torch.no_grad():
        kept = DeviceEncoder(model, 0.5, "gate", gate).eval()(pixels.permute(0, 2, 3, 1))[3]
    assert torch.equal(kept, KeptEncoder(model, 0.5, "gate", gate).kept(normalise(pixels)))


def test_a_map_keeps_its_highest_cells_and_the_first_of_equal_ones():
    model, _ = model_and_gate()
    saliency = torch.zeros(2, 4, 3)
    saliency[0, 3, 2], saliency[1, 1] = 1.0, 0.5
    with torch.no_grad():
        found = DeviceEncoder(model, 1 / 3, "map").eval()(images(2).permute(0, 2, 3, 1), saliency)
    assert 11 in found[3][0].tolist()
    assert {3, 4, 5} < {*found[3][1].tolist()}


@pytest.mark.parametrize("norm_pix", [True, False])
def test_what_is_not_kept_is_filled_in_as_reconstruct_fills_it_in(norm_pix):
    model, gate = model_and_gate(norm_pix=norm_pix)
    graph, pixels = DeviceEncoder(model, 0.5, "gate", gate, reconstruct=True).eval(), images()
    with torch.no_grad():
        found = dict(zip(graph.outputs, graph(pixels.permute(0, 2, 3, 1)), strict=True))
    hidden = torch.ones(3, math.prod(model.grid), dtype=torch.bool).scatter(1, found["kept_patches"], False)
    hidden = hidden.view(3, *model.grid).repeat_interleave(8, 1).repeat_interleave(8, 2)
    expected = recover(model, pixels, hidden).permute(0, 2, 3, 1)
    assert torch.equal(found["filled"][~hidden], expected[~hidden])
    apart = (found["filled"].int() - expected.int()).abs()
    assert apart.max() <= 1, "but for a rounding"
    assert (apart > 0).float().mean() < 0.01


@exported
@pytest.mark.parametrize(("strict", "settings"), [(True, {"by": "map"}), (False, {"by": "gate", "reconstruct": True})])
def test_torch_export_takes_any_batch_and_leaves_no_operator_of_ours(monkeypatch, strict, settings):
    """Also on a processor for which products are oneDNN's."""
    monkeypatch.setattr(linear, "ONEDNN", True)
    model, gate = model_and_gate()
    graph = DeviceEncoder(model, 0.5, gate=gate, **settings).eval()
    inputs = graph.example(3)
    with torch.no_grad():
        graph(*inputs)
        program = torch.export.export(graph, inputs, dynamic_shapes=tuple({0: BATCH} for _ in inputs), strict=strict)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {name.split(".")[0] for name in called} <= {"aten", "<built-in function getitem>", "<built-in function mul>"}
    monkeypatch.setattr(linear, "ONEDNN", False)
    for count in (1, 5):
        inputs = graph.example(count)
        with torch.no_grad():
            for mine, theirs in zip(graph(*inputs), program.module()(*inputs), strict=True):
                torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-5)


@exported
@pytest.mark.slow
def test_aotinductor_takes_it(tmp_path):
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("this machine has no C++ compiler")
    model, _ = model_and_gate()
    graph, image = DeviceEncoder(model, 0.5, "center").eval(), images().permute(0, 2, 3, 1)
    with torch.no_grad():
        program = torch.export.export(graph, (image,), dynamic_shapes=({0: BATCH},))
        quickly = {"aot_inductor.compile_wrapper_opt_level": "O0"}
        place = str(tmp_path / "model.pt2")
        package = torch._inductor.aoti_compile_and_package(program, package_path=place, inductor_configs=quickly)
        compiled, image = torch._inductor.aoti_load_package(package), images(2).permute(0, 2, 3, 1)
        for mine, theirs in zip(graph(image), compiled(image), strict=True):
            torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.5, "by": "gate"}, "has no gate"),
        ({"keep": 0.5, "by": "random"}, "is not one of: gate, center, map"),
        ({"keep": 0.0}, "must be above 0"),
        ({"reconstruct": True}, "give --keep below 1"),
    ],
)
def test_what_can_not_be_is_told(settings, message):
    with pytest.raises(ValueError, match=message):
        DeviceEncoder(model_and_gate()[0], **settings)
