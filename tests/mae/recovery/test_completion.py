"""Pictures of any size completed: nothing hidden is seen, nothing visible changes, and the edge is smooth."""

import pytest
import torch
import torch.nn.functional as F

from mae.models.vit import MaskedAutoencoder
from mae.recovery import completion
from mae.recovery.completion import box_around, complete, enlarge_into, seam, shrink_visible, spread_inwards
from tests.tiny_mae import nano


def pictures(count=2, height=45, width=61, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def region(count=2, height=45, width=61):
    hidden = torch.zeros(count, height, width, dtype=torch.bool)
    hidden[0, 10:25, 20:40] = True
    hidden[1, 0:7, 50:61] = True
    return hidden


@pytest.mark.parametrize("blend", [True, False])
def test_what_is_visible_stays_to_the_bit_and_what_is_hidden_is_never_seen(blend):
    torch.manual_seed(0)
    model, images, hidden = nano().eval(), pictures(), region()
    completed = complete(model, images, hidden, blend=blend)
    visible = ~hidden[:, None].expand_as(images)
    assert torch.equal(completed[visible], images[visible])
    other = torch.where(hidden[:, None], pictures(seed=9), images)
    assert torch.equal(complete(model, other, hidden, blend=blend), completed)
    assert not torch.equal(completed, images)


def test_one_hidden_pixel_and_all_hidden_pixels():
    torch.manual_seed(0)
    model, images = nano().eval(), pictures(1)
    hidden = torch.zeros(1, 45, 61, dtype=torch.bool)
    assert torch.equal(complete(model, images, hidden), images)
    hidden[0, 3, 4] = True
    assert (complete(model, images, hidden) != images).any(1).sum() <= 1
    hidden[:] = True
    assert complete(model, images, hidden).shape == images.shape


def test_a_small_pixel_is_the_mean_of_the_visible_ones_it_covers():
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    images[:, :, :, 4:] = 200
    hidden = torch.zeros(1, 8, 8, dtype=torch.bool)
    hidden[0, 0, 0] = hidden[0, 7, 7] = True
    images[0, :, 0, 0] = 255
    small, covered = shrink_visible(images, hidden, (4, 4))
    assert torch.equal(small[0, 0, 1], torch.tensor([0, 0, 200, 200], dtype=torch.uint8))
    assert small[0, 0, 0, 0] == 0
    assert torch.equal(covered[0].nonzero(), torch.tensor([[0, 0], [3, 3]]))


def test_a_plane_is_carried_on_and_a_constant_exactly():
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(52.0), indexing="ij")
    weights = torch.ones(1, 1, 40, 52)
    weights[..., 12:25, 15:33] = 0
    constant = spread_inwards(torch.full((1, 2, 40, 52), 7.0) * weights, weights)
    torch.testing.assert_close(constant, torch.full_like(constant, 7.0))
    plane = (rows + 2 * columns)[None, None]
    carried = spread_inwards(plane * weights, weights)
    assert (carried - plane).abs().max() < 0.25 * (plane.max() - plane.min())
    assert torch.equal(carried[weights.bool()], plane[weights.bool()])
    assert torch.equal(spread_inwards(plane * 0, weights * 0), plane * 0)


def test_blending_takes_the_seam_away(monkeypatch):
    """What is filled in 60 too bright leaves an edge; with blending there is none."""

    def too_bright(model, small, covered, precision):
        return torch.where(covered[:, None], 150, small).to(torch.uint8)

    monkeypatch.setattr(completion, "recover", too_bright)
    hidden = torch.zeros(1, 45, 61, dtype=torch.bool)
    hidden[0, 10:30, 20:40] = True
    images = torch.full((1, 3, 45, 61), 90, dtype=torch.uint8)
    sharp, smooth = (seam(complete(nano(), images, hidden, blend=blend), hidden) for blend in (False, True))
    assert sharp > 20
    assert smooth < 3


def test_blending_leaves_a_picture_alone_that_is_right(monkeypatch):
    """What is filled in has a bar across the edge of the region, as it should; it must not be brought in twice."""
    images = torch.full((1, 3, 48, 48), 60, dtype=torch.uint8)
    images[:, :, 20:28] = 220
    monkeypatch.setattr(completion, "recover", lambda model, small, covered, precision: images)
    hidden = torch.zeros(1, 48, 48, dtype=torch.bool)
    hidden[0, 16:32, 16:32] = True
    model = MaskedAutoencoder.from_size("mini", 48, 8)
    error = (complete(model, images, hidden).float() - images.float())[:, 0][hidden]
    assert error.square().mean().sqrt() < 6


