import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mae.masks.masking import Masking
from mae.optimisation import learning_rate, parameter_groups
from mae.pixels import IMAGE_MEAN, IMAGE_STD, _statistics, denormalise, normalise
from mae.training.guard import NonFinite
from mae.training.settings import TrainingSettings
from mae.training.training import Batch, Training
from tests.no_waiting import NoWaiting
from tests.tiny_mae import nano


def images(count, seed=0):
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def training(masking=None, model_seed=0, steps_per_epoch=10, **settings):
    torch.manual_seed(model_seed)
    settings = TrainingSettings(**{"epochs": 2, "batch_size": 4, "warmup_epochs": 0, "blr": 0.1} | settings)
    return Training(nano(), masking or Masking(), settings, steps_per_epoch)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_learning_rate_at_exact_steps():
    rates = [learning_rate(step, 100, 10, 2.0) for step in (0, 1, 5, 10, 55, 100)]
    assert rates == pytest.approx([0, 0.2, 1, 2, 1, 0])
    assert learning_rate(40, 100, 10, 1) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)
    assert learning_rate(0, 100, 0, 2.0) == 2
    assert learning_rate(9, 10, 10, 2.0) == pytest.approx(1.8)  # nothing but warm-up


@given(st.integers(1, 500), st.floats(0, 1))
def test_the_learning_rate_rises_then_falls(total, share):
    rates = [learning_rate(step, total, share * total, 1.0) for step in range(total)]
    peak = rates.index(max(rates))
    assert all(0 <= rate <= 1 for rate in rates)
    assert all(a <= b for a, b in itertools.pairwise(rates[: peak + 1]))
    assert all(a >= b for a, b in itertools.pairwise(rates[peak:]))


def test_the_peak_follows_the_effective_batch():
    assert TrainingSettings(batch_size=64, accumulate=8, blr=1e-3).peak_learning_rate == pytest.approx(2e-3)


@pytest.mark.parametrize(("warmup", "expected"), [(None, 0.5), (2, 0.1), (0, 1.0)])
def test_warm_up_is_a_tenth_of_the_epochs_unless_given(warmup, expected):
    run = training(epochs=4, warmup_epochs=warmup, blr=64, steps_per_epoch=5)
    run.step = 1
    assert run.total_steps == 20
    assert run.learning_rate() == pytest.approx(expected, rel=0.02)


def test_an_update_uses_the_rate_of_its_step():
    run = training(epochs=1, warmup_epochs=0.5)
    before = weights(run.model)
    run.update([Batch(images(4))])
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())  # rate 0
    run.update([Batch(images(4))])
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(run.settings.peak_learning_rate / 5)
    assert not torch.equal(before["norm.weight"], run.model.norm.weight)


def test_biases_norms_and_tokens_do_not_decay_and_positions_do_not_learn():
    model = nano()
    decayed, others = ({id(p) for p in group["params"]} for group in parameter_groups(model, 0.3))
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[i] for i in others} == {
        name for name in names.values() if name.endswith("bias") or "norm" in name or "token" in name
    }
    assert set(names) - decayed - others == {id(model.pos_embed), id(model.decoder_pos_embed)}
    assert id(model.patch_embed.proj.weight) in decayed
    assert [group["weight_decay"] for group in parameter_groups(model, 0.3)] == [0.3, 0.0]


def test_one_step_is_adamw_on_the_mask_that_was_drawn():
    run = training(weight_decay=0.3)
    batch = images(4)
    mask = run.draw_masks(4, None, 0)
    start = weights(run.model)
    mean, std = torch.tensor(IMAGE_MEAN).view(3, 1, 1), torch.tensor(IMAGE_STD).view(3, 1, 1)
    expected_loss = run.model((batch / 255 - mean) / std, mask)
    expected_loss.backward()
    gradient = gradients(run.model)
    rate = run.learning_rate()
    assert float(run.update([Batch(batch)])) == pytest.approx(expected_loss.item(), rel=1e-6)
    assert run.step == 1
    for name, p in run.model.named_parameters():
        if not p.requires_grad:
            assert torch.equal(p, start[name])
            continue
        decay = 0.3 if p.squeeze().ndim >= 2 else 0
        g = gradient[name]  # in the first step both moments are the gradient's own, after bias correction
        expected = start[name] * (1 - rate * decay) - rate * g / (g.abs() + 1e-8)
        # where the gradient is as small as epsilon the quotient has no digits
        clear = g.abs() > 1e-5
        torch.testing.assert_close(p.detach()[clear], expected[clear], rtol=1e-4, atol=1e-6)


def test_the_second_moment_forgets_as_in_the_paper():
    run = training()
    assert all(group["betas"] == (0.9, 0.95) for group in run.optimizer.param_groups)


@pytest.mark.parametrize("sizes", [(4, 4), (6, 2)])
def test_accumulated_batches_are_one_large_batch(sizes, monkeypatch):
    batch, shares = images(8), []
    mask = training().draw_masks(8, None, 0)

    def same_masks(self, count, saliency, number, part):
        part = slice(shares[number][0], shares[number][1])
        return type(mask)(mask.ids_keep[part], mask.ids_restore[part], mask.hidden[part])

    monkeypatch.setattr(Training, "draw_masks", same_masks)
    large, small = training(batch_size=8), training(batch_size=4, accumulate=2)
    shares[:] = [(0, 8)]
    loss = large.update([Batch(batch)])
    shares[:] = [(0, sizes[0]), (sizes[0], 8)]
    accumulated = small.update([Batch(part) for part in batch.split(sizes)])
    torch.testing.assert_close(accumulated, loss, atol=1e-6, rtol=0)
    for name, gradient in gradients(large.model).items():
        torch.testing.assert_close(gradients(small.model)[name], gradient, atol=1e-6, rtol=1e-5)
    assert small.learning_rate() == large.learning_rate()


