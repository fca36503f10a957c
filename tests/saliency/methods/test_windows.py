import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from saliency.maps import FULL
from saliency.methods.methods import saliency_maps
from saliency.methods.windows import blend, finest_grid, map_windows, squash_windows, window_weights, windows
from saliency.resample import fit_grid
from saliency.towers.tower import Tower
from tests.tiny_clip import make_tiny_clip


@pytest.fixture(scope="module")
def tower():
    return Tower(make_tiny_clip(), open_clip.SimpleTokenizer(context_length=16))


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# where the windows are


@pytest.mark.parametrize("tiles", range(2, 7))
def test_neighbours_share_half_and_all_is_covered(tiles):
    whole, *parts = windows(tiles)
    assert whole == FULL
    assert len(parts) == tiles**2
    side = 2 / (tiles + 1)
    for number, (x0, y0, x1, y1) in enumerate(parts):
        row, column = divmod(number, tiles)
        assert (x0, y0) == pytest.approx((column * side / 2, row * side / 2))
        assert (x1 - x0, y1 - y0) == pytest.approx((side, side))
    assert parts[0][:2] == (0, 0)
    assert parts[-1][2:] == (1, 1)


def test_one_tile_is_the_whole_image():
    assert windows(1) == [FULL]


@pytest.mark.parametrize("tiles", [0, -1, 17])
def test_a_number_of_tiles_out_of_range_is_one_line(tiles):
    with pytest.raises(ValueError, match=f"--tiles is {tiles}; it must be between 1 and 16"):
        windows(tiles)


@pytest.mark.parametrize(
    ("side", "tiles", "grid"),
    [(14, 1, 14), (14, 2, 21), (14, 3, 28), (7, 2, 11), (7, 1, 7), (100, 4, 250), (200, 3, 256)],
)
def test_the_finest_grid_has_cells_as_large_as_a_windows_own(side, tiles, grid):
    assert finest_grid(side, tiles) == grid


# what the model sees of them


def test_windows_show_their_part_of_the_image(tower):
    image = Image.fromarray(noise(60, 90, 3).numpy())
    looks = squash_windows(tower, image, FULL, 2)
    assert looks.shape == (5, 3, 32, 32)
    np.testing.assert_array_equal(looks[0], tower.squash(image))
    for look, box in zip(looks[1:], [(0, 0, 60, 40), (30, 0, 90, 40), (0, 20, 60, 60), (30, 20, 90, 60)], strict=True):
        part = np.asarray(image.crop(box).resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        inner = np.s_[:, 4:-4, 4:-4]  # at its edges a window's resizing looks at a pixel or two beyond them
        assert np.abs(look[inner].astype(int) - part[inner]).max() <= 1


def test_windows_of_a_crop_stay_within_it(tower):
    pixels = np.full((40, 80, 3), 255, np.uint8)
    pixels[:, 20:60] = 7
    inner = np.s_[..., 4:-4]
    assert (squash_windows(tower, Image.fromarray(pixels), (0.25, 0, 0.75, 1), 3)[inner] == 7).all()
    assert (squash_windows(tower, Image.fromarray(pixels), FULL, 3)[inner] != 7).any()


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(4, 50), st.integers(4, 50)),
    low=st.tuples(st.floats(0, 0.6), st.floats(0, 0.6)),
    high=st.tuples(st.floats(0.7, 1), st.floats(0.7, 1)),
    tiles=st.integers(1, 5),
)
def test_no_image_and_no_crop_has_a_window_that_cannot_be_shown(tower, size, low, high, tiles):
    looks = squash_windows(tower, Image.new("RGB", size, (9, 9, 9)), (*low, *high), tiles)
    assert looks.shape == (len(windows(tiles)), 3, 32, 32)
    assert (looks == 9).all()


# the blend


