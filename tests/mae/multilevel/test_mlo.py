"""The three levels of MLO-MAE on a nano model: against autograd through plain updates, and what a run promises."""

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from mae.mask_learners.gate import Gate
from mae.masks.masking import Masking
from mae.models.mask import Mask
from mae.multilevel.draws import PATHS
from mae.multilevel.masker import GridMasker, MlpMasker
from mae.multilevel.mlo import hidden_errors, patch_errors
from mae.multilevel.mlo_training import LabelledImages, MultilevelTraining
from mae.multilevel.settings import MultilevelSettings
from mae.pixels import normalise
from mae.training.flops import flop_counter, training_flops
from mae.training.settings import TrainingSettings
from tests.tiny_mae import nano

SIDE, CLASSES, BATCH = 16, 3, 4


def training(*, seed=0, outer=6, masker=None, dtype=torch.float32, precision="fp32", ratio=0.5, blr=0.05, **settings):
    torch.manual_seed(seed)
    model = nano(SIDE)
    plain = TrainingSettings(
        epochs=1, batch_size=BATCH, blr=blr * 256 / BATCH, warmup_epochs=0.2, seed=seed, precision=precision
    )
    run = MultilevelTraining(
        model.to(dtype),
        CLASSES,
        Masking(mask_ratio=ratio),
        plain,
        MultilevelSettings(**{"head_rate": 0.02, "masker_rate": 0.01} | settings),
        outer,
        masker=(masker or GridMasker(Gate(16, 16, 1, positions=True), model.grid)).to(dtype),
    )
    if dtype != torch.float32:
        run.head.to(dtype)
        run._point = run.solver.start(run._parameters())
    return run


