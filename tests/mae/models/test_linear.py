"""Linear layers by oneDNN against torch's own, values and derivatives, on every processor that has oneDNN."""

import pytest
import torch
import torch.nn.functional as F

from mae.models import linear as module
from mae.models.linear import Linear, linear, prefers_onednn

HERE = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()


@pytest.fixture
def onednn(monkeypatch):
    if not HERE:
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(module, "ONEDNN", True)


def operands(dtype=torch.float32):
    torch.manual_seed(0)
    shapes = ((2, 5, 12), (7, 12), (7,))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def calls(run):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_torch(onednn, bias):
    x, weight, offset = operands()
    inputs = [x, weight, offset] if bias else [x, weight]
    mine, theirs = linear(*inputs), F.linear(*inputs)
    torch.testing.assert_close(mine, theirs)
    toward = torch.randn_like(mine)
    for a, b in zip(*(torch.autograd.grad(y, inputs, toward) for y in (mine, theirs)), strict=True):
        torch.testing.assert_close(a, b)
        assert a.is_contiguous()


def test_rows_that_are_a_view_of_something_larger(onednn):
    x, weight, offset = operands()
    torch.testing.assert_close(linear(x[:, 1:], weight, offset), F.linear(x[:, 1:], weight, offset))
    torch.testing.assert_close(linear(x.transpose(0, 1), weight, None), F.linear(x.transpose(0, 1), weight))


def test_second_derivatives(onednn):
    def curvature(product):
        x, weight, offset = operands()
        gradient = torch.autograd.grad(product(x, weight, offset).sin().sum(), weight, create_graph=True)[0]
        return torch.autograd.grad(gradient.pow(2).sum(), [x, weight, offset])

    for a, b in zip(curvature(linear), curvature(F.linear), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_transforms_of_functions(onednn):
    x, weight, offset = (each.detach() for each in operands())

    def value(weight):
        return linear(x, weight, offset).sin().sum()

    def plain(weight):
        return F.linear(x, weight, offset).sin().sum()

    toward = torch.randn_like(weight)
    torch.testing.assert_close(torch.func.grad(value)(weight), torch.func.grad(plain)(weight))
    for mine, theirs in zip(*(torch.func.jvp(f, (weight,), (toward,)) for f in (value, plain)), strict=True):
        torch.testing.assert_close(mine, theirs)
    many = torch.randn(3, 7, 12)
    torch.testing.assert_close(torch.func.vmap(value)(many), torch.stack([plain(each) for each in many]))


def test_frozen_weights_and_no_gradient_at_all(onednn):
    x, weight, offset = operands()
    linear(x, weight.detach(), offset.detach()).sum().backward()
    torch.testing.assert_close(x.grad, weight.detach().sum(0).expand_as(x))
    with torch.inference_mode():
        assert not linear(x, weight, offset).requires_grad


def test_onednn_is_asked_where_it_is_preferred_and_only_for_float32(onednn):
    layer, x = Linear(12, 7), torch.randn(3, 12)
    assert "mkldnn::_linear_pointwise" in calls(lambda: layer(x))
    assert "mkldnn::_linear_pointwise" not in calls(lambda: linear(x.double(), layer.weight.double()))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("capability", "processor", "expected"),
    [
        ("AVX512", "vendor_id : AuthenticAMD", True),
        ("AVX512", "vendor_id : GenuineIntel", False),
        ("AVX2", "vendor_id : AuthenticAMD", False),
        ("DEFAULT", "", False),
    ],
)
def test_the_processor_alone_decides(monkeypatch, capability, processor, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(module, "_processor", lambda: processor)
    assert prefers_onednn() == (expected and HERE)


def test_elsewhere_it_is_torchs_linear_to_the_bit(monkeypatch):
    monkeypatch.setattr(module, "ONEDNN", False)
    x, weight, offset = operands()
    assert torch.equal(linear(x, weight, offset), F.linear(x, weight, offset))
