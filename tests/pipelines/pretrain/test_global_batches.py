"""The batches of a step: places, parts and maps, whoever could read what."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mae.distributed import World
from mae.masks.masking import Masking
from pipelines.errors import ToldElsewhereError, UserError
from pipelines.pretrain.global_batches import gather_batches, gather_unreadable, to_batch
from pipelines.pretrain.processes import agreed, check_processes, in_turn, newest_of_all
from pipelines.views.geometry import View
from pipelines.views.image_views import EpochBatches, Seen, Unreadable, collate
from tests.pipelines.pretraining import nano_options


@dataclass(frozen=True)
class Told(World):
    """A process of several, to which the others' answers are given in advance."""

    answers: list = field(default_factory=list)

    def gather(self, thing):
        return self.answers.pop(0)(thing)

    def gather_array(self, array):
        return self.answers.pop(0)(array)

    def gather_tensor(self, tensor):
        return self.answers.pop(0)(tensor)


def batch_of(indices, broken):
    pixels = np.zeros((3, 4, 4), np.uint8)
    return collate([Unreadable(i, f"bad {i}") if i in broken else Seen(i, pixels, View((0, 0, 1, 1))) for i in indices])


def masks(batch, strategy):
    masking = Masking(strategy, mask_ratio=0.5)
    generator = torch.Generator().manual_seed(3)
    return masking(len(batch.images), (3, 4), generator=generator, saliency=batch.saliency, part=batch.part).hidden


@pytest.mark.parametrize("strategy", ["random", "salient", "shuffled"])
@given(size=st.integers(1, 4), each=st.integers(1, 4), data=st.data())
def test_parts_of_a_batch_are_masked_as_the_whole_is(strategy, size, each, data):
    count = size * each
    order = data.draw(st.permutations(range(count)))
    broken = data.draw(st.sets(st.integers(0, count - 1), max_size=max(count - 2, 0)))
    maps = torch.rand(count, 12, generator=torch.Generator().manual_seed(0))
    least = 2 if strategy == "shuffled" else 1
    if count - len(broken) < least:
        return
    views = [batch_of(order[start : start + each], broken) for start in range(0, count, each)]

    def batches(all_views):
        size = len(all_views)
        own = [maps[torch.from_numpy(view.indices)] for view in all_views]
        lasts = torch.stack([m[-1] if len(m) else torch.zeros(12) for m in own])
        places = np.stack([gather_batches([view], count // size, World())[0].places[0][None] for view in all_views])
        for rank, view in enumerate(all_views):
            world = Told(rank, size, answers=[lambda _: places, lambda _: lasts])
            [batch] = gather_batches([view], count // size, world)
            assert batch.indices.tolist() == [i for i in order if i not in broken]
            yield to_batch(batch, own[rank], world, shuffled=strategy == "shuffled")

    [whole] = batches([batch_of(order, broken)])
    parts = list(batches(views))
    assert torch.equal(torch.cat([masks(part, strategy) for part in parts if len(part.images)]), masks(whole, strategy))
    assert {part.readable for part in parts} <= {count - len(broken), None}


def test_a_whole_batch_needs_no_places():
    [batch] = gather_batches([batch_of([5, 3, 4], ())], 3, World())
    assert batch.is_whole
    assert to_batch(batch, None, World(), shuffled=False).part is None
    assert gather_unreadable([batch], World()) == {}


def test_the_unreadable_images_of_all_processes():
    places = np.array([[[5, -1]], [[-1, 4]]])
    answers = [lambda _: places, lambda found: [found, {8: "bad 8"}]]
    world = Told(0, 2, answers=answers)
    batches = gather_batches([batch_of([5, 3], {3})], 2, world)
    assert gather_unreadable(batches, world) == {3: "bad 3", 8: "bad 8"}


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(0, 4))
def test_every_index_is_in_one_part_of_an_epoch(size, each, batches, rest):
    count = size * each * batches + rest % (size * each)
    whole = list(EpochBatches(count, size * each, batches, 2, seed=1))
    parts = [
        list(EpochBatches(count, size * each, batches, 2, seed=1, part=World(rank, size).part(size * each)))
        for rank in range(size)
    ]
    assert [[item for part in parts for item in part[number]] for number in range(2 * batches)] == whole
    for epoch in (0, 1):
        read = [index for part in parts for batch in part for e, index in batch if e == epoch]
        assert len(set(read)) == len(read) == size * each * batches


# What processes tell each other


def test_a_mistake_of_another_process_is_ones_own():
    with pytest.raises(ToldElsewhereError, match="theirs"), agreed(Told(1, 2, answers=[lambda _: ["theirs", None]])):
        pass
    with pytest.raises(UserError, match="theirs") as told, agreed(Told(0, 2, answers=[lambda _: [None, "theirs"]])):
        pass
    assert not isinstance(told.value, ToldElsewhereError)
    with pytest.raises(ToldElsewhereError, match="first"), agreed(Told(1, 2, answers=[lambda own: ["first", own]])):
        raise UserError("second")


def test_a_bug_is_ones_own_affair():
    with pytest.raises(ZeroDivisionError), agreed(Told(1, 2)):  # which asks nobody
        _ = 1 / 0


@pytest.mark.parametrize(
    ("rank", "local_rank", "local_size", "expected"),
    [(0, 0, 4, 0), (1, 1, 4, 1), (0, 0, 2, 0), (1, 1, 2, 2), (2, 0, 2, 1), (3, 1, 2, 2)],
)
def test_one_process_is_first_then_one_of_every_machine(rank, local_rank, local_size, expected):
    asked = []
    turns = 2 if local_size == 4 else 3
    world = Told(rank, 4, local_rank, local_size, answers=[lambda _: asked.append(1) or [None] * 4] * turns)
    assert in_turn(world, lambda: len(asked)) == expected
    assert len(asked) == turns


def test_different_checkpoints_are_different_disks(tmp_path):
    world = Told(1, 2, answers=[lambda own: ["step-00000004", own]])
    with pytest.raises(UserError, match=r"see different checkpoints in --out .* \(none, step-00000004\): .* share"):
        newest_of_all(tmp_path, world)
    assert newest_of_all(tmp_path, World()) is None


def test_options_that_do_not_suit_the_processes(tmp_path):
    with pytest.raises(UserError, match="--batch-size 4 can't be shared out evenly among 3 .* give a multiple of 3"):
        check_processes(nano_options(tmp_path), World(0, 3))
    check_processes(nano_options(tmp_path), World(0, 4))
    with pytest.raises(UserError, match="leave one out"):
        check_processes(replace(nano_options(tmp_path), shard_model=True, compile=True), World(0, 2))
