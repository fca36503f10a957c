"""The gate's side of a joint step: its second view, learning from a batch, and a state that repeats it."""

from copy import deepcopy

import pytest
import torch

from mae.mask_learners.gate import Gate, load_gate
from mae.mask_learners.gate_loss import GateObjective
from mae.mask_learners.gate_training import GateSettings, GateTraining
from mae.mask_learners.learner import Look, look_noise
from mae.mask_learners.second_views import random_crops
from mae.mask_learners.second_views import second_view as cropped
from mae.masks.masking import Masking, Part
from mae.models.mask import hidden_count
from tests.tiny_mae import nano

GO, STOP = torch.zeros(()), torch.ones(())


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


def training(*, teacher=False, **settings):
    torch.manual_seed(0)
    model = nano()
    gate = Gate(16, width=16, depth=1)
    return model, GateTraining(gate, model, GateSettings(**settings), teacher=teacher)


def look(pictures, seed=0, **more):
    return Look(pictures, (4, 4), 0.5, look_noise(seeded(seed), len(pictures), torch.device("cpu")), **more)


def second_view(images, noise):
    return cropped(images, random_crops(noise))


def test_second_views_are_crops_and_half_are_mirrored():
    ramp = torch.linspace(-1, 1, 64).expand(200, 1, 64, 64).clone()
    seen = second_view(ramp, torch.rand(4, 200, generator=seeded()))
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
    noise = torch.rand(4, 2, generator=seeded(2))
    seen = second_view(frame.expand(-1, -1, 4, -1, -1), noise)
    assert seen.shape == (2, 3, 4, 16, 16)
    torch.testing.assert_close(seen, seen[:, :, :1].expand_as(seen))
    torch.testing.assert_close(seen[:, :, 0], second_view(frame[:, :, 0], noise))


def test_it_learns_which_patch_stands_out_and_leaves_the_model_alone():
    pictures, truth = images()
    model, gate = training(objective=GateObjective(area=(0.05, 0.2)), learning_rate=0.01)
    before = {name: p.clone() for name, p in model.named_parameters()}
    for step in range(60):
        gate.masks(look(pictures, step))
        gate.apply(1.0, GO)
    assert torch.equal(gate.scores(pictures, model.grid).argmax(1), truth)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())


def test_masks_hide_the_right_number_and_the_share_of_the_important(monkeypatch):
    _, gate = training(ratio=1.0)
    logits = torch.full((50, 16), -1.0)
    logits[:, 3:6] = 1.0
    monkeypatch.setattr(gate, "scores", lambda images, grid: logits)
    mask = gate.draw(look(torch.zeros(50, 3, 32, 32)))
    assert (mask.hidden.sum(1) == hidden_count(16, 0.5)).all()
    assert mask.hidden[:, 3:6].all()


def test_ratio_0_is_random_masking_to_the_bit():
    pictures, _ = images()
    _, gate = training(ratio=0.0)
    expected = Masking(mask_ratio=0.5)(6, (4, 4), generator=seeded(3))
    assert torch.equal(gate.masks(look(pictures, 3)).ids_restore, expected.ids_restore)
    assert torch.equal(gate.draw(look(pictures, 3)).ids_restore, expected.ids_restore)


def test_a_saved_gate_scores_as_before(tmp_path):
    pictures, _ = images()
    model, gate = training()
    gate.save(tmp_path)
    again = load_gate(tmp_path / "gate.safetensors")
    tokens = model.patch_embed(pictures)
    assert torch.equal(again(tokens), gate.network(tokens))
    (tmp_path / "gate.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no gate that can be read"):
        load_gate(tmp_path / "gate.safetensors")


def test_a_restored_gate_goes_on_to_the_bit():
    pictures, _ = images()
    _, first = training()
    for step in range(3):
        first.masks(look(pictures, step))
        first.apply(0.5, GO)
    _, second = training()
    second.load_state(deepcopy(first.state()))
    for gate in (first, second):
        gate.masks(look(pictures, 9))
        gate.apply(0.5, GO)
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_two_looks_of_a_step_add_up():
    pictures, _ = images()
    _, gate = training(objective=GateObjective(contrast=0.0))  # the contrast is the one term that couples a batch
    gate.masks(look(pictures, share=1.0))
    whole = [p.grad.clone() for p in gate.network.parameters()]
    gate.optimizer.zero_grad()
    gate.masks(look(pictures, share=0.25, batch_share=0.25))
    gate.masks(look(pictures, share=0.75, batch_share=0.75))
    for one, other in zip(whole, [p.grad for p in gate.network.parameters()], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("size", "wanted"), [(6, 6), (8, 8), (20, 8), (64, 16), (66, 17)])