@settings(max_examples=60, deadline=None)
@given(
    tiles=st.integers(2, 6),
    grid=st.integers(1, 40),
    cells=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    constant=st.floats(0, 1e3, width=32),
)
def test_equal_constants_blend_to_that_constant(tiles, grid, cells, constant):
    blended = blend(torch.full((2, tiles**2, *cells), constant), tiles, grid)
    torch.testing.assert_close(
        blended, torch.full((2, grid, grid), constant), rtol=1e-5, atol=1e-30
    )  # below it, subnormal numbers


@settings(max_examples=40, deadline=None)
@given(tiles=st.integers(2, 4), grid=st.integers(1, 9), cells=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_blend_is_no_higher_and_no_lower_than_its_maps(tiles, grid, cells, seed):
    maps = torch.rand(1, tiles**2, cells, cells, generator=torch.Generator().manual_seed(seed))
    blended = blend(maps, tiles, grid)
    assert maps.min() - 1e-6 <= blended.min()
    assert blended.max() <= maps.max() + 1e-6


@pytest.mark.parametrize(("tiles", "grid", "cells"), [(2, 5, 3), (2, 6, 4), (3, 8, 4), (3, 4, 5), (4, 7, 2)])
def test_the_blend_equals_a_sum_over_many_points(tiles, grid, cells):
    """The definition point by point: every window that holds the point, weighted by how near its centre it is."""
    maps = torch.rand(tiles**2, cells, cells, generator=torch.Generator().manual_seed(1)).numpy()
    expected = np.zeros((grid, grid))
    points = 24  # a cell and side
    for row, column in np.ndindex(grid, grid):
        for i, j in np.ndindex(points, points):
            y, x = (row + (i + 0.5) / points) / grid, (column + (j + 0.5) / points) / grid
            expected[row, column] += _at_point(maps, tiles, cells, y, x) / points**2
    np.testing.assert_allclose(blend(torch.from_numpy(maps)[None], tiles, grid)[0].numpy(), expected, atol=0.02)


def _at_point(maps, tiles, cells, y, x):
    total = weights = 0.0
    centres = [(i + 1) / (tiles + 1) for i in range(tiles)]
    y_inner, x_inner = (min(max(v, centres[0]), centres[-1]) for v in (y, x))  # outside them one window counts alone
    for number, (x0, y0, x1, y1) in enumerate(windows(tiles)[1:]):
        if x0 <= x < x1 and y0 <= y < y1:
            near = [1 - abs(v - (a + b) / 2) / ((b - a) / 2) for v, a, b in ((y_inner, y0, y1), (x_inner, x0, x1))]
            h, w = int((y - y0) / (y1 - y0) * cells), int((x - x0) / (x1 - x0) * cells)
            total += near[0] * near[1] * maps[number, min(h, cells - 1), min(w, cells - 1)]
            weights += near[0] * near[1]
    assert weights == pytest.approx(1)
    return total


def test_windows_of_one_scene_blend_to_that_scene():
    """What all windows agree about comes out as it went in, where the grids coincide."""
    scene = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(2))
    parts = [scene[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] for row in range(3) for column in range(3)]
    torch.testing.assert_close(blend(torch.stack(parts, 1), 3, 8), scene)


def test_tiles_are_laid_by_rows():
    maps = torch.zeros(1, 4, 3, 3)
    maps[0, 1] = 1  # the upper right one
    blended = blend(maps, 2, 6)[0]
    assert blended[0, 5] == 1
    assert blended[5, 0] == blended[0, 0] == blended[5, 5] == 0


# how much a window counts


def test_equal_windows_count_the_same_and_the_average_is_one(tower):
    torch.testing.assert_close(window_weights(tower, torch.full((2, 9), 0.3)), torch.ones(2, 9))
    weights = window_weights(tower, torch.rand(3, 9) / 5)
    torch.testing.assert_close(weights.mean(1), torch.ones(3))


def test_a_window_that_fits_the_caption_counts_by_the_models_odds(tower):
    weights = window_weights(tower, torch.tensor([[0.1, 0.2]]))
    scale = tower.model.logit_scale.exp().item()
    assert (weights[0, 1] / weights[0, 0]).item() == pytest.approx(np.exp(0.1 * scale), rel=1e-5)


