"""The compiled step: the same losses, one compilation, plain names, and one line where nothing can be compiled."""

import pytest
import torch
from torch import nn

from mae.masks.masking import Masking
from mae.training.settings import TrainingSettings
from mae.training.training import Batch, Training
from tests.tiny_mae import nano

SIZES = (4, 4, 3, 4, 2, 4)


def losses(**settings):
    torch.manual_seed(0)
    options = {"epochs": 1, "batch_size": 4, "accumulate": 1, "blr": 0.5, "warmup_epochs": 0} | settings
    run = Training(nano(), Masking(), TrainingSettings(**options), 10)
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator) for n in SIZES]
    return [run.update([Batch(batch)]).item() for batch in batches], run


@pytest.fixture
def compilations(monkeypatch):
    """The graphs that are compiled, by a compiler that does nothing to them."""
    graphs, compiled = [], nn.Module.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr("torch.compile", _without_machine(torch.compile))
    monkeypatch.setattr(nn.Module, "compile", lambda self, **kw: compiled(self, **kw, backend=backend))
    torch._dynamo.reset()
    yield graphs
    torch._dynamo.reset()


def _without_machine(compile):
    return lambda function, **options: compile(function, **{"backend": "eager"} | options)


@pytest.mark.parametrize("options", [{}, {"decode_ratio": 0.5}, {"decode_ratio": 0.5, "visible_weight": 0.5}], ids=str)
def test_batches_of_another_size_are_not_compiled(compilations, options):
    expected, _ = losses(**options)
    assert not compilations
    found, run = losses(**options, compile=True)
    assert found == pytest.approx(expected, abs=1e-6)
    assert len(compilations) == 1, "one graph without breaks, for the one size of a whole batch"
    assert list(run.model.state_dict()) == list(nano().state_dict())


def test_a_machine_that_cannot_compile_says_so(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr("torch.compile", fails)
    with pytest.raises(ValueError, match=r"--compile can't compile anything here \(no C\+\+ compiler\); leave it out"):
        losses(compile=True)


@pytest.mark.slow
def test_compiled_losses_are_the_eager_ones():
    try:
        found, run = losses(compile=True)
    except ValueError as error:
        pytest.skip(str(error))
    expected, eager = losses()
    assert found == pytest.approx(expected, abs=1e-5)
    assert run.model._compiled_call_impl is not None
    assert eager.model._compiled_call_impl is None
    run.model.load_state_dict(eager.model.state_dict())
    batch = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    assert run.update([Batch(batch)]).item() == pytest.approx(eager.update([Batch(batch)]).item(), abs=1e-6)
    for (name, mine), theirs in zip(run.model.named_parameters(), eager.model.parameters(), strict=True):
        if mine.requires_grad:
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-4, msg=name)