def test_it_learns_from_a_quarter_of_the_batch_however_that_is_shared_out(size, wanted):
    _, gate = training()
    pictures = torch.arange(size).float().view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    whole, rows = gate._lesson(look(pictures))
    assert len(rows) == wanted
    assert whole.share == 1
    gaps = rows.diff()
    assert gaps.max() - gaps.min() <= 1
    shared = []
    for places in (torch.arange(0, size, 2), torch.arange(1, size, 2)[:-1]):  # one image can't be read
        part = look(pictures[places], part=Part(places, size), share=0.5)
        lesson, rows = gate._lesson(part)
        assert lesson.part.rows.tolist() == places[rows].tolist() == lesson.images[:, 0, 0, 0].tolist()
        if lesson.share > 0:
            shared += lesson.images[:, 0, 0, 0].tolist()
            assert lesson.share == pytest.approx(len(rows) / wanted)
    assert set(shared) | {size - 1} == set(whole.images[:, 0, 0, 0].tolist()) | {size - 1}


def test_a_process_without_a_lesson_counts_nothing():
    _, gate = training()
    pictures, _ = images(2)
    lesson, rows = gate._lesson(look(pictures, part=Part(torch.tensor([0, 1]), 64), share=0.1))
    assert (lesson.share, rows.tolist()) == (0, [0])
    assert gate._lesson(look(pictures, part=Part(torch.tensor([3, 7]), 64), share=0.0))[0].share == 0


def test_a_stopped_step_changes_nothing():
    pictures, _ = images()
    _, gate = training()
    before = [p.clone() for p in gate.network.parameters()]
    gate.masks(look(pictures))
    gate.apply(1.0, STOP)
    assert all(torch.equal(p, old) for p, old in zip(gate.network.parameters(), before, strict=True))
    gate.masks(look(pictures))
    gate.apply(1.0, GO)
    assert not all(torch.equal(p, old) for p, old in zip(gate.network.parameters(), before, strict=True))


def test_figures_are_the_last_steps():
    pictures, _ = images()
    _, gate = training()
    gate.masks(look(pictures))
    gate.apply(1.0, GO)
    first = gate.figures()
    assert set(first) == {"gate_background", "gate_contrast", "gate_area", "gate_important_hidden", "gate_other_hidden"}
    assert all(0 <= first[name] <= 1 for name in ("gate_area", "gate_important_hidden", "gate_other_hidden"))
    gate.masks(look(pictures * 0))
    assert gate.figures()["gate_contrast"] == first["gate_contrast"]
    gate.apply(1.0, GO)
    assert gate.figures()["gate_contrast"] != first["gate_contrast"]


@pytest.mark.parametrize(("sign", "expected"), [("hide", (1.0, 5 / 13)), ("keep", (0.0, 8 / 13))])
def test_it_counts_what_its_masks_hide_of_the_important_and_of_the_others(monkeypatch, sign, expected):
    pictures, _ = images()
    _, gate = training(ratio=1.0, sign=sign)
    logits = torch.full((6, 16), -1.0)
    logits[:, 3:6] = 1.0
    monkeypatch.setattr(gate.network, "whole", lambda *_: logits)
    saliency = torch.zeros(6, 16)
    saliency[:, 3], saliency[:, 4] = 1.0, 0.5
    for share in (0.25, 0.75):
        gate.masks(look(pictures, saliency=saliency, share=share))
    gate.gather()
    gate.apply(1.0, GO)
    figures = gate.figures()
    names = ("gate_important_hidden", "gate_other_hidden", "gate_salient_hidden")
    assert [float(figures[name]) for name in names] == pytest.approx([*expected, expected[0]])


def test_maps_teach_only_a_gate_with_a_teacher():
    pictures, _ = images()
    learnt = []
    for saliency in (None, torch.rand(6, 16, generator=seeded())):
        _, gate = training()
        gate.masks(look(pictures, saliency=saliency))
        learnt.append(gate.network.project.weight.grad)
    assert torch.equal(*learnt)


def test_a_teacher_pulls_at_the_start_and_not_after_the_warm_start():
    _, gate = training(warm_start=0.5)
    assert [gate.teacher_weight(progress) for progress in (0.0, 0.25, 0.5, 1.0)] == [1.0, 0.5, 0.0, 0.0]
    assert training(warm_start=0.0)[1].teacher_weight(0.0) == 0
    pictures, _ = images()
    saliency = torch.zeros(6, 16)
    saliency[:, 0] = 1.0  # where nothing is
    logits = {}
    for progress in (0.0, 0.6):
        _, gate = training(teacher=True, objective=GateObjective(teacher=20.0), warm_start=0.5, learning_rate=0.01)
        gate.network.positions = True
        for step in range(60):
            gate.masks(look(pictures, step, progress=progress, saliency=saliency))
            gate.apply(1.0, GO)
        logits[progress] = gate.scores(pictures, (4, 4))
    assert (logits[0.0].argmax(1) == 0).all()
    assert (logits[0.6].argmax(1) != 0).all()


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"ratio": 1.5}, "--gate-ratio"), ({"sign": "both"}, "--gate-sign"), ({"learning_rate": 0.0}, "learning rate")],
)
def test_impossible_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        GateSettings(**settings)
