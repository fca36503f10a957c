"""What a gate reads: tokens of a momentum encoder, of all patches or every second, and what a saved gate carries."""

from copy import deepcopy

import pytest
import torch

from mae.mask_learners.gate import Gate, load_gate, save_gate, tenth_width
from mae.mask_learners.gate_reading import checkerboard, middle_blocks, spread
from mae.mask_learners.gate_training import GateSettings, GateTraining, new_gate
from mae.mask_learners.learner import Look, look_noise
from mae.mask_learners.momentum import MomentumEncoder
from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder

CPU = torch.device("cpu")
ASKED = {"gate_depth": 2, "gate_width": None, "gate_positions": False, "gate_slots": 0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def deep(depth=4):
    torch.manual_seed(0)
    return MaskedAutoencoder(32, 8, 24, depth, 2, 16, 1, 2).eval()


def clips():
    torch.manual_seed(0)
    return VideoMaskedAutoencoder(
        32, 8, 4, 2, width=24, depth=4, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2
    ).eval()


def look(pictures, grid=(4, 4), seed=0, **more):
    return Look(pictures, grid, 0.5, look_noise(seeded(seed), len(pictures), CPU), **more)


def test_it_is_the_encoders_own_tokens_where_it_starts():
    model, images = deep(), torch.randn(2, 3, 32, 32, generator=seeded())
    seen = []
    model.blocks[1].register_forward_hook(lambda _, __, out: seen.append(out))
    model.encode(images)
    gate = Gate(24, 16, reader=MomentumEncoder.of(model, 2))
    torch.testing.assert_close(gate.read(model, images), seen[0][:, 1:])


def test_every_second_patch_is_what_the_encoder_makes_of_those_alone():
    model, images = deep(), torch.randn(2, 3, 32, 32, generator=seeded())
    places = torch.tensor([0, 2, 5, 7, 8, 10, 13, 15])
    assert torch.equal(checkerboard((4, 4), CPU), places)
    seen = []
    model.blocks[0].register_forward_hook(lambda _, __, out: seen.append(out))
    model.encode_visible(images, places.expand(2, -1))
    gate = Gate(24, 16, reader=MomentumEncoder.of(model, 1), sparse=True)
    torch.testing.assert_close(gate.read(model, images), seen[0][:, 1:])


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (2, 3, 4), (1, 1)])
def test_patches_between_get_their_neighbours_mean(grid):
    places = checkerboard(grid, CPU)
    values = torch.rand(2, len(places), generator=seeded())
    whole = spread(values, grid)
    assert torch.equal(whole[:, places], values)
    slots, rows, columns = (1, *grid)[-3:]
    known = {int(place): values[:, index] for index, place in enumerate(places)}
    for place in set(range(slots * rows * columns)) - set(known):
        slot, row, column = place // (rows * columns), place // columns % rows, place % columns
        around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        beside = [(slot * rows + r) * columns + c for r, c in around if 0 <= r < rows and 0 <= c < columns]
        torch.testing.assert_close(whole[:, place], torch.stack([known[each] for each in beside]).mean(0))
    both = spread(torch.stack([values, -values], dim=2), grid)
    assert torch.equal(both[..., 0], whole)


def test_a_patch_without_neighbours_gets_the_images_mean():
    assert torch.equal(spread(torch.tensor([[3.0]]), (2, 1, 1)), torch.tensor([[3.0, 3.0]]))


@pytest.mark.parametrize("make", [deep, clips])
@pytest.mark.parametrize(("reads", "slots"), [("middle", 0), ("middle-all", 4), ("patches", 4)])
def test_a_saved_gate_carries_what_it_reads(tmp_path, make, reads, slots):
    model = make()
    gate = new_gate(ASKED | {"gate_reads": reads, "gate_slots": slots}, model)
    images = torch.randn(2, 3, *([4] if make is clips else []), 32, 32, generator=seeded())
    before = gate.scores(model, images)
    assert before.shape == (2, model.pos_embed.shape[1] - model.class_tokens)
    save_gate(gate, tmp_path / "gate.safetensors")
    again = load_gate(tmp_path / "gate.safetensors")
    if reads != "patches":  # it is the gate's own, and not the model's
        with torch.no_grad():
            [p.zero_() for p in model.blocks.parameters()]
    assert torch.equal(again.scores(model, images), before)


def test_images_of_another_size_are_read():
    model = deep()
    gate = new_gate(ASKED | {"gate_reads": "middle", "gate_slots": 4}, model)
    assert gate.scores(model, torch.randn(2, 3, 48, 40), (6, 5)).shape == (2, 30)


def test_a_gate_has_a_tenth_of_the_encoder():
    for size in ("tiny", "base"):
        with torch.device("meta"):
            blocks = MaskedAutoencoder.from_size(size).blocks
            encoder = sum(p.numel() for p in blocks.parameters())
            features = blocks[0].norm1.weight.shape[0]
            gate = Gate(features, tenth_width(features, 2, len(blocks)))
        assert 0.09 < gate.size / encoder < 0.13
    assert [middle_blocks(depth) for depth in (1, 6, 12, 24, 32)] == [1, 2, 3, 6, 8]


def training(model, **settings):
    gate = new_gate(ASKED | {"gate_reads": "middle", "gate_slots": 4}, model)
    return GateTraining(gate, model, GateSettings(**settings))


def test_the_reader_follows_the_encoder_at_every_step_and_learns_nothing():
    model = deep()
    gate = training(model, momentum=0.75)
    old = [p.clone() for p in gate.network.reader.parameters()]
    with torch.no_grad():
        [p.add_(1.0) for p in model.parameters()]
    gate.apply(1.0, torch.ones(()))
    assert all(torch.equal(p, was) for p, was in zip(gate.network.reader.parameters(), old, strict=True))
    gate.apply(1.0, torch.zeros(()))
    for p, was in zip(gate.network.reader.parameters(), old, strict=True):
        torch.testing.assert_close(p, was + 0.25)
        assert not p.requires_grad


def test_it_learns_at_every_second_step_and_resumes_between_to_the_bit():
    pictures = torch.randn(4, 3, 32, 32, generator=seeded())
    go, model = torch.zeros(()), deep()
    torch.manual_seed(1)
    first = training(model, every=2)
    moved = []
    for step in range(3):
        before = first.network.project.weight.clone()
        first.masks(look(pictures, seed=step))
        first.gather()
        first.apply(1.0, go)
        moved.append(not torch.equal(before, first.network.project.weight))
    assert moved == [True, False, True]
    torch.manual_seed(2)
    second = training(model, every=2)
    second.load_state(deepcopy(first.state()))
    for gate in (first, second):
        for step in (7, 8):
            gate.masks(look(pictures, seed=step))
            gate.apply(0.5, go)
    for one, other in zip(first.network.state_dict().values(), second.network.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert first.figures().keys() == second.figures().keys()
    assert {"gate_agreement", "gate_slots"} < first.figures().keys()
