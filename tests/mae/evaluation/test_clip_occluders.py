import torch

from mae.evaluation.clip_occluders import EveryFrame, Still, straight_way
from mae.evaluation.occluders import Patches, Rectangles


def rectangles(count, seed=0, pasted=True):
    generator = torch.Generator().manual_seed(seed)
    others = torch.randint(0, 256, (count, 3, 12, 16), dtype=torch.uint8, generator=generator)
    return Rectangles(torch.rand(count, 2, generator=generator), torch.ones(count), others if pasted else None)


def test_what_stands_still_hides_the_same_in_every_frame():
    still, size = Still(rectangles(2), 5), (12, 16)
    region, content = still.region(0.3, size), still.content(0.3, size)
    assert (region.shape, content.shape) == ((2, 5, 12, 16), (2, 3, 5, 12, 16))
    for frame in range(5):
        assert torch.equal(region[:, frame], rectangles(2).region(0.3, size))
        assert torch.equal(content[:, :, frame], rectangles(2).others)


def test_every_frame_has_the_occluder_of_its_own_place():
    every, size = EveryFrame(rectangles(6), 3), (12, 16)
    region, content = every.region(0.3, size), every.content(0.3, size)
    for clip in range(2):
        for frame in range(3):
            assert torch.equal(region[clip, frame], rectangles(6).region(0.3, size)[3 * clip + frame])
            assert torch.equal(content[clip, :, frame], rectangles(6).others[3 * clip + frame])


def test_what_is_filled_has_no_content():
    cells = Patches(torch.rand(6, 4), (2, 2))
    assert Still(cells, 2).content(0.5, (8, 8)) is None
    assert EveryFrame(cells, 3).content(0.5, (8, 8)) is None


def test_a_way_is_straight_and_its_speed_constant():
    starts, ends = torch.tensor([[0.0, 0.2], [1.0, 0.5]]).double(), torch.tensor([[1.0, 0.6], [0.0, 0.5]]).double()
    way = straight_way(starts, ends, 5).view(2, 5, 2)
    torch.testing.assert_close(way[:, 0], starts)
    torch.testing.assert_close(way[:, -1], ends)
    torch.testing.assert_close(way.diff(dim=1), ((ends - starts) / 4)[:, None].expand(2, 4, 2))
    assert torch.equal(straight_way(starts, ends, 1), starts)
