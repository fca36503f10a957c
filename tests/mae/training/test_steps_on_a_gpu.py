"""Every kind of step, traced on a GPU that is not there: one device, no waiting, the dtypes that are meant."""

import pytest
import torch

from mae.evaluation.kept_encoder import KeptEncoder
from mae.mask_learners.attention import AttentionMasks, AttentionSettings
from mae.mask_learners.custom import CustomMasks, CustomSettings, Scorer
from mae.mask_learners.gate import Gate
from mae.mask_learners.gate_exchange import Exchange
from mae.mask_learners.gate_training import GateSettings, GateTraining
from mae.mask_learners.hard import HardMasks, HardSettings
from mae.mask_learners.learner import Look, look_noise
from mae.masks.masking import Masking, Part
from mae.models.video import VideoMaskedAutoencoder
from mae.multilevel.mlo_training import LabelledImages, MultilevelTraining
from mae.multilevel.settings import MultilevelSettings
from mae.pixels import normalise
from mae.training.settings import TrainingSettings
from mae.training.training import Batch, Training
from tests.fake_cuda import CUDA, fake_cuda
from tests.tiny_mae import nano

BF16, FP32 = torch.bfloat16, torch.float32


def images(count):
    return torch.zeros(count, 3, 32, 32, dtype=torch.uint8).pin_memory()


def batches():
    return [Batch(images(count), torch.rand(count, 16).pin_memory()) for count in (4, 3)]


def training(masking="random", learner=None, **settings):
    model = nano().to(CUDA)
    asked = TrainingSettings(**{"epochs": 1, "batch_size": 4, "accumulate": 2, "precision": "auto"} | settings)
    return Training(model, Masking(masking), asked, 10, CUDA, learner=learner and learner(model))


def dtypes_of(module):
    """The dtypes that a module gives from now on."""
    seen = set()
    module.register_forward_hook(lambda _module, _inputs, output: seen.add(output.dtype))
    return seen


@pytest.mark.parametrize("precision", ["auto", "fp32"])
@pytest.mark.parametrize(
    ("masking", "settings"),
    [
        ("random", {}),
        ("salient", {"decode_ratio": 0.5, "saliency_weight": 0.5}),
        ("block", {"decode_ratio": 0.5}),
        ("grid", {}),
        ("color-red", {}),  # whose noise is filtered in float64: last bits do not decide who is hidden
    ],
)
def test_a_step(masking, settings, precision):
    with fake_cuda() as cuda:
        run = training(masking, precision=precision, **settings)
        run.update(batches())
        waiting = batches()
        with cuda:
            loss = run.update(waiting)
        moments = [value for state in run.optimizer.state.values() for value in state.values()]
        assert run.optimizer.defaults["fused"]
        assert {(t.device, t.dtype) for t in [loss, *run.model.parameters(), *moments]} == {(CUDA, FP32)}
        assert set(cuda.products) - {torch.float64} == {BF16 if precision == "auto" else FP32}
        assert (torch.float64 in cuda.products) == (masking == "color-red")
        assert cuda.copies >= 4  # two batches of pixels and of noise