def labelled(seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    return LabelledImages(images, torch.randint(0, CLASSES, (BATCH,), generator=generator))


def batches_of(run, step):
    counts = run.batches_per_step
    return {name: [labelled(1000 * step + 100 * i + j) for j in range(counts[name])] for i, name in enumerate(counts)}


def _leaves(group):
    return {name: value.detach().requires_grad_() for name, value in group.items()}


def hypergradient(run, step):
    inputs = {
        name: [run._inputs(name, i, batch) for i, batch in enumerate(batches)]
        for name, batches in batches_of(run, step).items()
    }
    return run.solver.hypergradient(run._point, inputs, run.step)


def adam(parameters, moments, gradients, rate, number, decay, beta=0.95):
    """AdamW by the paper's formulas, differentiable, written without the library's."""
    after, kept = {}, {}
    for name, p in parameters.items():
        m = 0.9 * moments[name][0] + 0.1 * gradients[name]
        v = beta * moments[name][1] + (1 - beta) * gradients[name] ** 2
        m_hat, v_hat = m / (1 - 0.9 ** (number + 1)), v / (1 - beta ** (number + 1))
        wide = p.squeeze().ndim > 1
        after[name] = p - rate * (decay if wide else 0) * p - rate * m_hat / (v_hat.sqrt() + 1e-8)
        kept[name] = (m, v)
    return after, kept


class Encode(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner.encode(images)[:, 0]


class Predict(Encode):
    def forward(self, images, mask):
        return self.inner.predict(images, mask).prediction


class BruteForce:
    """One outer step as a single differentiable program over plain tensors."""

    def __init__(self, run):
        self.run = run
        self.levels = {
            name: {k: v.clone().requires_grad_() for k, v in run._point[name].items()}
            for name in ("mae", "head", "masker")
        }
        self.moments = {
            name: {k: (run._point[f"{name}.first"][k], run._point[f"{name}.second"][k]) for k in run._point[name]}
            for name in ("mae", "head")
        }
        self.numbers = {name: run.step * run.batches_per_step[name] for name in ("mae", "head")}
        self.dtype = next(iter(self.levels["mae"].values())).dtype

    def gradient(self, feed):
        """By T, of the loss of its level after all steps of the other two."""
        for _ in range(self.run.multilevel.unroll[1]):
            for _ in range(self.run.multilevel.unroll[0]):
                self.step("mae", self.autoencoder_loss(feed["mae"].pop(0)))
            self.step("head", self.head_loss(feed["head"].pop(0)))
        masker = self.levels["masker"]
        top = self.head_loss(feed["masker"].pop(0))
        return dict(zip(masker, torch.autograd.grad(top, list(masker.values())), strict=True))

    def step(self, name, loss):
        parameters = self.levels[name]
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, allow_unused=True)
        gradients = {
            k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(parameters.items(), gradients, strict=True)
        }
        number, beta = self.numbers[name], {"mae": 0.95, "head": 0.999}[name]
        rate, decay = self.run._rate(name, number), self.run.settings.weight_decay if name == "mae" else 0.0
        self.levels[name], self.moments[name] = adam(
            parameters, self.moments[name], gradients, rate, number, decay, beta
        )
        self.numbers[name] += 1

    def head_loss(self, batch):
        features = self.through(Encode, normalise(batch.images).to(self.dtype))
        return F.cross_entropy(functional_call(self.run.head, self.levels["head"], (features,)), batch.labels)

    def autoencoder_loss(self, batch):
        model, images = self.run.model, normalise(batch.images).to(self.dtype)
        scores = functional_call(self.run.masker, self.levels["masker"], (self.embed(images),))
        count = model.grid[0] * model.grid[1] // 2
        order, ranks = scores.detach().argsort(1), scores.detach().argsort(1).argsort(1)
        hidden = ranks >= count
        prediction = self.through(Predict, images, Mask(order[:, :count], ranks, hidden))
        patches = model.patchify(images)
        target = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
        errors = (prediction - target).square().mean(-1)
        if self.run.multilevel.path == "weighted":
            return (errors * scores)[hidden].sum() / hidden.sum()
        return (errors * (hidden.to(self.dtype) + scores - scores.detach())).sum() / hidden.sum()

    def through(self, kind, *inputs):
        weights = {f"inner.{k}": v for k, v in self.levels["mae"].items()}
        return functional_call(kind(self.run.model), weights, inputs)

    def embed(self, images):
        kernel, bias = (self.levels["mae"][f"patch_embed.proj.{name}"] for name in ("weight", "bias"))
        return F.conv2d(images, kernel, bias, stride=8).flatten(2).transpose(1, 2).detach()


def brute_force(run, step):
    """The gradient by T of an outer step, as one differentiable program."""
    return BruteForce(run).gradient(batches_of(run, step))


def flat(group):
    return torch.cat([value.flatten() for value in group.values()])


@pytest.fixture
def _double(monkeypatch):
    """The library computes losses in float32; here in double, so that only mistakes remain."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.mark.parametrize("path", ["weighted", "straight-through"])
@pytest.mark.parametrize("unroll", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.usefixtures("_double")
def test_exact_equals_autograd_through_the_unrolled_updates(path, unroll):
    run = training(dtype=torch.float64, path=path, unroll=unroll, hypergradient="exact")
    for step in range(2):
        run.update(batches_of(run, step))
    with sdpa_kernel(SDPBackend.MATH):
        expected = flat(brute_force(run, 2))
    assert expected.norm() > 0
    found = flat(hypergradient(run, 2))
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5


@pytest.mark.parametrize("path", PATHS)
def test_a_finite_difference_points_where_the_exact_one_does(path):
    found = {}
    for method in ("exact", "finite"):
        run = training(path=path, hypergradient=method, radius=0.01, exploration=float("drawn" in path))
        other = training(path=path, hypergradient="exact", exploration=float("drawn" in path))
        for step in range(3):
            other.update(batches_of(other, step))
        run._point, run.step = other._point, other.step
        found[method] = flat(hypergradient(run, 3))
    assert torch.cosine_similarity(found["exact"], found["finite"], dim=0) > 0.99


def test_a_step_moves_every_level_and_the_modules_hold_what_was_learned():
    run = training()
    before = {name: {k: v.clone() for k, v in run._point[name].items()} for name in ("mae", "head", "masker")}
    for step in range(2):  # the very first has a learning rate of 0 and a warm-up of 1.2 steps
        losses = run.update(batches_of(run, step))
    assert set(losses) == {"mae", "head", "masker"}
    for name, module in (("mae", run.model), ("head", run.head), ("masker", run.masker)):
        held = dict(module.named_parameters())
        for key, value in run._point[name].items():
            assert torch.equal(held[key], value)
        assert any(not torch.equal(before[name][key], value) for key, value in run._point[name].items())


@pytest.mark.parametrize("method", ["finite", "exact"])
def test_a_resumed_run_has_the_same_bits(method):
    whole = training(hypergradient=method, exploration=0.5)
    half = training(hypergradient=method, exploration=0.5)
    for step in range(2):
        half.update(batches_of(half, step))
        whole.update(batches_of(whole, step))
    resumed = training(seed=5, hypergradient=method, exploration=0.5)
    resumed.settings = whole.settings  # the seed of the masks; the weights are others until they are loaded
    resumed.model.load_state_dict(half.model.state_dict())
    resumed.load_state(torch_round_trip(half.state()))
    for step in range(2, 5):
        a, b = whole.update(batches_of(whole, step)), resumed.update(batches_of(resumed, step))
        assert all(torch.equal(a[name], b[name]) for name in a)
    for group, values in whole._point.items():
        for key, value in values.items():
            assert torch.equal(resumed._point[group][key], value), f"{group} {key}"
    assert whole.cost() == resumed.cost()


def torch_round_trip(state):
    """As a checkpoint would: written, and read with ``weights_only``."""
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_masks_of_a_step_follow_from_seed_and_step():
    images = normalise(labelled(0).images)
    run, other = training(exploration=1.0), training(exploration=1.0)
    assert torch.equal(run.draw_masks(images).hidden, other.draw_masks(images).hidden)
    run.step = 1
    assert not torch.equal(run.draw_masks(images).hidden, other.draw_masks(images).hidden)
    assert (run.draw_masks(images).hidden.sum(1) == 2).all()


def test_a_step_that_is_not_finite_changes_nothing_and_is_named():
    run = training()
    for step in range(2):
        run.update(batches_of(run, step))
    before = {group: {k: v.clone() for k, v in values.items()} for group, values in run._point.items()}
    assert run.non_finite() is None
    with torch.no_grad():
        run.masker.network.project.bias.fill_(float("nan"))  # the module shares the point's tensors
    before["masker"] = {k: v.clone() for k, v in run._point["masker"].items()}
    run.update(batches_of(run, 2))
    run.update(batches_of(run, 3))
    found = run.non_finite()
    assert found is not None
    assert found.step == 3
    for group, values in before.items():
        for key, value in values.items():
            torch.testing.assert_close(run._point[group][key], value, equal_nan=True, rtol=0, atol=0)


def test_bf16_trains_near_the_fp32_run():
    runs = {precision: training(precision=precision, blr=0.002) for precision in ("fp32", "bf16")}
    losses = {name: [run.update(batches_of(run, step)) for step in range(4)] for name, run in runs.items()}
    for full, half in zip(losses["fp32"], losses["bf16"], strict=True):
        for name in full:
            assert half[name].dtype == torch.float32
            assert half[name].item() == pytest.approx(full[name].item(), rel=0.02)
            assert half[name].item() != full[name].item()
    assert all(p.dtype == torch.float32 for p in runs["bf16"].model.parameters())


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999), ("bf16", 0.9)])
def test_the_default_radius_suits_the_precision(precision, least):
    """Too small a radius drowns in rounding, which is what the one for fp32 would do in bf16; too large a one bends."""
    found = {}
    for method, used in (("exact", "fp32"), ("finite", precision)):
        run = training(precision=used, hypergradient=method, blr=0.002)
        other = training(blr=0.002)
        for step in range(3):
            other.update(batches_of(other, step))
        run._point, run.step = other._point, other.step
        run._share_parameters()
        found[method] = flat(hypergradient(run, 3))
    assert torch.cosine_similarity(found["exact"], found["finite"], dim=0) > least


@pytest.mark.parametrize("method", ["finite", "exact"])
def test_passes_and_flops_of_all_levels_are_counted(method):
    run = training(hypergradient=method, unroll=(2, 1))
    for step in range(3):
        run.update(batches_of(run, step))
    cost = run.cost()
    again = 2 if method == "finite" else 1
    assert [cost[name]["forward"] for name in ("mae", "head", "masker")] == [3 * (2 + 2 * again), 3 * (1 + again), 3]
    assert all(cost[name]["flops"] > 0 for name in cost)
    once = training(hypergradient=method, unroll=(2, 1))
    once.update(batches_of(once, 0))
    assert {n: 3 * c["flops"] for n, c in once.cost().items()} == {n: c["flops"] for n, c in cost.items()}
    plain = run.plain_flops(labelled(0).images)
    assert cost["mae"]["flops"] / 3 > 2 * plain  # two training steps at least, and the way back through them


@pytest.mark.parametrize("path", PATHS)
def test_a_pass_of_level_1_is_that_of_plain_training_and_the_maskers(path):
    """By FLOPs; but for the straight-through path, whose derivative asks for the visible patches' errors as well."""
    run = training(path=path, exploration=1.0)
    inputs = run._inputs("mae", 0, labelled(0))
    given = run._losses.choose(run._point, inputs)
    point = {"mae": _leaves(run._point["mae"]), "masker": run._point["masker"]}
    with flop_counter() as level:
        torch.autograd.grad(run._losses.reconstruction(point, inputs, given), list(point["mae"].values()))
    with flop_counter() as masker, torch.no_grad():
        run.masker(given.tokens)
    own = level.get_total_flops() - masker.get_total_flops()
    plain = run.plain_flops(labelled(0).images)
    assert plain == pytest.approx(BATCH * training_flops(run.model, 0.5), rel=0.02)  # a formula, from the dimensions
    assert own == plain if path != "straight-through" else own > 1.2 * plain


def test_the_error_of_each_patch_is_what_plain_trainings_loss_is_the_mean_of():
    run = training()
    images = normalise(labelled(0).images)
    mask = run.draw_masks(images)
    every, hidden = patch_errors(run.model, images, mask), hidden_errors(run.model, images, mask)
    torch.testing.assert_close(every.gather(1, mask.ids_hidden), hidden)
    torch.testing.assert_close(hidden.mean(), run.model(images, mask))


def test_the_top_levels_batches_reach_no_other_level():
    """What the mask split holds changes T, and neither the autoencoder nor the head of the same step."""
    runs = [training(), training()]
    for step in range(3):
        for i, run in enumerate(runs):
            batches = batches_of(run, step)
            if step == 2 and i:
                batches["masker"] = [labelled(99)]
            run.update(batches)
    one, other = (run._point for run in runs)
    for name in ("mae", "head"):
        assert all(torch.equal(one[name][key], other[name][key]) for key in one[name])
    assert any(not torch.equal(one["masker"][key], other["masker"][key]) for key in one["masker"])


def test_rates_are_set_per_level_and_warm_up_together():
    run = training(outer=10, unroll=(2, 1))
    assert run._rate("mae", 0) == run._rate("head", 0) == run._rate("masker", 0) == 0
    assert run._rate("mae", 4) == pytest.approx(0.05)  # 0.2 epochs are 2 outer steps, 4 of the autoencoder
    assert run._rate("head", 2) == pytest.approx(0.02)
    assert run._rate("masker", 2) == pytest.approx(0.01)
    assert run._rate("mae", 20) == pytest.approx(0)
    assert run._rate("masker", 10) == pytest.approx(0)


def test_the_papers_mlp_can_be_the_masker():
    run = training(masker=MlpMasker(4, 16, 8))
    run.update(batches_of(run, 0))
    assert run.probabilities(normalise(labelled(0).images)).shape == (BATCH, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "soft"}, "path 'soft' is not one of"),
        ({"hypergradient": "neumann"}, "not one of: finite, exact"),
        ({"unroll": (0, 1)}, "from 1 on"),
        ({"radius": 0.0}, "positive"),
        ({"exploration": -1.0}, "from 0 on"),
        ({"path": "drawn"}, "--mlo-exploration above 0"),
        ({"masker": "cnn"}, "gate, mlp, mix"),
    ],
)
def test_mistakes_in_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        MultilevelSettings(**settings)


def test_accumulation_is_refused():
    with pytest.raises(ValueError, match="--accumulate"):
        MultilevelTraining(
            nano(SIDE), 3, Masking(), TrainingSettings(accumulate=2), MultilevelSettings(), steps_per_epoch=1
        )
