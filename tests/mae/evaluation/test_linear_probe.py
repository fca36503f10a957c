"""The stacked heads against heads trained one by one, by a LARS written out and by plain torch modules."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mae.evaluation.linear_probe import RATES, LinearSweep

WIDTH, CLASSES, BATCH, STEPS, WARMUP = 6, 3, 16, 20, 4.0


def batches(steps=STEPS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(CLASSES, WIDTH, generator=generator)
    for _ in range(steps):
        labels = torch.randint(CLASSES, (BATCH,), generator=generator)
        yield 5 + centres[labels] + torch.randn(BATCH, WIDTH, generator=generator), labels


def sweep(rates, **more):
    options = {"batch_size": BATCH, "total_steps": STEPS, "warmup_steps": WARMUP, "seed": 1} | more
    return LinearSweep(WIDTH, CLASSES, rates, **options)


def rate_at(step, blr):
    peak = blr * BATCH / 256
    return peak * step / WARMUP if step < WARMUP else peak * (1 + math.cos(math.pi * (step - WARMUP) / 16)) / 2


def train_by_hand(blr, start):
    """LARS as its paper has it (no weight decay, trust 0.001), on one head; the bias by plain momentum."""
    norm = nn.BatchNorm1d(WIDTH, affine=False, eps=1e-6)
    weight, bias = start.clone(), torch.zeros(CLASSES)
    speeds = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for step, (features, labels) in enumerate(batches()):
        x = norm(features)
        probabilities = (x @ weight.T + bias).softmax(1)
        error = (probabilities - F.one_hot(labels, CLASSES)) / BATCH  # the gradient of the mean cross-entropy
        gradients = [error.T @ x, error.sum(0)]
        gradients[0] = gradients[0] * (0.001 * weight.norm() / gradients[0].norm())
        for i, gradient in enumerate(gradients):
            speeds[i] = 0.9 * speeds[i] + gradient
        weight = weight - rate_at(step, blr) * speeds[0]
        bias = bias - rate_at(step, blr) * speeds[1]
    return weight, bias, norm


def test_every_head_of_a_sweep_is_the_one_trained_by_hand():
    rates = (0.1, 3.0, 100.0)
    ours = sweep(rates)
    start = ours.weights[0].detach().clone()
    assert all(torch.equal(weight, start) for weight in ours.weights)
    for features, labels in batches():
        ours.update(features, labels)
    for number, blr in enumerate(rates):
        weight, bias, norm = train_by_hand(blr, start)
        torch.testing.assert_close(ours.weights[number].detach(), weight, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.biases[number].detach(), bias, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.norm.running_mean, norm.running_mean)
    assert not torch.allclose(ours.weights[2], ours.weights[0], atol=1e-4)


def test_a_sweep_is_its_heads_trained_apart():
    together = sweep(RATES)
    apart = [sweep((rate,)) for rate in RATES]
    for features, labels in batches():
        losses = together.update(features, labels)
        alone = torch.cat([head.update(features, labels) for head in apart])
        torch.testing.assert_close(losses, alone, atol=1e-5, rtol=1e-5)
    x, _ = next(batches(1, seed=5))
    torch.testing.assert_close(together.logits(x), torch.cat([head.logits(x) for head in apart]), atol=1e-5, rtol=1e-5)


def test_a_head_that_diverges_harms_no_other():
    rates = (1.0, 1e30)
    ours, alone = sweep(rates), sweep(rates[:1])
    for features, labels in batches():
        ours.update(features, labels)
        alone.update(features, labels)
    assert not ours.weights[1].isfinite().all()
    torch.testing.assert_close(ours.weights[0], alone.weights[0])


def test_it_learns_and_judges_by_the_statistics_of_training():
    ours = sweep((300.0,), total_steps=200)  # enough for the start that any version of torch draws
    for features, labels in batches(200):
        ours.update(features, labels)
    features, labels = next(batches(1))
    assert float((ours.logits(features)[0].argmax(1) == labels).float().mean()) > 0.8
    torch.testing.assert_close(ours.logits(features[:1])[:, 0], ours.logits(features)[:, 0])
    assert ours.logits(features).shape == (1, BATCH, CLASSES)


def test_a_resumed_sweep_is_the_uninterrupted_one_to_the_bit():
    whole, first, second = sweep(RATES), sweep(RATES), sweep(RATES, seed=8)
    for number, (features, labels) in enumerate(batches()):
        whole.update(features, labels)
        if number == 7:
            second.load_state(first.state())
        (first if number < 7 else second).update(features, labels)
    assert second.step == whole.step == STEPS
    assert all(torch.equal(a, b) for a, b in zip(whole.weights, second.weights, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole.biases, second.biases, strict=True))


def test_features_of_an_inference_pass_serve():
    with torch.inference_mode():
        features = torch.randn(BATCH, WIDTH).half()
    assert sweep((1.0,)).update(features, torch.arange(BATCH) % CLASSES).shape == (1,)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_start_follows_from_the_seed(seed):
    assert torch.equal(sweep((1.0,), seed=seed).weights[0], sweep((2.0,), seed=seed).weights[0])
    assert not torch.equal(sweep((1.0,), seed=seed).weights[0], sweep((1.0,), seed=seed + 1).weights[0])
