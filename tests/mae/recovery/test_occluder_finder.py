"""Occluders found in a stream: what comes over remembered content is marked, and nothing else is."""

import pytest
import torch

from mae.recovery.occluder_finder import OccluderFinder

SIZE = (48, 64)


def scene(count, *, size=SIZE, object_speed=0, camera=0):
    """A smooth texture with a dark square; the square moves, or all of it, by so many columns a frame."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, size[0] // 4, size[1] // 2, generator=generator) * 0.6 + 0.3
    wide = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").mul(255).clamp(0, 255)[0]
    frames = torch.empty(count, 3, *size, dtype=torch.uint8)
    for number, frame in enumerate(frames):
        frame.copy_(wide[:, :, number * camera : number * camera + size[1]])
        frame[:, 20:30, 8 + number * object_speed : 18 + number * object_speed] = 30
    return frames


def covered(frames, places, colour=(250, 20, 20)):
    """The frames behind a block, and what it hides; ``places`` are its first row and column by frame, or None."""
    given, truth = frames.clone(), torch.zeros(len(frames), *frames.shape[2:], dtype=torch.bool)
    for number, place in enumerate(places):
        if place is not None:
            rows, columns = (slice(max(start, 0), max(start + 14, 0)) for start in place)
            truth[number, rows, columns] = True
    return torch.where(truth[:, None], torch.tensor(colour, dtype=torch.uint8)[:, None, None], given), truth


def overlap(found, truth):
    return float((found & truth).sum() / (found | truth).sum())


WAYS = {
    "appears": [None] * 10 + [(8, 30)] * 14,
    "crosses": [None] * 10 + [(25, -14 + 3 * number) for number in range(1, 15)],
    "goes": [None] * 10 + [(8, 30)] * 6 + [None] * 8,
}


@pytest.mark.parametrize("camera", [0, 1])
@pytest.mark.parametrize("way", WAYS)
def test_what_comes_over_the_scene_is_marked(way, camera):
    given, truth = covered(scene(24, object_speed=1 - camera, camera=camera), WAYS[way])
    found = OccluderFinder().push(given)
    assert not found[:10].any()
    assert (found & truth).sum() > 0.99 * truth.sum()
    assert overlap(found, truth) > 0.7  # a margin of a pixel is hidden, too
    if way == "goes":
        assert not found[17:].any()


@pytest.mark.parametrize("colour", [(110, 120, 110), (140, 150, 140)])
@pytest.mark.parametrize("step", [2, 3])
def test_a_block_of_dull_colours_that_comes_in_slowly_is_not_taken_for_the_scene(step, colour):
    places = [None] * 10 + [(25, -14 + step * number) for number in range(1, 15)]
    given, truth = covered(scene(24, object_speed=1), places, colour=colour)
    found = OccluderFinder().push(given)
    assert not found[:10].any()
    assert overlap(found, truth) > 0.7


@pytest.mark.parametrize(("speed", "camera"), [(0, 0), (1, 0), (2, 0), (0, 1), (1, 2)])
def test_a_scene_that_moves_by_itself_is_not_marked(speed, camera):
    assert not OccluderFinder().push(scene(20, object_speed=speed, camera=camera)).any()


def test_a_cut_is_no_occluder_and_the_memory_begins_anew():
    given, truth = covered(torch.cat([scene(8), 255 - scene(20)]), [None] * 20 + [(8, 30)] * 8)
    found = OccluderFinder().push(given)
    assert not found[:20].any()
    assert overlap(found[20:], truth[20:]) > 0.7


def test_what_is_there_from_the_start_and_stays_is_the_scene():
    given, _ = covered(scene(12), [(8, 30)] * 12)
    assert not OccluderFinder().push(given).any()


def test_masks_depend_on_no_later_frame_and_on_no_portions_and_another_stream_begins_anew():
    given, _ = covered(scene(24, object_speed=1), WAYS["crosses"])
    finder = OccluderFinder()
    whole = finder.push(given)
    finder.clear()
    parts = [finder.push(given[:0]), finder.push(given[:7]), finder.push(given[7:13])]
    assert torch.equal(torch.cat(parts), whole[:13])
    finder.clear()
    assert not finder.push(scene(3, size=(16, 24))).any()


def test_large_frames_are_compared_small_and_marked_at_their_own_size():
    given, truth = covered(scene(24), WAYS["appears"])
    large = given.repeat_interleave(5, 2).repeat_interleave(5, 3)
    found = OccluderFinder().push(large)
    assert found.shape == (24, 240, 320)
    assert overlap(found, truth.repeat_interleave(5, 1).repeat_interleave(5, 2)) > 0.7


def test_a_higher_threshold_marks_less():
    given, _ = covered(scene(24), WAYS["appears"], colour=(150, 150, 150))
    counts = [int(OccluderFinder(threshold).push(given).sum()) for threshold in (0.02, 0.1, 0.5)]
    assert counts[0] > counts[1] >= counts[2] == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 3), (7, 5)])
def test_frames_of_any_size(size):
    frames = torch.randint(0, 256, (6, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert OccluderFinder().push(frames).shape == (6, *size)


def test_mistakes():
    for threshold in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="--find-threshold"):
            OccluderFinder(threshold)
    finder = OccluderFinder()
    finder.push(scene(2))
    with pytest.raises(ValueError, match="do not fit"):
        finder.push(scene(2, size=(32, 32)))
    with pytest.raises(ValueError, match="uint8"):
        finder.push(scene(2).float())
