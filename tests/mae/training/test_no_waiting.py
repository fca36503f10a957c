"""Nothing in a step makes the host wait for the device: no value is read back, no shape follows from a value."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mae.masks.attention import AttentionMasks, AttentionSettings
from mae.masks.gate import Gate
from mae.masks.gate_training import GateSettings, GateTraining
from mae.masks.hard import HardMasks, HardSettings
from mae.masks.masking import Masking
from mae.masks.strategies import blind
from mae.training.training import Batch, Training, TrainingSettings
from tests.tiny_mae import nano

# Reads a value, or makes a tensor whose shape is one: both need the device to be done with all before it.
WAITING = {
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "nonzero_static",
    "_unique",
    "_unique2",
    "unique_consecutive",
    "unique_dim",
    "bincount",
    "histc",
    "repeat_interleave",
    "linalg_lstsq",
}


class NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        assert name not in WAITING, f"{name} waits for the device"
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            indices = [index for index in args[1] if index is not None]
            assert all(index.dtype not in (torch.bool, torch.uint8) for index in indices), f"{name} by a mask waits"
        return func(*args, **(kwargs or {}))


SALIENT = [
    {"strategy": name, "salient_of": of, "salient_pick": pick}
    for name in ("salient", "inverse", "shuffled", "center")
    for of in ("image", "mask", "salient")
    for pick in ("top", "weighted")
]
BLIND = ("random", "tube", "block", "grid", "color-red", "color-green", "color-blue", "color-purple")


@pytest.mark.parametrize("decode_ratio", [1.0, 0.5])
@pytest.mark.parametrize("masking", [*({"strategy": name} for name in BLIND), *SALIENT], ids=str)
def test_a_step_never_waits(masking, decode_ratio):
    settings = TrainingSettings(epochs=1, batch_size=4, accumulate=2, decode_ratio=decode_ratio)
    run = Training(nano(), Masking(**masking), settings, 10)
    batches = [Batch(torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8), torch.rand(n, 16)) for n in (4, 3)]
    run.update(batches)
    with NoWaiting():
        run.update(batches)
    assert run.step == 2


def learners(model):
    yield AttentionMasks(model, AttentionSettings(shown=0.1))
    yield HardMasks(Gate(16, width=16, depth=1), model.embed, HardSettings())
    yield GateTraining(Gate(16, width=16, depth=1), model.patch_embed, GateSettings())


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_step_with_a_learner_never_waits(number):
    model = nano()
    settings = TrainingSettings(epochs=1, batch_size=4, accumulate=2, saliency_weight=0.5)
    run = Training(model, Masking(), settings, 10, learner=list(learners(model))[number])
    batches = [Batch(torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8), torch.rand(n, 16)) for n in (4, 3)]
    run.update(batches)
    with NoWaiting():
        run.update(batches)
        run.learner.figures()
    assert run.step == 2


def test_every_strategy_is_looked_at():
    assert {*BLIND, *(masking["strategy"] for masking in SALIENT)} == set(blind())


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: float(x.sum()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: bool(x.any()),
        lambda x: x.unique(),
        lambda x: x.index_put((x > 0,), torch.zeros(())),
    ],
)
def test_what_waits_is_found(wait):
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        wait(torch.randn(5))


@pytest.mark.parametrize("wait", [lambda x: x.tolist(), lambda x: x.cpu(), lambda x: x.numpy(), lambda x: x[x > 0]])
def test_a_device_that_holds_no_values_refuses_to_give_them(wait):
    with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
        wait(torch.empty(5, device="meta"))


def test_the_model_and_its_masks_run_on_a_device_that_holds_no_values():
    with torch.device("meta"):
        model = nano()
    for options in ({"strategy": "random"}, {"strategy": "block"}, *SALIENT):
        masks = Masking(**options)(
            4, model.grid, generator=torch.Generator(), saliency=torch.empty(4, 16, device="meta"), device="meta"
        )
        loss = model(torch.empty(4, 3, 32, 32, device="meta"), masks)
        loss.backward()
        assert loss.is_meta
        assert all(p.grad.is_meta for p in model.parameters() if p.grad is not None)