# maps of windows


def test_one_tile_changes_nothing(tower):
    pixels, texts = noise(3, 1, 3, 32, 32), tower.encode_texts(["a", "b", "c"])
    maps, scores = map_windows(tower, pixels, texts, method="gradcam", tiles=1, grid=7)
    raw, expected = saliency_maps(tower, pixels[:, 0], texts)
    assert torch.equal(maps, fit_grid(raw, 7))
    assert torch.equal(scores, expected)


@pytest.mark.parametrize("tiles", [2, 3])
@pytest.mark.parametrize("grid", [3, 6, 8, 11])
def test_maps_are_half_the_whole_images_and_half_the_windows(tower, tiles, grid):
    """Each window mapped alone, put together by the definition."""
    count = tiles**2 + 1
    pixels, texts = noise(2, count, 3, 32, 32), tower.encode_texts(["a dog", "b"])
    maps, scores = map_windows(tower, pixels, texts, method="gradcam", tiles=tiles, grid=grid)
    assert maps.shape == (2, grid, grid)
    assert maps.dtype == torch.float32
    fine = min(grid, {2: 6, 3: 8}[tiles])
    for pair in range(2):
        alone = [saliency_maps(tower, pixels[pair, k : k + 1], texts[pair : pair + 1]) for k in range(count)]
        assert scores[pair].item() == pytest.approx(alone[0][1].item(), abs=1e-6)
        odds = np.exp([score.item() * tower.model.logit_scale.exp().item() for _, score in alone[1:]])
        parts = torch.cat([raw * float(odd) for (raw, _), odd in zip(alone[1:], odds, strict=True)])
        tiled = blend(parts[None], tiles, fine) / odds.mean()
        expected = fit_grid((fit_grid(alone[0][0], fine) + tiled) / 2, grid)[0]
        torch.testing.assert_close(maps[pair], expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("tiles", [1, 2])
def test_captions_share_the_windows_of_their_image(tower, tiles):
    pixels = noise(2, len(windows(tiles)), 3, 32, 32)
    texts = torch.stack([tower.encode_texts(["a", "b"]), tower.encode_texts(["a dog", "a cat"])])
    maps, scores = map_windows(tower, pixels, texts, method="gradcam", tiles=tiles, grid=6)
    for captions, found, score in zip(texts, maps, scores, strict=True):
        alone, expected = map_windows(tower, pixels, captions, method="gradcam", tiles=tiles, grid=6)
        torch.testing.assert_close(found, alone, rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(score, expected, atol=1e-6, rtol=0)


def test_the_model_never_sees_more_images_than_the_batch_has(tower):
    sizes = []
    handle = tower.model.visual.register_forward_hook(lambda _m, inputs, _o: sizes.append(len(inputs[0])))
    map_windows(tower, noise(3, 10, 3, 32, 32), tower.encode_texts(["a", "b", "c"]), method="gradcam", tiles=3, grid=8)
    handle.remove()
    assert sizes == [3] * 10


def test_maps_do_not_depend_on_their_batch(tower):
    pixels, texts = noise(3, 5, 3, 32, 32), tower.encode_texts(["a", "b", "c"])
    together, _ = map_windows(tower, pixels, texts, method="gradcam", tiles=2, grid=6)
    alone = [
        map_windows(tower, pixels[i : i + 1], texts[i : i + 1], method="gradcam", tiles=2, grid=6)[0] for i in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-7)
    assert not torch.allclose(together[0], together[1])


def test_windows_must_be_those_of_the_tiles(tower):
    with pytest.raises(ValueError, match="4 windows an image, but --tiles 2 makes 5"):
        map_windows(tower, noise(1, 4, 3, 32, 32), tower.encode_texts(["a"]), method="gradcam", tiles=2, grid=6)