LEARNERS = {
    "attention": lambda model: AttentionMasks(model, AttentionSettings(shown=0.1)),
    "hard": lambda model: HardMasks(Gate(16, width=16, depth=1), model.embed, HardSettings(), CUDA),
    "gate": lambda model: GateTraining(
        Gate(16, width=16, depth=1), model, GateSettings(warm_start=1.0), CUDA, teacher=True
    ),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_step_with_a_learner(name):
    with fake_cuda() as cuda:
        run = training(learner=LEARNERS[name], decode_ratio=0.5)
        run.update(batches())
        trunk = dtypes_of(run.model.blocks[0].attn.proj)
        small = dtypes_of(run.learner.network or run.learner.teacher)
        waiting = batches()
        with cuda:
            loss = run.update(waiting)
            figures = run.learner.figures()
        assert (trunk, small) == ({BF16}, {FP32})  # what ranks the patches is not rounded
        assert {(t.device, t.dtype) for t in [loss, *figures.values()]} == {(CUDA, FP32)}


def test_a_step_with_scores_of_the_users_own():
    def scores(tokens, noise):
        return tokens.square().sum(2) + noise

    with fake_cuda() as cuda:
        scorer = Scorer("masks.py:scores", scores, ("tokens", "noise"), None)
        run = training(
            learner=lambda model: CustomMasks(scorer, model.embed, CustomSettings("masks.py:scores", ""), CUDA)
        )
        run.update(batches())
        waiting = batches()
        with cuda:  # that scores are numbers is looked at when a checkpoint is written
            assert run.update(waiting).device == CUDA


class Two:
    """The first of two processes that have the same."""

    size, rank = 2, 0

    def gather_tensor(self, tensor):
        return torch.stack([tensor, tensor])

    def sum(self, tensor):
        return tensor * 2


def test_an_exchange_between_processes():
    with fake_cuda() as cuda:
        seen = torch.zeros(2, 3, 32, 32, device=CUDA)
        look = Look(seen, (4, 4), 0.75, look_noise(torch.Generator(), 2, CUDA), part=Part(torch.arange(2), 4))
        regions = torch.zeros(4, 16, device=CUDA)
        with cuda:
            exchange = Exchange(look, Two())
            everywhere = exchange.gather(regions)
            found = [everywhere, exchange.counted(regions), exchange.mean(regions[:, None])]
        assert [tuple(t.shape) for t in found] == [(8, 16), (4,), (16,)]
        assert {t.device for t in found} == {CUDA}
        assert cuda.copies == 2  # which images are here, and that they are


OWN = {
    "path": "drawn",
    "exploration": 1.0,
    "share": 0.5,
    "head": "solved",
    "buffer": 16,
    "unroll": (2, 1),
    "through": 1,
}


@pytest.mark.parametrize(
    "levels", [{"masker": "gate"}, {"masker": "mlp"}, {"masker": "mix"} | OWN], ids=["gate", "mlp", "mix"]
)
def test_a_step_of_three_levels(levels):
    with fake_cuda() as cuda:
        settings = TrainingSettings(epochs=1, batch_size=4)
        run = MultilevelTraining(nano().to(CUDA), 3, Masking(), settings, MultilevelSettings(**levels), 10, CUDA)
        labels = torch.zeros(4, dtype=torch.int64)

        def given():
            return {
                level: [LabelledImages(images(4), labels.pin_memory())] * count
                for level, count in run.batches_per_step.items()
            }

        run.update(given())
        trunk, waiting = dtypes_of(run.model.blocks[0].attn.proj), given()
        with cuda:
            losses = run.update(waiting)
        assert trunk == {BF16}
        assert {(loss.device, loss.dtype) for loss in losses.values()} == {(CUDA, FP32)}
        assert cuda.copies >= 6


def test_a_step_on_video():
    with fake_cuda() as cuda:
        sizes = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
        model = VideoMaskedAutoencoder(frames=4, tubelet=2, image_size=32, patch_size=8, **sizes).to(CUDA)
        run = Training(model, Masking(), TrainingSettings(epochs=1, batch_size=2, decode_ratio=0.5), 10, CUDA)
        clips = torch.zeros(2, 3, 4, 32, 32, dtype=torch.uint8).pin_memory()
        run.update([Batch(clips)])
        with cuda:
            loss = run.update([Batch(clips)])
        assert (loss.device, loss.dtype, set(cuda.products)) == (CUDA, FP32, {BF16})


def test_looking_at_images():
    with fake_cuda() as cuda:
        model = nano().to(CUDA).eval()
        seen = normalise(torch.zeros(2, 3, 32, 32, dtype=torch.uint8, device=CUDA))
        kept = KeptEncoder(model, 0.5, "center", None)
        kept.features(seen, "mean")
        with cuda, torch.autocast("cuda", BF16):
            mask = Masking()(2, model.grid, generator=torch.Generator(), device=CUDA)
            shown = [model.reconstruct(seen, mask), model.predict(seen, mask).loss]
            features = [model.features(seen), kept.features(seen, "mean")]
        assert {(t.device, t.dtype) for t in shown} == {(CUDA, FP32)}
        assert {t.device for t in features} == {CUDA}
        assert set(cuda.products) == {BF16}


WAITS = {
    "a value": lambda x: float(x.sum()),
    "a condition": lambda x: bool((x > 0).any()),
    "a mask": lambda x: x[x > 0],
    "a list": lambda x: x.tolist(),
    "places": lambda x: x.nonzero(),
    "a copy to the host": lambda x: x.cpu(),
    "a copy from the host": lambda x: torch.zeros(5).to(CUDA),
    "memory that is not pinned": lambda x: torch.zeros(5).to(CUDA, non_blocking=True),
    "a new constant": lambda x: torch.tensor([1.0], device=CUDA),
    "in place": lambda x: x.copy_(torch.zeros(5)),
    "two devices": lambda x: x + torch.zeros(5),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_is_found(name):
    with fake_cuda() as cuda:
        x = torch.zeros(5, device=CUDA)
        with pytest.raises((AssertionError, RuntimeError), match="wait|device|data"), cuda:
            WAITS[name](x)
