"""No step reads a value back, and no shape in it follows from a value, forwards or backwards: either would wait."""

import pytest
import torch

from mae.mask_learners.attention import AttentionMasks, AttentionSettings
from mae.mask_learners.gate import Gate
from mae.mask_learners.gate_training import GateSettings, GateTraining
from mae.mask_learners.hard import HardMasks, HardSettings
from mae.masks.masking import Masking
from mae.masks.strategies import blind
from mae.training.settings import TrainingSettings
from mae.training.training import Batch, Training
from tests.no_waiting import NoWaiting
from tests.tiny_mae import nano

SALIENT = [
    {"strategy": name, "salient_of": of, "salient_pick": pick}
    for name in ("salient", "inverse", "shuffled", "center", "motion", "frame-difference")
    for of in ("image", "mask", "salient")
    for pick in ("top", "weighted")
]
BLIND = ("random", "tube", "block", "grid", "color-red", "color-green", "color-blue", "color-purple")


@pytest.mark.parametrize("decode_ratio", [1.0, 0.5])
@pytest.mark.parametrize("masking", [*({"strategy": name} for name in BLIND), *SALIENT], ids=str)
def test_a_step_never_waits(masking, decode_ratio):
    further = {"decode_ratio": 0.5, "visible_weight": 0.5} if decode_ratio < 1 else {}
    settings = TrainingSettings(epochs=1, batch_size=4, accumulate=2, **further)
    run = Training(nano(), Masking(**masking, mask_granularity=2 if further else 1), settings, 10)
    batches = [Batch(torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8), torch.rand(n, 16)) for n in (4, 3)]
    run.update(batches)
    with NoWaiting():
        run.update(batches)
    assert run.step == 2


def learners(model):
    yield AttentionMasks(model, AttentionSettings(shown=0.1))
    yield HardMasks(Gate(16, width=16, depth=1), model.embed, HardSettings())
    yield GateTraining(Gate(16, width=16, depth=1), model, GateSettings())


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
