"""Masks of video: tubes are one image's mask in every slot, and running cells take turns."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae.masks.decoded import cell_turns, choose_decoded, decoded_count
from mae.masks.masking import Masking, Part, as_tubes, mask_from_priorities
from mae.masks.strategies import blind

GRIDS = st.tuples(st.integers(1, 6), st.integers(2, 6), st.integers(2, 6))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(masking, grid, count=3, seed=0, **options):
    if masking.needs_saliency and "saliency" not in options:
        options["saliency"] = torch.rand(count, math.prod(grid), generator=seeded(99))
    return masking(count, grid, generator=seeded(seed), **options)


@given(GRIDS, st.floats(0.3, 0.7), st.integers(0, 1000))
def test_a_tube_mask_is_consistent(grid, ratio, seed):
    patches = grid[1] * grid[2]
    still = mask_from_priorities(torch.rand(3, patches, generator=seeded(seed)), ratio)
    mask = as_tubes(still, grid[0])
    assert torch.equal(mask.hidden.view(3, grid[0], -1), still.hidden[:, None].expand(-1, grid[0], -1))
    kept = mask.ids_keep.shape[1]
    order = torch.argsort(mask.ids_restore, dim=1)
    assert torch.equal(order[:, :kept], mask.ids_keep)
    assert torch.equal(torch.sort(mask.ids_restore, 1).values, torch.arange(patches * grid[0]).expand(3, -1))
    assert torch.equal(mask.ids_restore >= kept, mask.hidden)
    assert not mask.hidden.gather(1, mask.ids_keep).any()
    assert mask.hidden.gather(1, mask.ids_hidden).all()


@pytest.mark.parametrize("strategy", blind())
def test_all_but_random_are_tubes_on_video(strategy):
    masking, grid = Masking(strategy, mask_ratio=0.5, salient_ratio=0.25), (4, 4, 5)
    mask = draw(masking, grid)
    slots = mask.hidden.view(3, 4, 20)
    assert (slots == slots[:, :1]).all().item() == (strategy != "random")
    assert mask.hidden.sum(1).tolist() == [masking.hidden(grid)] * 3


def test_a_tube_is_the_images_random_mask_of_the_seed():
    still = Masking("random", mask_ratio=0.5)(3, (4, 5), generator=seeded(5))
    assert torch.equal(draw(Masking("tube", mask_ratio=0.5), (2, 4, 5), seed=5).hidden, still.hidden.repeat(1, 2))
    assert torch.equal(draw(Masking("tube", mask_ratio=0.5), (4, 5), seed=5).hidden, still.hidden)


def test_ninety_percent_of_videomaes_grid():
    masking = Masking("tube", mask_ratio=0.9)
    assert masking.hidden((8, 14, 14)) == 8 * (196 - 19)
    assert Masking("random", mask_ratio=0.9).hidden((8, 14, 14)) == 1568 - 156
    assert masking.hidden((14, 14)) == 196 - 19


def test_a_tube_hides_where_the_clips_map_or_its_slots_mean_is_highest():
    masking, grid = Masking("salient", mask_ratio=0.5, salient_ratio=0.5), (3, 2, 4)
    clip = torch.tensor([[0.0, 1, 2, 3, 7, 6, 5, 4]])
    expected = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1], dtype=torch.bool).repeat(3)
    assert torch.equal(draw(masking, grid, 1, saliency=clip).hidden[0], expected)
    slots = torch.stack([clip * 0, clip * 3, clip * 0], 1).flatten(1)
    slots[0, 0] = 1  # alone in its slot, and yet below the others' mean
    assert torch.equal(draw(masking, grid, 1, saliency=slots).hidden[0], expected)


def test_without_tubes_each_slot_follows_its_own_map():
    masking = Masking("salient", mask_ratio=0.5, salient_ratio=0.5, tubes=False)
    maps = torch.tensor([[9.0, 8, 0, 0, 0, 0, 7, 6]])
    assert torch.equal(draw(masking, (2, 2, 2), 1, saliency=maps).hidden, maps > 0)
    clip = torch.tensor([[9.0, 8, 0, 0]])
    assert torch.equal(draw(masking, (2, 2, 2), 1, saliency=clip).hidden, clip.repeat(1, 2) > 0)


@pytest.mark.parametrize("tubes", [True, False])
def test_another_clips_map_is_fitted_like_the_clips_own(tubes):
    masking, grid = Masking("shuffled", mask_ratio=0.5, salient_ratio=0.5, tubes=tubes), (2, 2, 4)
    maps = torch.rand(4, 8, generator=seeded(1))
    whole = draw(masking, grid, 4, saliency=maps)
    rows = torch.tensor([2, 3])
    part = draw(masking, grid, 2, saliency=maps[2:], part=Part(rows, 4, maps[1]))
    assert torch.equal(part.hidden, whole.hidden[2:])


def test_a_map_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        draw(Masking("salient"), (3, 4, 4), saliency=torch.rand(3, 20))


@given(GRIDS, st.floats(0.1, 0.9), st.integers(0, 1000))
@settings(max_examples=50)
def test_a_running_cell_chooses_hidden_patches_once(grid, ratio, seed):
    mask = draw(Masking("random", mask_ratio=0.6), grid, seed=seed)
    chosen = choose_decoded(mask, ratio, seeded(seed), running_cell=grid)
    count = decoded_count(mask.ids_hidden.shape[1], ratio)
    assert chosen.shape == (3, count)
    assert mask.hidden.gather(1, chosen).all()
    assert all(len(set(row)) == count for row in chosen.tolist())
    turns = cell_turns(grid, torch.arange(math.prod(grid))[None], torch.zeros(1, 1, dtype=torch.int64))
    assert set(turns.flatten().tolist()) <= {0, 1, 2, 3}


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_each_hidden_place_is_decoded_in_its_share_of_the_slots_and_cells_are_in_step(ratio):
    grid = (8, 4, 6)
    mask = draw(Masking("tube", mask_ratio=0.75), grid)
    chosen = choose_decoded(mask, ratio, seeded(3), running_cell=grid)
    decoded = torch.zeros_like(mask.hidden).scatter_(1, chosen, True).view(3, *grid)
    hidden = mask.hidden.view(3, *grid)
    assert torch.equal(decoded.sum(1), hidden[:, 0] * int(8 * ratio))
    for clip in range(3):
        phases = set()
        for phase in range(4):
            turns = torch.zeros(grid, dtype=torch.int64)
            for slot in range(8):
                for row in range(4):
                    for column in range(6):
                        turns[slot, row, column] = (2 * (row % 2) + column % 2 + slot + phase) % 4
            if torch.equal(decoded[clip], hidden[clip] & (turns < 4 * ratio)):
                phases.add(phase)
        assert len(phases) == 1


def test_videos_begin_at_different_turns_and_a_part_as_the_whole():
    grid = (4, 4, 4)
    mask = draw(Masking("tube", mask_ratio=0.75), grid, 16)
    whole = choose_decoded(mask, 0.5, seeded(1), running_cell=grid)
    rows = torch.tensor([3, 9])
    part = draw(Masking("tube", mask_ratio=0.75), grid, 2, part=Part(rows, 16))
    assert torch.equal(choose_decoded(part, 0.5, seeded(1), Part(rows, 16), running_cell=grid), whole[rows])
    decoded = torch.zeros_like(mask.hidden).scatter_(1, whole, True).view(16, 4, 16)
    assert len({tuple(clip.flatten().tolist()) for clip in decoded}) > 4
