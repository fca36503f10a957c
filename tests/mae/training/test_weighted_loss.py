"""Losses weighted by saliency and by distance, against the weights written out patch by patch."""

import math

import pytest
import torch

from mae.mask_learners.gate import Gate
from mae.mask_learners.gate_training import GateSettings, GateTraining
from mae.masks.masking import Masking
from mae.pixels import normalise
from mae.training.flops import training_flops
from mae.training.settings import TrainingSettings
from mae.training.training import Batch, Training
from mae.training.weighted_loss import hidden_distance, scheduled
from tests.tiny_mae import nano

PICTURES = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def new_training(weight, **settings):
    torch.manual_seed(0)
    options = TrainingSettings(epochs=1, batch_size=3, saliency_weight=weight, warmup_epochs=0, **settings)
    return Training(nano(), Masking(), options, 10)


def maps(kind="random"):
    made = torch.rand(3, 16, generator=torch.Generator().manual_seed(1)) + 0.01
    return {"random": made, "flat": torch.full((3, 16), 0.4), "nothing": torch.zeros(3, 16)}[kind]


def loss(weight, saliency, **settings):
    return new_training(weight, **settings).update([Batch(PICTURES, saliency)]).item()


@pytest.mark.parametrize("decode_ratio", [1.0, 0.5])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_every_error_counts_by_its_saliency(weight, decode_ratio):
    run = new_training(weight, decode_ratio=decode_ratio)
    mask = run.draw_masks(3, None, 0)
    decoded = run.draw_decoded(mask, 0)
    decoded = mask.ids_hidden if decoded is None else decoded
    prediction = run.model.predict(normalise(PICTURES), mask).prediction
    if decode_ratio < 1:
        latent = run.model.encode_visible(normalise(PICTURES), mask.ids_keep)
        prediction = torch.zeros_like(prediction).scatter(
            1,
            decoded[..., None].expand(-1, -1, prediction.shape[2]),
            run.model._fill_in(latent, mask.ids_keep, decoded),
        )
    target = run.model._target(run.model.patchify(normalise(PICTURES)))
    total = 0.0
    for image, patches in enumerate(decoded.tolist()):
        saliency = maps()[image]
        mean = sum(saliency[j].item() for j in patches) / len(patches)
        weights = [1 - weight + weight * saliency[j].item() / mean for j in patches]
        assert sum(weights) / len(weights) == pytest.approx(1)
        errors = [(prediction[image, j] - target[image, j]).square().mean().item() for j in patches]
        total += sum(w * e for w, e in zip(weights, errors, strict=True)) / len(patches) / 3
    assert run.update([Batch(PICTURES, maps())]).item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("kind", ["flat", "nothing"])
def test_a_map_that_says_nothing_is_the_plain_loss(kind):
    assert loss(1.0, maps(kind)) == pytest.approx(loss(0.0, None), rel=1e-6)
    assert loss(0.6, maps(kind)) == pytest.approx(loss(0.0, None), rel=1e-6)


def test_only_proportions_count():
    assert loss(0.8, 1000 * maps()) == pytest.approx(loss(0.8, maps()), rel=1e-5)
    assert loss(0.8, maps()) != pytest.approx(loss(0.0, None), rel=1e-3)


def test_an_image_without_saliency_changes_nothing_for_the_others():
    saliency = maps()
    saliency[1] = 0
    found = new_training(1.0).update([Batch(PICTURES, saliency)]).item()
    run = new_training(1.0)
    mask = run.draw_masks(3, None, 0)
    errors = run.model(normalise(PICTURES), mask, each=True).detach()
    chosen = saliency.gather(1, mask.ids_hidden)
    weights = chosen / chosen.mean(1, keepdim=True)
    weights[1] = 1
    assert found == pytest.approx((errors * weights).mean().item(), rel=1e-5)


def test_a_gate_weighs_by_what_it_calls_important(monkeypatch):
    torch.manual_seed(0)
    model = nano()
    learner = GateTraining(Gate(model.pos_embed.shape[-1]), model, GateSettings(ratio=0.0))
    options = TrainingSettings(epochs=1, batch_size=3, saliency_weight=0.8, weight_by="gate", warmup_epochs=0)
    run = Training(model, Masking(), options, 10, learner=learner)
    assert not run.needs_saliency
    drawn = []
    monkeypatch.setattr(learner, "masks", lambda look, masks=learner.masks: drawn.append(masks(look)) or drawn[-1])
    mask = run.draw_masks(3, None, 0)
    errors = model(normalise(PICTURES), mask, each=True).detach()
    logits = learner.scores(normalise(PICTURES), model.grid)
    run.update([Batch(PICTURES)])
    assert torch.equal(drawn[0].hidden, mask.hidden)  # at --gate-ratio 0
    important = torch.sigmoid(logits).gather(1, mask.ids_hidden)
    assert important.std() > 0.001
    weights = 0.2 + 0.8 * important / important.mean(1, keepdim=True)
    assert run.hidden_loss.item() == pytest.approx((errors * weights).mean().item(), rel=1e-5)


