import math

import pytest
import torch

from mae.models.mask import Mask
from mae.pixels import denormalise, normalise
from mae.recovery import recover as module
from mae.recovery.recover import interpolate, recover
from tests.tiny_mae import nano


def pictures(count=3, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def regions(count=3, side=32, share=0.3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 6, 6, generator=generator) < share
    rows = torch.arange(side) * 6 // side  # cells that lie across the borders of patches
    return coarse[:, rows][:, :, rows]


@pytest.fixture(params=[True, False], ids=["normalised", "plain"])
def model(request):
    torch.manual_seed(0)
    return nano(32, norm_pix=request.param).eval()


def test_visible_pixels_stay_to_the_bit_and_hidden_ones_change(model):
    images, hidden = pictures(), regions()
    found = recover(model, images, hidden)
    visible = ~hidden[:, None].expand_as(images)
    assert found.dtype == torch.uint8
    assert torch.equal(found[visible], images[visible])
    assert (found != images)[~visible].float().mean() > 0.9


def test_what_is_hidden_is_never_looked_at(model):
    images, hidden = pictures(), regions()
    other = torch.where(hidden[:, None], pictures(seed=9), images)
    assert not torch.equal(other, images)
    assert torch.equal(recover(model, other, hidden)[hidden[:, None].expand_as(images)],
                       recover(model, images, hidden)[hidden[:, None].expand_as(images)])  # fmt: skip
    assert torch.equal(recover(model, other, hidden), recover(model, images, hidden))


def test_every_image_has_a_number_of_hidden_patches_of_its_own(model):
    images, hidden = pictures(4), torch.zeros(4, 32, 32, dtype=torch.bool)
    hidden[1, :3, :5] = True
    hidden[2, :, :20] = True
    hidden[3] = True
    found = recover(model, images, hidden)
    assert torch.equal(found[0], images[0])
    for i in range(4):
        torch.testing.assert_close(
            found[i : i + 1], recover(model, images[i : i + 1], hidden[i : i + 1]), atol=1, rtol=0
        )
    assert not torch.equal(found[3], images[3])


def test_whole_patches_of_a_plain_model_are_its_prediction():
    torch.manual_seed(0)
    model = nano(32, norm_pix=False).eval()
    images, hidden = pictures(2), torch.zeros(2, 32, 32, dtype=torch.bool)
    hidden[:, 8:16, 8:24] = True
    cells = torch.zeros(2, 16, dtype=torch.bool)
    cells[:, [5, 6]] = True
    order = cells.int().argsort(dim=1, stable=True)
    with torch.no_grad():
        expected = model.predict(normalise(images), Mask(order[:, :14], order.argsort(dim=1), cells)).prediction
    expected = denormalise(model.unpatchify(expected))
    found = recover(model, images, hidden)
    torch.testing.assert_close(found[:, :, 8:16, 8:24], expected[:, :, 8:16, 8:24], atol=1, rtol=0)


def test_a_right_prediction_of_a_repeated_texture_is_the_texture(monkeypatch):
    """Where all patches have one mean and deviation, the visible ones tell those of the hidden, and nothing is lost."""
    model = nano(32).eval()
    images = pictures(1, side=8).repeat(1, 1, 4, 4)
    target = model._target(model.patchify(normalise(images)))
    monkeypatch.setattr(model, "decode", lambda *_: target)
    hidden = torch.zeros(1, 32, 32, dtype=torch.bool)
    hidden[:, 8:24, 8:32] = True
    torch.testing.assert_close(recover(model, images, hidden), images, atol=1, rtol=0)


def test_mean_and_deviation_are_those_of_visible_pixels_weighted_by_distance():
    torch.manual_seed(0)
    patches, covered = torch.randn(1, 4, 12), torch.zeros(1, 4, 4, dtype=torch.bool)
    covered[0, 0] = True  # a hidden patch, and one that is half hidden, of a 2×2 grid
    covered[0, 3, :2] = True
    mean, deviation = module.patch_statistics(patches, covered, (2, 2))
    seen = {1: patches[0, 1], 2: patches[0, 2], 3: patches[0, 3, 6:]}
    weights = {1: math.exp(-0.5), 2: math.exp(-0.5), 3: 0.5 * math.exp(-1.0)}
    total = sum(weights.values())
    assert float(mean[0, 0]) == pytest.approx(sum(weights[k] * float(seen[k].mean()) for k in seen) / total, abs=1e-5)
    spread = sum(weights[k] * float(seen[k].std()) for k in seen) / total
    assert float(deviation[0, 0]) == pytest.approx(spread, abs=1e-4)


def test_neighbours_alone_give_the_colour_of_a_flat_picture():
    images = torch.tensor([200, 30, 90], dtype=torch.uint8)[None, :, None, None].repeat(1, 1, 32, 32)
    hidden = regions(1, share=0.6)
    assert torch.equal(interpolate(images, hidden, 8), images)
    nothing = interpolate(images, torch.ones_like(hidden), 8)
    assert (nothing - 128).abs().max() <= 1


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="do not fit images"):
        recover(nano(32), pictures(), torch.zeros(3, 16, 16, dtype=torch.bool))
