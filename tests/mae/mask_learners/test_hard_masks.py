"""Masks of the hard patches: the relative objective against loops, the schedule, and a difficulty that was planted."""

import math
from copy import deepcopy

import pytest
import torch

from mae.distributed import World
from mae.mask_learners.gate import Gate
from mae.mask_learners.hard import HardMasks, HardSettings, relative_loss
from mae.mask_learners.learner import Look, look_noise
from mae.masks.masking import Masking, Part
from mae.training.settings import TrainingSettings
from mae.training.training import Batch, Training
from tests.tiny_mae import nano

GO, STOP = torch.zeros(()), torch.ones(())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def look(images, seed=0, **more):
    noise = look_noise(seeded(seed), len(images), torch.device("cpu"), more.get("part"))
    return Look(images, (4, 4), 0.5, noise, **more)


def new_masks(model, **settings):
    torch.manual_seed(1)
    return HardMasks(Gate(16, width=16, depth=1), model.embed, HardSettings(**settings))


def new_training(batch_size=4, epochs=2, steps=4, learner=True, blr=0.05, **settings):
    torch.manual_seed(0)
    model = nano()
    options = TrainingSettings(epochs=epochs, batch_size=batch_size, blr=blr, warmup_epochs=0, **settings)
    return Training(model, Masking(), options, steps, learner=new_masks(model) if learner else None)


def pictures(count, seed=0):
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=seeded(seed))


# What it learns by


def test_the_objective_is_the_cross_entropy_of_every_pair():
    predicted, errors = torch.randn(2, 3, 7, generator=seeded())
    errors[1, 2] = errors[1, 5]
    images, right = [], []
    for p, e in zip(predicted.tolist(), errors.tolist(), strict=True):
        pairs = [(i, j) for i in range(7) for j in range(7) if e[i] > e[j]]
        images.append(sum(math.log(1 + math.exp(p[j] - p[i])) for i, j in pairs) / len(pairs))
        right.append(sum(p[i] > p[j] for i, j in pairs) / len(pairs))
    found = relative_loss(predicted, errors)
    assert [value.item() for value in found] == pytest.approx([sum(images) / 3, sum(right) / 3], rel=1e-5)


def test_the_objective_knows_orders_alone():
    errors = torch.rand(2, 5, generator=seeded())
    assert relative_loss(100 * errors, errors)[1] == 1
    assert relative_loss(-100 * errors, errors)[1] == 0
    assert relative_loss(torch.zeros(2, 5), errors)[0] == pytest.approx(math.log(2))
    torch.testing.assert_close(relative_loss(errors, errors), relative_loss(errors, errors**3))
    assert relative_loss(errors, torch.ones(2, 5))[0] == 0, "equal errors have no order"


def test_planted_difficulty_is_found():
    """Patches of noise can't be filled in, flat ones can: the first are predicted to have the higher errors."""
    noisy = torch.rand(40, 16, generator=seeded()) < 0.4
    cells = noisy.view(40, 1, 4, 1, 4, 1).expand(-1, 3, -1, 8, -1, 8).reshape(40, 3, 32, 32)
    images = torch.where(cells, pictures(40), 128).to(torch.uint8)
    run = new_training(8, epochs=8, steps=5)
    before = order(run, images, noisy)
    for step in range(40):
        start = 8 * (step % 5)
        run.update([Batch(images[start : start + 8])])
    found = order(run, images, noisy)
    assert found > 0.95
    assert found > before + 0.2
    assert run.learner.figures()["hard_order"] > 0.6


def order(run, images, noisy):
    """The share of pairs, one patch of noise and one flat, of which the first has the higher predicted error."""
    from mae.pixels import normalise

    with torch.no_grad():
        predicted = run.learner.network(run.learner.embed(normalise(images)))
    shares = [
        (p[n][:, None] > p[~n][None, :]).float().mean()
        for p, n in zip(predicted, noisy, strict=True)
        if 0 < n.sum() < 16
    ]
    return torch.stack(shares).mean().item()


def test_the_autoencoder_gets_no_gradient_from_it():
    model = nano()
    masks = new_masks(model)
    seen = look(torch.randn(4, 3, 32, 32, generator=seeded()))
    masks.masks(seen)
    masks.hear(seen, torch.arange(8).expand(4, -1), torch.rand(4, 8, generator=seeded()))
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in masks.network.parameters())