def test_gradients_are_finite_and_reach_the_model():
    run = new_training(1.0)
    before = run.model.decoder_pred.weight.detach().clone()
    run.update([Batch(PICTURES, maps("nothing"))])
    assert run.non_finite() is None
    assert not torch.equal(run.model.decoder_pred.weight, before)


@pytest.mark.parametrize("schedule", ["rise", "fall"])
def test_a_weight_follows_half_a_cosine(schedule):
    steps = [scheduled(0.8, schedule, step / 4) for step in range(5)]
    rising = [0.8 * (1 - math.cos(math.pi * step / 4)) / 2 for step in range(5)]
    assert steps == pytest.approx(rising if schedule == "rise" else rising[::-1])
    assert {scheduled(0.8, "constant", progress) for progress in (0.0, 0.3, 1.0)} == {0.8}
    run = new_training(0.8, saliency_weight_schedule=schedule)
    assert "saliency_weight" not in new_training(0.8).schedules()
    run.step = 5
    assert run.schedules()["saliency_weight"] == pytest.approx(0.4)
    half = new_training(0.4)
    half.step = 5
    assert run.update([Batch(PICTURES, maps())]).item() == half.update([Batch(PICTURES, maps())]).item()
    ends = new_training(1.0, saliency_weight_schedule=schedule)
    assert (ends.update([Batch(PICTURES, maps())]).item() == pytest.approx(loss(0.0, None), rel=1e-6)) == (
        schedule == "rise"
    )


def by_loops(mask, grid):
    """The distance of every visible patch to the nearest hidden one, patch by patch."""
    places = [
        (slot, row, column)
        for slot in range(math.prod(grid[:-2]))
        for row in range(grid[-2])
        for column in range(grid[-1])
    ]
    return [
        [min(math.dist(places[i], places[j]) for j in hidden) for i in kept]
        for kept, hidden in zip(mask.ids_keep.tolist(), mask.ids_hidden.tolist(), strict=True)
    ]


@pytest.mark.parametrize("grid", [(5, 9), (3, 4, 6)], ids=str)
@pytest.mark.parametrize("masking", [Masking(mask_ratio=0.1), Masking("block", mask_ratio=0.4)], ids=str)
def test_distances_are_those_to_the_nearest_hidden_patch(masking, grid):
    mask = masking(4, grid, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(hidden_distance(mask, grid), torch.tensor(by_loops(mask, grid)))
    assert hidden_distance(mask, grid).amin() == 1


@pytest.mark.parametrize("decode_ratio", [1.0, 0.5])
@pytest.mark.parametrize("saliency_weight", [0.0, 0.6])
def test_visible_errors_count_by_their_distance(saliency_weight, decode_ratio):
    options = {"decode_ratio": decode_ratio, "visible_weight": 0.3}
    run = new_training(saliency_weight, **options)
    mask = run.draw_masks(3, None, 0)
    decoded = run.draw_decoded(mask, 0)
    order = torch.cat([mask.ids_keep, mask.ids_hidden if decoded is None else decoded], 1)
    latent = run.model.encode_visible(normalise(PICTURES), mask.ids_keep)
    # the decoder in full, on the patches that it sees
    x = torch.cat([run.model.decoder_embed(latent), run.model.mask_token.expand(3, order.shape[1] - 4, -1)], 1)
    positions = run.model.decoder_pos_embed[0]
    x = x + torch.cat([positions[:1].expand(3, -1, -1), positions[1 + order]], 1)
    for block in run.model.decoder_blocks:
        x = block(x)
    prediction = run.model.decoder_pred(run.model.decoder_norm(x))[:, 1:5]
    target = run.model._target(run.model.patchify(normalise(PICTURES)))
    near, distances = 0.0, by_loops(mask, (4, 4))
    for image, kept in enumerate(mask.ids_keep.tolist()):
        for place, patch in enumerate(kept):
            error = (prediction[image, place] - target[image, patch]).square().mean().item()
            near += error / math.sqrt(distances[image][place]) / 12
    hidden = loss(saliency_weight, maps(), decode_ratio=decode_ratio)
    assert run.update([Batch(PICTURES, maps())]).item() == pytest.approx(hidden + 0.3 * near, rel=1e-5)
    assert run.hidden_loss.item() == pytest.approx(hidden, rel=1e-6)
    seen = training_flops(run.model, 0.75, decode_ratio, predict_visible=True)
    assert run.flops_per_image() == seen > training_flops(run.model, 0.75, decode_ratio)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_impossible_weights_are_refused(weight):
    with pytest.raises(ValueError, match="--saliency-weight"):
        TrainingSettings(saliency_weight=weight)


def test_half_precision():
    assert loss(0.7, maps(), precision="bf16") == pytest.approx(loss(0.7, maps()), rel=0.05)
