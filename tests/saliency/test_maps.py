import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saliency.maps import dequantise, quantise
from saliency.resample import area_resample, fit_grid

finite = st.floats(0, 1e4, width=32)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)), elements=finite))
def test_strength_survives_quantisation(maps):
    stored, vmin, scale = quantise(maps)
    assert stored.dtype == np.uint8
    back = dequantise(stored, vmin, scale)
    assert np.all(np.abs(back - maps) <= scale[:, None, None] / 510 * 1.01 + 1e-3)
    for values, cells in zip(maps, stored, strict=True):
        if values.max() > values.min():
            assert cells.max() == 255
            assert cells.min() == 0
        else:
            assert not cells.any()


def test_a_strong_and_a_weak_map_stay_apart():
    maps = np.stack([np.eye(4), 1e-3 * np.eye(4)]).astype(np.float32)
    stored, vmin, scale = quantise(maps)
    np.testing.assert_array_equal(stored[0], stored[1])
    np.testing.assert_allclose(dequantise(stored, vmin, scale), maps, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_area_resampling_keeps_the_mean_from_any_grid_to_any_grid(size, target, seed):
    maps = torch.rand(2, size, size, generator=torch.Generator().manual_seed(seed))
    got = area_resample(maps, (target, target))
    assert got.shape == (2, target, target)
    torch.testing.assert_close(got.mean((1, 2)), maps.mean((1, 2)), atol=1e-5, rtol=0)
    assert got.max() <= maps.max() + 1e-5
    assert got.min() >= maps.min() - 1e-5


def test_area_resampling_equals_block_means():
    maps = torch.arange(64.0).reshape(1, 8, 8)
    torch.testing.assert_close(area_resample(maps, (4, 4)), torch.nn.functional.avg_pool2d(maps[None], 2)[0])
    torch.testing.assert_close(area_resample(maps, (8, 8)), maps)


@pytest.mark.parametrize("grid", [3, 7, 14])
def test_fit_grid(grid):
    maps = torch.rand(2, 7, 7)
    fitted = fit_grid(maps, grid)
    assert fitted.shape == (2, grid, grid)
    assert (fitted >= 0).all()
    if grid == 7:
        assert torch.equal(fitted, maps)