def test_parts_add_up_to_the_whole():
    model, images = nano(), torch.randn(8, 3, 32, 32, generator=seeded())
    errors, decoded = torch.rand(8, 8, generator=seeded()), torch.rand(8, 16, generator=seeded(1)).argsort(1)[:, :8]
    whole, parts = new_masks(model), new_masks(model)
    for masks, pieces in ((whole, [range(8)]), (parts, [range(2), range(2, 8)])):
        for piece in pieces:
            rows = torch.tensor(piece)
            seen = look(images[rows], share=len(piece) / 8, part=Part(rows, 8), progress=1.0)
            masks.masks(seen)
            masks.hear(seen, decoded[rows], errors[rows])
    for one, other in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(whole.loss, parts.loss)


def test_images_that_count_nothing_leave_gradients_of_zero():
    masks = new_masks(nano())
    seen = look(torch.zeros(1, 3, 32, 32), share=0.0)
    masks.masks(seen)
    masks.hear(seen, torch.arange(8)[None], torch.zeros(1, 8))
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in masks.network.parameters())


# Whom it hides


def test_the_share_grows_from_nothing_to_half_of_the_mask():
    settings = HardSettings()
    assert [settings.count(147, progress) for progress in (0.0, 0.25, 0.5, 1.0)] == [0, 18, 37, 74]
    assert HardSettings(final=1.0).count(147, 1.0) == 147
    assert HardSettings(final=0.0).count(147, 1.0) == 0


def test_the_hardest_are_hidden_and_the_rest_is_random():
    images = torch.randn(300, 3, 32, 32, generator=seeded())
    masks = new_masks(nano(), final=1.0)
    predicted = masks.network(masks.embed(images))
    hidden = masks.draw(look(images, progress=0.5)).hidden
    assert hidden.sum(1).tolist() == [8] * 300
    in_order = hidden.gather(1, predicted.argsort(dim=1, descending=True))
    assert in_order[:, :4].all()
    assert in_order[:, 4:].float().mean(0) == pytest.approx(torch.full((12,), 1 / 3), abs=0.12)


def test_at_the_start_it_is_random_masking_to_the_bit():
    images = torch.randn(5, 3, 32, 32, generator=seeded())
    expected = Masking(mask_ratio=0.5)(5, (4, 4), generator=seeded(3))
    masks = new_masks(nano())
    assert torch.equal(masks.masks(look(images, 3)).ids_restore, expected.ids_restore)
    assert torch.equal(masks.draw(look(images, 3)).ids_restore, expected.ids_restore)
    assert not torch.equal(masks.draw(look(images, 3, progress=1.0)).ids_restore, expected.ids_restore)


def test_a_first_step_has_the_loss_of_a_random_one():
    ours, randoms = new_training(), new_training(learner=False)
    batch = Batch(pictures(4))
    assert ours.update([batch]).item() == pytest.approx(randoms.update([batch]).item(), rel=1e-5)


# Its place in a training


@pytest.mark.parametrize("decode_ratio", [1.0, 0.5])
def test_a_resumed_run_has_the_same_bits(decode_ratio):
    through, begun, resumed = (new_training(decode_ratio=decode_ratio, accumulate=2) for _ in range(3))
    steps = [[Batch(pictures(4, 10 * step + number)) for number in range(2)] for step in range(8)]
    for step in range(4):
        begun.update(steps[step])
    resumed.model.load_state_dict(deepcopy(begun.model.state_dict()))
    resumed.load_state(deepcopy(begun.state()))
    losses = [through.update(step).item() for step in steps]
    assert [resumed.update(step).item() for step in steps[4:]] == losses[4:]
    for one, other in zip(through.learner.network.parameters(), resumed.learner.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_stopped_step_changes_nothing():
    images = torch.randn(4, 3, 32, 32, generator=seeded())
    masks = new_masks(nano())
    before = [p.clone() for p in masks.network.parameters()]
    for stop in (STOP, GO):
        seen = look(images)
        masks.masks(seen)
        masks.hear(seen, torch.arange(8).expand(4, -1), torch.rand(4, 8, generator=seeded()))
        masks.apply(1.0, stop)
        same = all(torch.equal(p, old) for p, old in zip(masks.network.parameters(), before, strict=True))
        assert same == bool(stop)


def test_half_precision_trains():
    run = new_training(precision="bf16")
    losses = [run.update([Batch(pictures(4, step))]).item() for step in range(3)]
    assert all(map(math.isfinite, losses))
    assert run.non_finite() is None


def test_a_split_model_is_refused():
    with pytest.raises(ValueError, match="--shard-model .*--masking hard"):
        new_training().distribute(World(), parts=True)


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"final": 1.5}, "--hard-final"), ({"final": -0.1}, "--hard-final"), ({"learning_rate": 0.0}, "learning rate")],
)
def test_impossible_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        HardSettings(**settings)
