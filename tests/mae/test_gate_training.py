"""The gate's side of a joint step: its second view, learning from a batch, and a state that repeats it."""

from copy import deepcopy

import pytest
import torch

from mae.gate import Gate
from mae.gate_loss import GateObjective
from mae.gate_training import GateSettings, GateTraining, second_view
from mae.masking import hidden_count
from tests.tiny_mae import nano


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=6):
    """A flat grey picture of noise with a bright square somewhere inside, [count, 3, 32, 32], and that's patch."""
    generator = seeded(1)
    pictures = 0.1 * torch.randn(count, 3, 32, 32, generator=generator)
    places = torch.randint(1, 3, (2, count), generator=generator)
    for image, (row, column) in enumerate(places.T.tolist()):
        pictures[image, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 2
    return pictures, places[0] * 4 + places[1]


def training(**settings):
    torch.manual_seed(0)
    model = nano()
    gate = Gate(16, width=16, depth=1)
    return model, GateTraining(gate, model.patch_embed, GateSettings(**settings), model.grid)


def test_second_views_are_crops_and_half_are_mirrored():
    ramp = torch.linspace(-1, 1, 64).expand(200, 1, 64, 64).clone()
    seen = second_view(ramp, seeded())
    across = seen[:, 0, 32, -1] - seen[:, 0, 32, 0]
    assert 70 < (across < 0).sum() < 130
    assert seen.abs().max() <= 1
    sides = across.abs() / 2  # the crop's width as a share of the image
    assert 0.6 < sides.min() < 0.7
    assert 0.95 < sides.max() <= 1
    steps = seen.diff(dim=-1)
    assert ((steps >= -1e-6).all((1, 2, 3)) | (steps <= 1e-6).all((1, 2, 3))).all()


def test_frames_of_a_video_share_their_crop():
    frame = torch.rand(2, 3, 1, 16, 16, generator=seeded())
    seen = second_view(frame.expand(-1, -1, 4, -1, -1), seeded(2))
    assert seen.shape == (2, 3, 4, 16, 16)
    torch.testing.assert_close(seen, seen[:, :, :1].expand_as(seen))
    torch.testing.assert_close(seen[:, :, 0], second_view(frame[:, :, 0], seeded(2)))


def test_it_learns_which_patch_stands_out_and_leaves_the_model_alone():
    pictures, truth = images()
    model, gate = training(objective=GateObjective(area=(0.05, 0.2)), learning_rate=0.01)
    before = {name: p.clone() for name, p in model.named_parameters()}
    for step in range(60):
        logits, _ = gate.look(pictures, seeded(step))
        gate.apply(1.0)
    assert torch.equal(logits.argmax(1), truth)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())


def test_masks_hide_the_right_number_and_the_share_of_the_important():
    _, gate = training(ratio=1.0)
    logits = torch.full((50, 16), -1.0)
    logits[:, 3:6] = 1.0
    mask = gate.masks(logits, 0.5, seeded())
    assert (mask.hidden.sum(1) == hidden_count(16, 0.5)).all()
    assert mask.hidden[:, 3:6].all()


def test_a_restored_gate_goes_on_to_the_bit():
    pictures, _ = images()
    _, first = training()
    for step in range(3):
        first.look(pictures, seeded(step))
        first.apply(0.5)
    _, second = training()
    second.load_state(deepcopy(first.state()))
    for gate in (first, second):
        gate.look(pictures, seeded(9))
        gate.apply(0.5)
    for one, other in zip(first.gate.parameters(), second.gate.parameters(), strict=True):
        assert torch.equal(one, other)


def test_two_looks_of_a_step_add_up():
    pictures, _ = images()
    _, gate = training(objective=GateObjective(contrast=0.0))  # the contrast is the one term that couples a batch
    gate.look(pictures, seeded(), share=1.0)
    whole = [p.grad.clone() for p in gate.gate.parameters()]
    gate.optimizer.zero_grad()
    gate.look(pictures, seeded(), share=0.25)
    gate.look(pictures, seeded(), share=0.75)
    for one, other in zip(whole, [p.grad for p in gate.gate.parameters()], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_a_step_that_is_not_finite_changes_nothing():
    pictures, _ = images()
    _, gate = training()
    before = [p.clone() for p in gate.gate.parameters()]
    gate.look(pictures * torch.nan, seeded())
    gate.apply(1.0)
    assert all(torch.equal(p, old) for p, old in zip(gate.gate.parameters(), before, strict=True))
    found = gate.non_finite(1)
    assert found is not None
    assert found.step == 1


def test_scores_are_those_it_learns_with():
    pictures, _ = images()
    _, gate = training()
    seen = gate.scores(pictures)
    torch.testing.assert_close(seen, gate.look(pictures, seeded())[0])
    assert not seen.requires_grad


def test_a_teacher_pulls_at_the_start_and_not_after_the_warm_start():
    _, gate = training(warm_start=0.5)
    assert [gate.teacher_weight(progress) for progress in (0.0, 0.25, 0.5, 1.0)] == [1.0, 0.5, 0.0, 0.0]
    assert training(warm_start=0.0)[1].teacher_weight(0.0) == 0
    pictures, _ = images()
    saliency = torch.zeros(6, 16)
    saliency[:, 0] = 1.0  # where nothing is
    logits = {}
    for progress in (0.0, 0.6):
        _, gate = training(objective=GateObjective(teacher=20.0), warm_start=0.5, learning_rate=0.01)
        gate.gate.positions = True
        for step in range(60):
            logits[progress], _ = gate.look(pictures, seeded(step), progress=progress, saliency=saliency)
            gate.apply(1.0)
    assert (logits[0.0].argmax(1) == 0).all()
    assert (logits[0.6].argmax(1) != 0).all()


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"ratio": 1.5}, "--gate-ratio"), ({"sign": "both"}, "--gate-sign"), ({"learning_rate": 0.0}, "learning rate")],
)
def test_impossible_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        GateSettings(**settings)
