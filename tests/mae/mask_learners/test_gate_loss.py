"""The gate's terms against loops that follow their equations, and what breaks the symmetry of region and background."""

import math

import pytest
import torch

from mae.mask_learners.gate_loss import (
    GateObjective,
    area_penalty,
    background_distance,
    background_loss,
    frame_of,
    gate_loss,
    pool_regions,
    region_contrast,
    teacher_loss,
)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scene(batch=2, side=6, size=2, noise=0.05):
    """Embeddings [batch, side², 8]: a background of two kinds of patches, and inside it an object unlike both."""
    z = noise * draws(batch, side, side, 8)
    z[:, ::2, :, 0] += 1
    z[:, 1::2, :, 1] += 1
    truth = torch.zeros(side, side, dtype=torch.bool)
    truth[2 : 2 + size, 2 : 2 + size] = True
    z, truth = z.flatten(1, 2), truth.flatten()
    z[:, truth] = noise * draws(batch, size * size, 8, seed=1)
    z[:, truth, 2] += 1
    return z, truth


def test_regions_are_weighted_means():
    p, z = torch.sigmoid(draws(2, 5)), draws(2, 5, 3)
    important, background = pool_regions(p, z)
    for image in range(2):
        f = sum(p[image, n] * z[image, n] for n in range(5)) / p[image].sum()
        b = sum((1 - p[image, n]) * z[image, n] for n in range(5)) / (1 - p[image]).sum()
        torch.testing.assert_close(important[image], f, atol=1e-5, rtol=0)
        torch.testing.assert_close(background[image], b, atol=1e-5, rtol=0)


def test_contrast_equals_a_loop():
    f, b, temperature = draws(6, 4), draws(6, 4, seed=1), 0.3

    def product(x, y):
        return math.exp(float(x @ y / x.norm() / y.norm()) / temperature)

    total = 0.0
    for i in range(6):
        others = range(3, 6) if i < 3 else range(3)
        rivals = sum(product(f[i], f[j]) for j in others) + sum(product(f[i], b[j]) for j in range(6))
        total -= math.log(product(f[i], f[(i + 3) % 6]) / rivals)
    assert float(region_contrast(f, b, temperature)) == pytest.approx(total / 6, rel=1e-5)


def test_distance_equals_a_loop():
    p, z, frame = torch.sigmoid(draws(1, 9)), draws(1, 9, 4), frame_of((3, 3))
    squared = [[float(((z[0, n] - z[0, m]) ** 2).sum()) for m in range(9)] for n in range(9)]
    scale = 0.03 * sum(map(sum, squared)) / 81
    found = []
    for n in range(9):
        weights = {m: float(1 - p[0, m]) for m in range(9) if m != n and frame[m]}
        near = sum(w * math.exp(-squared[n][m] / scale) for m, w in weights.items()) / sum(weights.values())
        found.append(-0.03 * math.log(near))
    shifted = [d - min(found) for d in found]
    expected = torch.tensor([d * 9 / sum(shifted) for d in shifted])
    torch.testing.assert_close(background_distance(p, z, frame)[0], expected, atol=2e-3, rtol=0)


def test_a_frame_patch_is_background_for_being_there_only_if_that_is_asked_for():
    z, p, frame = draws(3, 16, 4), torch.full((3, 16), 0.5), frame_of((4, 4))
    assert background_distance(p, z, frame, with_itself=True)[:, frame].max() < 0.2
    assert background_distance(p, z, frame)[:, frame].mean() > 0.5


def test_frame_is_the_outermost_patches_of_every_frame():
    assert frame_of((3, 4)).view(3, 4).tolist() == [[True] * 4, [True, False, False, True], [True] * 4]
    video = frame_of((2, 3, 4)).view(2, 12)
    assert torch.equal(video[0], frame_of((3, 4)))
    assert torch.equal(video[0], video[1])
    assert frame_of((1, 5)).all()


def test_distance_finds_an_object_in_a_background_of_many_parts():
    z, truth = scene()
    distance = background_distance(torch.full((2, 36), 0.5), z, frame_of((6, 6)))
    assert distance[:, truth].min() > 3 * distance[:, ~truth].max()
    torch.testing.assert_close(distance.mean(1), torch.ones(2), atol=1e-4, rtol=0)


