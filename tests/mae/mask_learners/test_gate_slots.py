"""Regions learnt by contrast: agreement of two views, the contrast of slots, and which slots touch the frame."""

import torch
import torch.nn.functional as F

from mae.mask_learners.gate_loss import frame_of
from mae.mask_learners.gate_slots import Slots, SlotView, agreement, log_assignments, slot_contrast, slot_sums
from mae.mask_learners.second_views import align, random_crops, second_view


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def view(vectors, cosines, slots=None):
    slots = slots or Slots(16, cosines.shape[2])
    return SlotView(vectors, cosines, vectors, slots.targets(cosines))


def test_patches_of_the_second_view_take_what_lies_there_in_the_first():
    noise = torch.rand(4, 6, generator=seeded())
    crops = random_crops(noise)
    ramp = torch.rand(6, 3, 1, 1, generator=seeded(1)) + torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(6, 3, 64, 64)
    patches = F.avg_pool2d(ramp, 8)
    seen = F.avg_pool2d(second_view(ramp, crops), 8)
    aligned = align(patches.flatten(2).transpose(1, 2), crops, (8, 8))
    inside = seen.flatten(2).transpose(1, 2)
    edge = (inside < patches.amin() + 0.1) | (inside > patches.amax() - 0.1)  # the border is padded
    torch.testing.assert_close(aligned[~edge], inside[~edge], atol=0.02, rtol=0)
    clip = align(torch.cat([patches, 2 * patches], 2).flatten(2).transpose(1, 2), crops, (2, 8, 8))
    torch.testing.assert_close(clip[:, :64], aligned)
    torch.testing.assert_close(clip[:, 64:], 2 * aligned)


def test_views_that_agree_cost_little_and_views_that_differ_much():
    places = torch.randint(5, (3, 16), generator=seeded())
    one = F.one_hot(places, 5).float()
    same, other = torch.cat([one, one]), torch.cat([one, one.roll(1, 2)])
    vectors = torch.randn(6, 16, 8, generator=seeded())
    costs = []
    for cosines in (same, other):
        seen = view(vectors, cosines)
        costs.append(float(agreement(seen, seen.targets[:3], log_assignments(cosines[:3]))))
    assert costs[0] < 0.01
    assert costs[1] > 5


def test_the_contrast_is_that_of_a_loop():
    generator = seeded()
    vectors = F.normalize(torch.randn(6, 16, 8, generator=generator), dim=2)
    cosines = torch.rand(6, 16, 3, generator=generator)
    seen = view(vectors, cosines)
    weights = ((cosines / 0.1).softmax(2), seen.targets)
    means = [F.normalize(torch.einsum("bnk,bne->bke", w, vectors), dim=2) for w in weights]
    there = torch.zeros(6, 3)
    for image in range(6):
        for patch in range(16):
            there[image, seen.targets[image, patch].argmax()] += 1
    common = [(b, k) for b in range(3) for k in range(3) if min(there[b, k], there[b + 3, k]) >= 2]
    losses = []
    for here, beyond in ((0, 3), (3, 0)):
        for b, k in common:
            products = torch.stack([means[0][b + here, k] @ means[1][c + beyond, j] / 0.2 for c, j in common])
            losses.append(products.logsumexp(0) - products[common.index((b, k))])
    torch.testing.assert_close(slot_contrast(seen), torch.stack(losses).mean())


def test_slots_that_touch_the_frame_are_background():
    grid = (6, 6)
    frame, slots = frame_of(grid), Slots(16, 2)
    assigned = torch.zeros(1, 36, 2)
    inner = torch.zeros(6, 6, dtype=torch.bool)
    inner[2:4, 2:4] = True
    assigned[0, :, 0] = inner.flatten().float()
    assigned[0, :, 1] = 1 - assigned[0, :, 0]
    score = slots.inner(assigned, frame)
    assert score[0, inner.flatten()].min() > score[0, ~inner.flatten()].max()
    torch.testing.assert_close(score.mean(1), torch.zeros(1))
    torch.testing.assert_close(score.std(1), torch.ones(1))
    logits = torch.randn(1, 36, generator=seeded())
    torch.testing.assert_close(slots.combine(logits, assigned, frame) - logits, 0.5 * logits.std() * score)


def test_the_running_means_are_those_of_the_batches_seen():
    slots, frame = Slots(16, 2), frame_of((4, 4))
    targets = torch.zeros(2, 16, 2)
    targets[..., 0] = frame.float()
    targets[..., 1] = 1 - targets[..., 0]
    sums = slot_sums(torch.ones(2, 16, 2), targets, frame)
    slots.note(sums, torch.ones(()))
    assert (slots.centre == 0).all()
    for _ in range(100):
        slots.note(sums, torch.zeros(()))
    torch.testing.assert_close(slots.centre, torch.ones(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(slots.on_frame, torch.tensor([1.0, 0.0]), atol=1e-3, rtol=0)