def test_masks_follow_from_seed_step_and_number_alone():
    run, other = training(), training(model_seed=5)
    first = run.draw_masks(4, None, 0).hidden
    torch.rand(3)
    other.update([Batch(images(4, seed=9))])
    other.step = 0
    assert torch.equal(other.draw_masks(4, None, 0).hidden, first)
    assert not torch.equal(run.draw_masks(4, None, 1).hidden, first)
    assert not torch.equal(training(seed=1).draw_masks(4, None, 0).hidden, first)
    run.step = 1
    assert not torch.equal(run.draw_masks(4, None, 0).hidden, first)
    assert not torch.equal(run.draw_masks(4, None, 0).hidden[0], run.draw_masks(4, None, 0).hidden[1])


def test_saliency_decides_the_masks_and_a_schedule_moves_them():
    masking = Masking("salient", mask_ratio=0.5, salient_schedule=(0.0, 0.5))
    run = training(masking)
    saliency = torch.arange(16.0).expand(64, 16)
    run.step = run.total_steps
    assert run.draw_masks(64, saliency, 0).hidden[:, 8:].all()
    run.step = 0
    assert not run.draw_masks(64, saliency, 0).hidden[:, 8:].all(1).any()


def test_bf16_gives_a_float32_loss_near_the_full_one():
    full = training().update([Batch(images(4))])
    half = training(precision="bf16").update([Batch(images(4))])
    assert half.dtype == torch.float32
    assert half.isfinite()
    assert float(half) == pytest.approx(float(full), rel=0.02)
    assert float(half) != float(full)


def test_auto_is_full_precision_on_the_cpu():
    assert training().precision == "fp32"
    assert training(precision="bf16").precision == "bf16"


def test_it_learns():
    run = training(epochs=30, blr=0.5, steps_per_epoch=2)
    losses = [float(run.update([Batch(images(4))])) for _ in range(60)]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


def test_state_goes_on_where_it_was():
    run = training()
    for seed in range(3):
        run.update([Batch(images(4, seed))])
    other = training(model_seed=1)
    other.model.load_state_dict(run.model.state_dict())
    other.load_state(copy.deepcopy(run.state()))  # as from a file: a state shares its tensors
    losses = [float(each.update([Batch(images(4, 7))])) for each in (run, other)]
    assert losses[0] == losses[1]
    assert run.step == other.step == 4
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])


def test_the_first_weight_that_is_no_number():
    run = training()
    assert run.non_finite_weight() is None
    with torch.no_grad():
        run.model.decoder_pred.bias[3] = math.inf
    assert run.non_finite_weight() == "decoder_pred.bias"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_step_is_applied_from_the_first_gradient_on_that_is_no_number(value):
    run = training()
    run.update([Batch(images(4, 0))])
    run.update([Batch(images(4, 1))])
    before, moments = weights(run.model), copy.deepcopy(run.optimizer.state_dict()["state"])
    with NoWaiting():  # so the weights are kept without a look at them
        for name in ("norm.weight", "mask_token"):
            hook = run.model.get_parameter(name).register_hook(lambda gradient: gradient * value)
            run.update([Batch(images(4, 2))])
            hook.remove()
        loss = run.update([Batch(images(4, 3))])
    assert loss.isfinite()
    assert run.step == 5
    assert run.non_finite() == NonFinite(3, "norm.weight")
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())
    for number, state in run.optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, moments[number][name]) for name, value in state.items())
    run.load_state(run.state())
    assert run.non_finite() is None


def test_an_optimiser_that_is_not_fused_skips_too():
    run = training()
    run.optimizer = torch.optim.AdamW(run.model.parameters(), fused=False)
    run._skips_itself = False
    run.update([Batch(images(4, 0))])
    before = weights(run.model)
    run._guard.look(run.model, torch.tensor(math.nan))
    run.update([Batch(images(4, 0))])
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())


@given(st.integers(0, 255))
def test_denormalise_undoes_normalise(value):
    picture = torch.full((1, 3, 2, 2), value, dtype=torch.uint8)
    assert torch.equal(denormalise(normalise(picture)), picture)


def test_normalise_after_inference_mode_can_be_trained_through():
    _statistics.cache_clear()
    with torch.inference_mode():
        normalise(images(1))
    scale = torch.ones(1, requires_grad=True)
    (normalise(images(1)) * scale).sum().backward()
    assert scale.grad is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "--epochs is 0"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"accumulate": -1}, "--accumulate is -1"),
        ({"blr": 0.0}, "--blr is 0"),
        ({"blr": math.nan}, "--blr is nan"),
        ({"blr": math.inf}, "--blr is inf"),
        ({"weight_decay": -0.1}, r"--weight-decay is -0\.1"),
        ({"weight_decay": math.nan}, "--weight-decay is nan"),
        ({"warmup_epochs": 101}, "--warmup-epochs is 101.*--epochs 100"),
        ({"warmup_epochs": -1}, "--warmup-epochs is -1"),
        ({"warmup_epochs": math.nan}, "--warmup-epochs is nan"),
        ({"seed": -1}, "--seed is -1"),
        ({"precision": "fp16"}, "--precision 'fp16' is not one of: auto, fp32, bf16"),
    ],
)
def test_a_wrong_setting_names_its_option(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**settings)
