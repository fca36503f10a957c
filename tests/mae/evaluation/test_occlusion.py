import itertools

import pytest
import torch

from mae.evaluation.occluders import OUTLINE, Objects, Patches, Rectangles, cover, outline

SHARES = [0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9]
SIZES = [(32, 32), (64, 48), (30, 30)]


def disc(side=OUTLINE, radius=0.2, centre=(0.4, 0.6)):
    steps = (torch.arange(side) + 0.5) / side
    return (steps[:, None] - centre[0]) ** 2 + (steps[None] - centre[1]) ** 2 < radius**2


def objects(count=3, mask=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    anchor, reach = outline(disc() if mask is None else mask)
    others = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Objects(others, anchor.expand(count, -1), reach.expand(count, -1), torch.rand(count, 2, generator=generator))


def patches(count=3, grid=(8, 8), seed=0):
    return Patches(torch.rand(count, grid[0] * grid[1], generator=torch.Generator().manual_seed(seed)), grid)


def rectangles(count=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Rectangles(torch.rand(count, 2, generator=generator), 2 ** (2 * torch.rand(count, generator=generator) - 1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", SHARES)
def test_the_share_that_was_asked_for_is_hidden(share, size):
    cells = patches().region(share, (64, 64)).float().mean((1, 2))
    assert cells.tolist() == [round(share * 64) / 64] * 3
    assert objects().region(share, size).sum((1, 2)).tolist() == [round(share * size[0] * size[1])] * 3
    blocks = rectangles().region(share, size).sum((1, 2)).float()
    assert (blocks - share * size[0] * size[1]).abs().max() <= size[0] / 2


@pytest.mark.parametrize("occluder", [patches(), objects()], ids=["patches", "objects"])
def test_more_hides_all_that_less_hides(occluder):
    grown = [occluder.region(share, (32, 32)) for share in SHARES]
    assert all(bool((large | ~small).all()) for small, large in itertools.pairwise(grown))


def test_a_rectangle_is_solid():
    for region in rectangles().region(0.3, (40, 40)):
        rows, columns = region.any(1), region.any(0)
        assert torch.equal(region, rows[:, None] & columns[None])
        for side in (rows, columns):
            assert side.int().diff().abs().sum() <= 2


def test_patches_are_hidden_in_the_order_of_their_priorities():
    occluder = Patches(torch.tensor([[0.1, 0.4, 0.3, 0.2]]), (2, 2))
    assert occluder.region(0.5, (2, 2)).tolist() == [[[False, True], [True, False]]]


@pytest.mark.parametrize("size", [32, 128])
def test_the_same_places_at_every_size(size):
    for occluder, tolerance in ((patches(), 0.0), (rectangles(5), 0.09), (objects(), 0.06)):
        coarse = occluder.region(0.4, (64, 64))
        other = occluder.region(0.4, (size, size)).float()
        resized = torch.nn.functional.interpolate(other[:, None], size=(64, 64), mode="area")[:, 0]
        assert (resized - coarse.float()).abs().mean() <= tolerance + 1e-6


def test_the_outline_of_a_disc_is_as_far_everywhere():
    anchor, reach = outline(disc(radius=0.2, centre=(0.4, 0.6)))
    assert anchor.tolist() == pytest.approx([0.4, 0.6], abs=0.02)
    assert float(reach.min()) == pytest.approx(0.2, abs=0.03)
    assert float(reach.max()) == pytest.approx(0.2, abs=0.03)


def test_a_pasted_disc_is_a_disc():
    region = objects(1).region(0.1, (64, 64))[0]
    rows, columns = region.any(1).sum(), region.any(0).sum()
    radius = (0.1 / torch.pi) ** 0.5 * 64
    place = objects(1).places[0]
    assert rows <= 2 * radius + 3 or not 0.2 < place[0] < 0.8
    assert columns <= 2 * radius + 3 or not 0.2 < place[1] < 0.8


def test_what_is_pasted_is_the_object_and_nothing_else():
    """An object of one colour on black: no black pixel comes along, at any scale."""
    mask = disc(32, radius=0.25, centre=(0.5, 0.5))
    others = (mask * 255).to(torch.uint8).expand(1, 3, -1, -1)
    anchor, reach = outline(disc(radius=0.23, centre=(0.5, 0.5)))
    occluder = Objects(others, anchor[None], reach[None], torch.tensor([[0.4, 0.55]]))
    for share in (0.1, 0.4, 0.8):
        region, content = occluder.region(share, (32, 32)), occluder.content(share, (32, 32))
        pasted = cover(torch.full((1, 3, 32, 32), 7, dtype=torch.uint8), region, content)
        assert (pasted[0, 0][region[0]] > 150).all()
        assert (pasted[0, 0][~region[0]] == 7).all()


def test_a_mask_of_nothing_has_an_outline():
    anchor, reach = outline(torch.zeros(OUTLINE, OUTLINE, dtype=torch.bool))
    assert anchor.tolist() == [0.5, 0.5]
    assert (reach > 0).all()
