import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.views.geometry import View, central_box, random_view, stack_views, view_image, view_maps
from saliency.maps import FULL


def brute_force(values, covered, view, grid):
    """Mean of a map over every grid cell, by sampling each cell densely: no formula shared with the code."""
    fine = 120
    rows, columns = grid
    out = np.zeros(grid)
    x0, y0, x1, y1 = view.box
    for r in range(rows):
        for c in range(columns):
            u = (c + (np.arange(fine) + 0.5) / fine) / columns
            v = (r + (np.arange(fine) + 0.5) / fine) / rows
            if view.flip:
                u = 1 - u
            x, y = x0 + u * (x1 - x0), y0 + v * (y1 - y0)
            mx, my = (x - covered[0]) / (covered[2] - covered[0]), (y - covered[1]) / (covered[3] - covered[1])
            total = 0.0
            for yy in my:
                for xx in mx:
                    if 0 <= xx < 1 and 0 <= yy < 1:
                        total += values[int(yy * values.shape[0]), int(xx * values.shape[1])]
            out[r, c] = total / fine**2
    return out


@pytest.mark.parametrize("covered", [FULL, (0.2, 0.0, 0.8, 1.0)])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("size", "grid"), [(7, (4, 3)), (3, (5, 5)), (8, (8, 8)), (2, (1, 7))])
def test_maps_equal_a_dense_sampling(size, grid, flip, covered):
    rng = np.random.default_rng(size)
    values = rng.random((size, size))
    view = View((0.13, 0.05, 0.71, 0.9), flip)
    boxes, flips = stack_views([view])
    got = view_maps(torch.tensor(values)[None].float(), torch.tensor([covered]), boxes, flips, grid)
    np.testing.assert_allclose(got[0].reshape(grid), brute_force(values, covered, view, grid), atol=0.02)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(20, 200), st.integers(20, 200), st.sampled_from([(8, 8), (6, 10), (14, 14)]))
def test_an_image_that_is_its_own_saliency_stays_so(seed, width, height, grid):
    """The picture shows its own map; after any view, picture and map still agree patch by patch."""
    rng = np.random.default_rng(seed)
    cells = 4
    values = rng.integers(0, 256, (cells, cells)).astype(np.uint8)
    # blocks of exactly the map's cells: a picture of any size is made by nearest-neighbour enlargement of 8× cells
    side = cells * 40
    picture = Image.fromarray(np.kron(values, np.ones((40, 40), np.uint8))).convert("RGB")
    picture = picture.resize((side * width // 100 + 40, side * height // 100 + 40), Image.Resampling.NEAREST)
    view = random_view(rng, *picture.size)
    patch = 16
    seen = view_image(picture, view, (grid[0] * patch, grid[1] * patch)).astype(np.float64)[0]
    seen_means = seen.reshape(grid[0], patch, grid[1], patch).mean(axis=(1, 3))
    boxes, flips = stack_views([view])
    map_means = view_maps(torch.tensor(values)[None], torch.tensor([FULL]), boxes, flips, grid).reshape(grid).numpy()
    # bicubic resizing rings and bleeds by a fraction of a patch at cell borders
    assert np.abs(seen_means - map_means).mean() < 4
    assert np.abs(seen_means - map_means).max() < 40


def test_the_wrong_flip_or_box_is_noticed():
    """The agreement above is no accident: with the flip forgotten the same comparison fails by far."""
    values = torch.arange(16.0).reshape(1, 4, 4) * 16
    boxes, flips = stack_views([View((0.0, 0.0, 1.0, 1.0), True)])
    flipped = view_maps(values, torch.tensor([FULL]), boxes, flips, (4, 4))
    plain = view_maps(values, torch.tensor([FULL]), boxes, ~flips, (4, 4))
    assert torch.equal(flipped.reshape(4, 4).flip(1), plain.reshape(4, 4))
    assert (flipped - plain).abs().max() == 48


def test_whole_image_keeps_the_mean():
    values = torch.rand(3, 7, 7)
    boxes, flips = stack_views([View()] * 3)
    got = view_maps(values, torch.tensor([FULL] * 3), boxes, flips, (14, 14))
    torch.testing.assert_close(got.mean(1), values.mean((1, 2)))
    torch.testing.assert_close(got.reshape(3, 14, 14)[:, ::2, ::2], values)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3000), st.integers(1, 3000))
def test_views_lie_inside_and_keep_their_bounds(seed, width, height):
    view = random_view(np.random.default_rng(seed), width, height)
    x0, y0, x1, y1 = view.box
    assert 0 <= x0 < x1 <= 1 + 1e-9
    assert 0 <= y0 < y1 <= 1 + 1e-9
    w, h = (x1 - x0) * width, (y1 - y0) * height
    assert 3 / 4 - 1e-6 <= w / h <= 4 / 3 + 1e-6
    if 3 / 4 <= width / height <= 4 / 3:
        assert w * h >= 0.2 * width * height * 0.999


def test_views_flip_half_of_the_time_and_follow_their_seed():
    views = [random_view(np.random.default_rng([7, i]), 64, 48) for i in range(400)]
    assert 150 < sum(view.flip for view in views) < 250
    assert views == [random_view(np.random.default_rng([7, i]), 64, 48) for i in range(400)]


def test_central_box():
    assert central_box(200, 100, 1.0) == (0.25, 0.0, 0.75, 1.0)
    assert central_box(100, 200, 1.0) == (0.0, 0.25, 1.0, 0.75)


def test_view_image_shape_and_flip():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8))
    plain = view_image(image, View(), (16, 24))
    assert plain.shape == (3, 16, 24)
    assert plain.dtype == np.uint8
    np.testing.assert_array_equal(view_image(image, View(FULL, True), (16, 24)), plain[:, :, ::-1])