def test_what_touches_the_frame_and_is_called_important_is_no_background():
    z, _ = scene(1)
    z = z.view(1, 6, 6, 8)
    z[:, 0, :2] = z[:, 2, 2]  # a part of the object at the frame
    z = z.flatten(1, 2)
    importance = torch.full((1, 36), 0.1)
    unaware = background_distance(importance, z, frame_of((6, 6)))[0, 14]
    importance[0, :2] = 1.0
    aware = background_distance(importance, z, frame_of((6, 6)))[0, 14]
    assert aware > 2 * unaware


def test_area_is_free_within_its_range_and_costs_outside():
    share = torch.tensor([[0.05], [0.1], [0.3], [0.5]]).expand(-1, 8)
    assert area_penalty(share[1:3], (0.1, 0.3)) == 0
    assert float(area_penalty(share, (0.1, 0.3))) == pytest.approx((0.05**2 + 0.2**2) / 4)


def test_the_truth_costs_less_than_its_opposite_though_the_contrast_can_not_tell():
    z, truth = scene(4)
    logits = torch.where(truth, 4.0, -4.0).expand(4, -1)
    objective = GateObjective(area=(0.05, 0.4))
    right, wrong = (gate_loss(sign * logits, z, (6, 6), objective) for sign in (1, -1))
    assert right.background < 0.5 * wrong.background
    assert right.area == 0 < wrong.area
    assert right.total < wrong.total


@pytest.mark.parametrize("start", [1.0, -1.0])
def test_descent_finds_the_object_from_either_side(start):
    """Logits are free here: what is learnt is the objective's doing, even from the wrong side of the symmetry."""
    z, truth = scene(4)
    logits = (start * torch.where(truth, -1.0, 1.0).expand(4, -1)).clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(60):
        loss = gate_loss(logits, z, (6, 6), GateObjective())
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert logits[:, truth].min() > 0 > logits[:, ~truth].max()


def test_gradients_stop_at_the_embeddings():
    z, _ = scene()
    z.requires_grad_()
    logits = torch.zeros(2, 36, requires_grad=True)
    gate_loss(logits, z, (6, 6), GateObjective()).total.backward()
    assert z.grad is None
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_equal_patches_and_saturated_gates_give_finite_gradients():
    for value in (0.0, 200.0, -200.0):
        logits = torch.full((2, 36), value, requires_grad=True)
        gate_loss(logits, torch.ones(2, 36, 8), (6, 6), GateObjective()).total.backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_background_loss_weighs_distance_against_cost():
    distance, sure = torch.tensor([[0.5, 1.5]]), torch.tensor([[-50.0, 50.0]])
    assert float(background_loss(sure, distance, 1.0, 1.0)) == pytest.approx(0.75)
    assert float(background_loss(-sure, distance, 1.0, 1.0)) == pytest.approx(1.25)


def test_background_loss_is_least_where_logits_are_distances_less_the_cost():
    distance = draws(2, 6).abs()
    best = ((distance - 1.5) / 0.5).requires_grad_()
    loss = background_loss(best, distance, 1.5, 0.5)
    loss.backward()
    assert best.grad.abs().max() < 1e-6
    assert all(background_loss(best + 0.1 * draws(2, 6, seed=seed), distance, 1.5, 0.5) > loss for seed in range(1, 6))


def test_teacher_loss_is_least_at_the_map_and_ignores_empty_maps():
    saliency = torch.tensor([[0.0, 1.0, 3.0]])
    at_map = teacher_loss(torch.log(saliency + 1e-9), 7 * saliency)
    assert float(at_map) == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), abs=1e-4)
    assert at_map < teacher_loss(torch.zeros(1, 3), saliency)
    assert teacher_loss(draws(2, 3), torch.zeros(2, 3)) == 0


@pytest.mark.parametrize(
    "settings", [{"area": (0.1, 0.5)}, {"area": (0.3, 0.2)}, {"contrast": -1.0}, {"temperature": 0.0}]
)
def test_impossible_objectives_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        GateObjective(**settings)
