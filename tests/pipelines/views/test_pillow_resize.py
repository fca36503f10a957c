"""Regions resized in a batch are what Pillow makes of the whole picture, and hold no more than that needs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.views import pillow_resize as module
from pipelines.views.geometry import View, random_view, stack_views, view_image
from pipelines.views.pillow_resize import cut_region, pack_regions, resize, resize_weights
from tests.fake_cuda import CUDA, fake_cuda


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def differences(pictures, views, size):
    packed = pack_regions([cut_region(picture, view, size) for picture, view in zip(pictures, views, strict=True)])
    found = resize(packed, stack_views(views)[1], size)
    assert (found.dtype, found.shape) == (torch.uint8, (len(views), 3, *size))
    expected = np.stack([view_image(picture, view, size) for picture, view in zip(pictures, views, strict=True)])
    return np.abs(found.numpy().astype(int) - expected)


sides = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.tuples(sides, sides), min_size=1, max_size=5), st.tuples(sides, sides))
def test_random_views_of_any_pictures_at_any_size(seed, pictures, size):
    """Noise is the hardest picture: every weight shows, and every overshoot is clipped."""
    rng = np.random.default_rng(seed)
    views = [random_view(rng, *sides, scale=(0.02, 1.0)) for sides in pictures]
    assert not differences([noise(*sides, seed=i) for i, sides in enumerate(pictures)], views, size).any()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0, 0, 0.3, 0.4), (0.6, 0.5, 1, 1), (0.21, 0.33, 0.62, 0.71)])
@pytest.mark.parametrize("size", [(120, 200), (31, 17), (60, 100), (24, 24)])
@pytest.mark.parametrize("sides", [(100, 60), (60, 100), (37, 37)])
def test_borders_and_scales(sides, size, box, flip):
    assert not differences([noise(*sides)], [View(box, flip)], size).any()


def test_more_images_than_are_resized_at_once_and_both_orders_of_the_axes():
    rng = np.random.default_rng(0)
    sizes = [(60, 30) if i % 3 else (20, 70) for i in range(2 * module._AT_ONCE + 5)]
    pictures = [noise(*size, seed=i) for i, size in enumerate(sizes)]
    views = [random_view(rng, *size) for size in sizes]
    orders = {cut_region(picture, view, (24, 40)).height_first for picture, view in zip(pictures, views, strict=True)}
    assert orders == ({False, True} if module._HEIGHT_MAY_BE_FIRST else {False})
    assert not differences(pictures, views, (24, 40)).any()


def test_the_wrong_flip_box_or_order_is_noticed():
    picture, view, size = noise(20, 70), View((0.1, 0.1, 0.8, 0.7)), (24, 40)
    region = cut_region(picture, view, size)
    expected = view_image(picture, view, size).astype(int)

    def error(region, flip=False):
        found = resize(pack_regions([region]), torch.tensor([flip]), size).numpy().astype(int)[0]
        return np.abs(found - expected).max()

    assert error(region) == 0
    assert error(region, flip=True) > 50
    x0, y0, x1, y1 = region.box
    assert error(module.Region(region.pixels, (x0 + 0.1, y0, x1 + 0.1, y1), region.height_first)) > 5
    assert error(module.Region(region.pixels, region.box, not region.height_first)) > 0


def test_a_region_is_no_larger_than_its_view_needs():
    picture = noise(400, 300)
    region = cut_region(picture, View((0.25, 0.5, 0.5, 0.75)), (50, 50))
    assert region.pixels.shape == (75 + 6, 100 + 8, 3)  # the filter reaches two output pixels to each side
    np.testing.assert_array_equal(region.pixels, np.asarray(picture)[147:228, 96:204])
    assert region.box == (4, 3, 104, 78)
    assert cut_region(picture, View((0, 0, 0.25, 1)), (300, 100)).pixels.shape == (300, 102, 3)


def test_a_region_far_larger_than_its_view_is_resized_at_once():
    picture, view, size = noise(400, 300), View((0.0, 0.1, 0.9, 0.95), True), (16, 24)
    region = cut_region(picture, view, size)
    assert region.pixels.shape == (16, 24, 3)
    assert differences([picture], [view], size).max() == 0


def test_a_picture_of_extreme_contrast_shrunk_and_enlarged_far():
    """The largest sums: single precision has to hold them."""
    stripes = np.zeros((240, 240, 3), np.uint8)
    stripes[:, ::2] = 255
    stripes[::3] = 255
    for size in ((7, 230), (230, 7), (90, 90), (1, 240)):
        assert not differences([Image.fromarray(stripes)], [View((0.003, 0.01, 0.99, 0.995))], size).any()


def test_weights_sum_to_one_and_stay_inside():
    low, high = torch.tensor([0.3, -0.2], dtype=torch.float64), torch.tensor([9.1, 5.0], dtype=torch.float64)
    weights = resize_weights(low, high, torch.tensor([10, 4]), 12, 6)
    assert weights.shape == (2, 6, 12)
    assert torch.equal(weights, weights.round())
    assert float((weights.sum(2) / 2**22 - 1).abs().max()) < 12 / 2**22
    assert not weights[0, :, 10:].any()
    assert not weights[1, :, 4:].any()


def test_nothing_to_resize():
    assert resize(pack_regions([]), torch.zeros(0, dtype=torch.bool), (8, 12)).shape == (0, 3, 8, 12)


def test_resizing_never_waits_for_the_device():
    packed = pack_regions([cut_region(noise(40, 30), View(), (16, 16))] * 3)
    flips = torch.tensor([True, False, True])
    with fake_cuda() as cuda:
        resize(packed, flips, (16, 16), CUDA)
        with cuda:
            assert resize(packed, flips, (16, 16), CUDA).device == CUDA