def test_the_seam_is_the_mean_step_over_the_edge():
    images = torch.zeros(1, 3, 6, 6, dtype=torch.uint8)
    hidden = torch.zeros(1, 6, 6, dtype=torch.bool)
    hidden[0, 2:4, 2:4] = True
    images[0, :, 2:4, 2:4] = 30
    assert seam(images, hidden) == 30
    images[0, :, 1, 2] = 30  # one of the eight steps is gone
    assert seam(images, hidden) == pytest.approx(30 * 7 / 8)
    assert seam(images, hidden & False).isnan()


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        complete(nano(), pictures(), region(2, 44, 61))


def whole_pull_and_push(values, weights):
    """:func:`spread_inwards` in its plain form, on whole pictures."""
    height, width = values.shape[2:]
    if max(height, width) == 1:
        return values * (weights > 0)
    padding = (0, width % 2, 0, height % 2)
    share = F.avg_pool2d(F.pad(weights, padding), 2)
    means = F.avg_pool2d(F.pad(values * weights, padding), 2) / share.clamp_min(1e-6)
    coarse = whole_pull_and_push(means, (4 * share).clamp(max=1))
    above = F.interpolate(coarse, (height + height % 2, width + width % 2), mode="bilinear", align_corners=False)
    return weights * values + (1 - weights) * above[:, :, :height, :width]


def whole_picture(images, hidden, small, covered):
    """:func:`enlarge_into` in its plain form: everything at the size of the picture."""
    known = covered[:, None].float()
    values, weights = small.float() * known, known
    for _ in range(2):
        share = F.avg_pool2d(weights, 3, stride=1, padding=1)
        mean = F.avg_pool2d(values, 3, stride=1, padding=1) / share.clamp_min(1e-6)
        values, weights = weights * values + (1 - weights) * mean, (share > 0).float()
    filled = whole_pull_and_push(values * weights, weights)
    large = F.interpolate(filled, images.shape[2:], mode="bilinear", align_corners=False)
    reach = [-(-size // count) for size, count in zip(images.shape[2:], small.shape[2:], strict=True)]
    there = hidden[:, None].float()
    kernel, padding = (2 * reach[0] + 1, 2 * reach[1] + 1), tuple(reach)
    edge = F.max_pool2d(there, kernel, stride=1, padding=padding) - there
    large = large + whole_pull_and_push((images.float() - large) * edge, edge)
    return torch.where(hidden[:, None], large.round().clamp(0, 255).to(torch.uint8), images)


@pytest.mark.parametrize(
    ("size", "boxes"),
    [
        ((45, 61), [(10, 25, 20, 40), (0, 7, 50, 61)]),
        ((120, 213), [(33, 70, 101, 160), (119, 120, 0, 1)]),
        ((121, 214), [(0, 121, 0, 9), (0, 121, 0, 214)]),
    ],
)
def test_the_box_around_what_is_hidden_gives_what_the_whole_picture_gives(size, boxes):
    images, hidden = pictures(2, *size), torch.zeros(2, *size, dtype=torch.bool)
    for mask, (top, bottom, left, right) in zip(hidden, boxes, strict=True):
        mask[top:bottom, left:right] = True
    _, covered = shrink_visible(images, hidden, (16, 16))
    small = pictures(2, 16, 16, seed=3)
    for each in ([0], [1], [0, 1]):
        given = (images[each], hidden[each], small[each], covered[each])
        difference = enlarge_into(*given).int() - whole_picture(*given).int()
        assert difference.abs().max() <= 1  # what rounds the other way
        assert (difference != 0).float().mean() < 1e-3


def test_the_box():
    hidden = torch.zeros(2, 9, 12, dtype=torch.bool)
    assert box_around(hidden, (2, 3)) is None
    assert torch.equal(
        enlarge_into(pictures(2, 9, 12), hidden, pictures(2, 4, 4), hidden[:, :4, :4]), pictures(2, 9, 12)
    )
    hidden[0, 4, 5] = hidden[1, 8, 7] = True
    assert box_around(hidden, (2, 3)) == (slice(2, 9), slice(2, 11))
