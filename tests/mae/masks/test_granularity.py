"""Masks of blocks of patches: what is drawn on the grid of blocks, laid out patch by patch, for every strategy."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mae.mask_learners.attention import AttentionMasks, AttentionSettings
from mae.mask_learners.gate import Gate
from mae.mask_learners.gate_training import GateSettings, GateTraining
from mae.mask_learners.hard import HardMasks, HardSettings
from mae.mask_learners.learner import Look, look_noise
from mae.masks.granularity import block_means, to_patches
from mae.masks.masking import Masking, Part
from mae.masks.strategies import SALIENT_OF, SALIENT_PICKS, STRATEGIES, blind
from mae.training.settings import TrainingSettings
from mae.training.training import Training
from tests.tiny_mae import nano

CPU = torch.device("cpu")
READINGS = [
    Masking(name, salient_of=of, salient_pick=pick, salient_cap=cap)
    for name in blind()
    for of, pick, cap in (
        itertools.product(SALIENT_OF, SALIENT_PICKS, (1.0, 0.5)) if STRATEGIES[name].ranked else [("image", "top", 1)]
    )
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def maps(*shape):
    return torch.rand(*shape, generator=seeded(7))


def laid_out(blocks, grid, side):
    """Values of blocks [B, n] patch by patch, [B, N], by NumPy's Kronecker product."""
    *slots, rows, columns = grid
    shape = (len(blocks), *slots, rows // side, columns // side)
    ones = np.ones((*[1] * (1 + len(slots)), side, side), int)
    return torch.from_numpy(np.kron(blocks.view(shape).int().numpy(), ones)).flatten(1)


def means(saliency, grid, side):
    """The mean saliency of each block, by loops."""
    rows, columns = grid[-2:]
    cells = saliency.view(len(saliency), -1, rows, columns)
    places = itertools.product(range(cells.shape[1]), range(0, rows, side), range(0, columns, side))
    return torch.stack([cells[:, t, i : i + side, j : j + side].mean((1, 2)) for t, i, j in places], 1)


def check(mask, grid):
    patches, kept = math.prod(grid), mask.ids_keep.shape[1]
    assert torch.equal(mask.ids_restore.sort(1).values, torch.arange(patches).expand(len(mask.hidden), -1))
    assert torch.equal(torch.argsort(mask.ids_restore, 1)[:, :kept], mask.ids_keep)
    assert torch.equal(mask.ids_restore >= kept, mask.hidden)


@pytest.mark.parametrize("grid", [(6, 8), (3, 4, 8)], ids=str)
@pytest.mark.parametrize("masking", READINGS, ids=lambda each: "-".join(map(str, (each.strategy, each.salient_of))))
def test_every_mask_is_that_of_the_blocks_patch_by_patch(masking, grid):
    saliency = maps(4, math.prod(grid))
    blocks = (*grid[:-2], grid[-2] // 2, grid[-1] // 2)
    wanted = masking(4, blocks, generator=seeded(), saliency=means(saliency, grid, 2), progress=0.3)
    coarse = replace(masking, mask_granularity=2)
    mask = coarse(4, grid, generator=seeded(), saliency=saliency, progress=0.3)
    assert torch.equal(mask.hidden.int(), laid_out(wanted.hidden, grid, 2))
    assert mask.hidden.sum(1).tolist() == [coarse.hidden(grid)] * 4 == [4 * masking.hidden(blocks)] * 4
    check(mask, grid)
    fine = masking(4, grid, generator=seeded(), saliency=saliency)
    same = replace(masking, mask_granularity=1)(4, grid, generator=seeded(), saliency=saliency)
    assert all(torch.equal(a, b) for a, b in zip(vars(fine).values(), vars(same).values(), strict=True))


def test_what_is_forced_is_whole_blocks_and_hidden():
    for masking in READINGS:
        if masking.strategy == "salient":
            coarse = replace(masking, mask_granularity=3)
            draw = coarse.draw(4, (6, 9), generator=seeded(), saliency=maps(4, 54))
            forced, hidden = coarse.forced(draw), coarse.mask(draw).hidden
            assert forced.any()
            assert not (forced & ~hidden).any()
            whole = block_means(forced.float(), (6, 9), 3)
            assert torch.equal(to_patches(whole, (6, 9), 3) > 0, forced)


def test_the_clips_own_map_and_the_parts_of_a_batch():
    masking, grid = Masking("salient", mask_granularity=2), (3, 4, 8)
    clip = maps(4, 32)
    whole = masking(4, grid, generator=seeded(), saliency=clip)
    slots = masking(4, grid, generator=seeded(), saliency=clip.repeat(1, 3))
    assert torch.equal(whole.hidden, slots.hidden)
    for strategy in ("random", "salient", "shuffled"):
        masking = Masking(strategy, mask_granularity=2)
        whole = masking(4, (4, 8), generator=seeded(), saliency=clip)
        part = Part(torch.tensor([2, 3]), 4, clip[1])
        shared = masking(2, (4, 8), generator=seeded(), saliency=clip[2:], part=part)
        assert torch.equal(shared.hidden, whole.hidden[2:])


def learners(model):
    gate = Gate(16, width=16, depth=1)
    yield GateTraining(gate, model, GateSettings(ratio=1.0))
    yield AttentionMasks(model, AttentionSettings())
    yield AttentionMasks(model, AttentionSettings(shown=0.2))
    yield HardMasks(gate, model.embed, HardSettings(final=1.0))


def test_learned_masks_hide_the_blocks_of_highest_mean_score():
    torch.manual_seed(0)
    images, model = torch.randn(5, 3, 64, 64), nano(64)
    for learner in learners(model):
        look = Look(images, (8, 8), 0.5, look_noise(seeded(), 5, CPU), progress=1.0, granularity=2)
        mask = learner.draw(look)
        check(mask, (8, 8))
        blocks = means(mask.hidden.float(), (8, 8), 2)
        assert set(blocks.unique().tolist()) == {0.0, 1.0}
        assert blocks.sum(1).tolist() == [8] * 5
        scores = {
            "gate": lambda x: learner.scores(x, (8, 8)),  # noqa: B023
            "hard": lambda x: learner.network(model.embed(x), (8, 8)),  # noqa: B023
            "attention-high": lambda x: learner.teacher(model.patchify(x), model.pos_embed),  # noqa: B023
        }.get(learner.name)
        if scores is None:
            continue
        by_block = means(scores(images).detach(), (8, 8), 2)
        count = 8 if learner.name != "gate" else 1  # of the important ones, at least one
        tops = by_block.argsort(1, descending=True)[:, :count]
        assert (blocks.gather(1, tops) == 1).all(), learner.name


def test_a_gates_tubes_of_blocks():
    model = SimpleNamespace(embed=lambda clips, grid: maps(len(clips), 64, 16))
    gate = GateTraining(Gate(16, width=16, depth=1), model, GateSettings())
    for tubes in (True, False):
        clips = torch.zeros(2, 3, 4, 32, 32)
        look = Look(clips, (4, 4, 4), 0.5, look_noise(seeded(), 2, CPU), tubes=tubes, granularity=2)
        hidden = gate.draw(look).hidden
        assert set(means(hidden.float(), (4, 4, 4), 2).unique().tolist()) == {0.0, 1.0}
        assert hidden.sum(1).tolist() == [32, 32]
        assert tubes == bool((hidden.view(2, 4, 16) == hidden.view(2, 4, 16)[:, :1]).all())


def test_a_step_counts_what_it_sees_and_an_impossible_grid_is_refused():
    settings = TrainingSettings(epochs=1, batch_size=2)
    coarse = Training(nano(48), Masking(mask_granularity=3), settings, 10)
    mask = coarse.draw_masks(2, None, 0)
    assert mask.hidden.sum(1).tolist() == [27, 27] == [coarse.masking.hidden((6, 6))] * 2
    assert coarse.flops_per_image() == Training(nano(48), Masking(), settings, 10).flops_per_image()
    with pytest.raises(
        ValueError, match="--mask-granularity 4 does not divide the grid of 6×6 patches; here it can be"
    ):
        Training(nano(48), Masking(mask_granularity=4), settings, 10).check_masks()
    with pytest.raises(ValueError, match=r"here it can be 1, 2, 7 or 14$"):
        Masking(mask_granularity=4).hidden((14, 14))
    with pytest.raises(ValueError, match="--mask-granularity 0 must be at least 1"):
        Masking(mask_granularity=0)
    with pytest.raises(ValueError, match="--mask-ratio 0.9 would hide 4 of 4 blocks of patches"):
        Masking(mask_ratio=0.9, mask_granularity=2)(1, (4, 4), generator=seeded())
