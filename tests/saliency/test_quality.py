import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score, roc_auc_score

from saliency.names import FIGURES
from saliency.quality import (
    THRESHOLDS,
    area,
    best_threshold,
    bootstrap_intervals,
    caption_sensitivity,
    centre_correlation,
    centre_prior,
    correlation,
    degenerate_kinds,
    energy_inside,
    entropy,
    iou_curve,
    lay_on_image,
    other_captions,
    pixel_auc,
    pointing,
    pointing_hits,
    score_pixels,
    uniform_scores,
)


def a_mask(rng, shape=(20, 30)):
    mask = np.zeros(shape, bool)
    top, left = rng.integers(0, shape[0] - 8), rng.integers(0, shape[1] - 8)
    mask[top : top + rng.integers(3, 8), left : left + rng.integers(3, 8)] = True
    return mask


def a_map(rng, grid=(5, 7), distinct=12):
    """Few distinct values, so that there are ties and plateaus; some cells are zero."""
    return (rng.integers(0, distinct, grid) / distinct).astype(np.float32)


# ---- a map on its image


@pytest.mark.parametrize(
    ("grid", "shape"), [((5, 7), (20, 30)), ((4, 4), (33, 17)), ((8, 8), (5, 6)), ((1, 1), (3, 4))]
)
def test_a_map_is_laid_as_torch_interpolates(grid, shape):
    values = np.random.default_rng(0).random(grid).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.tensor(values)[None, None], size=shape, mode="bilinear")[0, 0]
    assert lay_on_image(values, shape) == pytest.approx(expected.numpy(), abs=1e-6)


def test_a_map_of_a_part_is_that_map_in_its_place_and_zero_elsewhere():
    values = np.random.default_rng(0).random((4, 4)).astype(np.float32) + 1
    laid = lay_on_image(values, (20, 40), (0.25, 0.1, 0.75, 0.6))
    assert laid[2:12, 10:30] == pytest.approx(lay_on_image(values, (10, 20)), abs=1e-6)
    laid[2:12, 10:30] = 0
    assert not laid.any()


def test_a_plateau_keeps_all_of_its_peak():
    """Interpolation by weighted sums would round the pixels of a plateau apart, and point at an accident."""
    values = np.full((3, 3), 0.1, np.float32)
    values[1:, 1:] = 0.7
    laid = lay_on_image(values, (90, 90))
    assert (laid[45:, 45:] == laid.max()).all()
    assert np.ptp(lay_on_image(np.full((7, 7), 0.3, np.float32), (101, 103))) == 0


# ---- figures with masks


def test_a_peak_on_the_object_is_a_hit():
    maps = np.zeros((3, 4, 4), np.float32)
    maps[0, 0, 0] = maps[1, 3, 3] = maps[2, 1, 2] = 1
    mask = np.zeros((40, 20), bool)
    mask[:10, :5] = True
    other = np.zeros((16, 16), bool)
    other[5:7, 9:11] = True
    assert pointing_hits(maps, [mask, mask, other]).tolist() == [1, 0, 1]


def test_pointing_goes_by_the_part_that_a_map_covers():
    values = np.zeros((1, 4, 4), np.float32)
    values[0, 0, 0] = 1
    mask = np.zeros((20, 40), bool)
    mask[:3, 10:13] = True
    assert pointing_hits(values, [mask]).tolist() == [0]
    assert pointing_hits(values, [mask], np.float32([[0.25, 0, 0.75, 1]])).tolist() == [1]


@pytest.mark.parametrize("seed", range(8))
def test_auc_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    mask, pixels = a_mask(rng), lay_on_image(a_map(rng), (20, 30))
    if seed % 2:
        pixels = np.round(pixels * 4) / 4  # mostly ties
    assert pixel_auc(pixels, mask) == pytest.approx(roc_auc_score(mask.ravel(), pixels.ravel()), abs=1e-12)


def test_auc_is_about_ranks():
    rng = np.random.default_rng(0)
    mask, pixels = a_mask(rng), rng.random((20, 30)).astype(np.float32)
    assert pixel_auc(np.exp(3 * pixels), mask) == pytest.approx(pixel_auc(pixels, mask), abs=1e-12)
    assert pixel_auc(-pixels, mask) == pytest.approx(1 - pixel_auc(pixels, mask))
    assert pixel_auc(mask.astype(np.float32), mask) == 1
    assert pixel_auc(pixels, np.ones_like(mask)) == 0.5
    assert pixel_auc(pixels, np.zeros_like(mask)) == 0.5


@pytest.mark.parametrize("seed", range(4))
def test_iou_is_scikit_learns_at_every_threshold(seed):
    rng = np.random.default_rng(seed)
    mask, pixels = a_mask(rng), lay_on_image(a_map(rng), (20, 30)) * np.float32(3)
    curve = iou_curve(pixels, mask)
    normalised = pixels / pixels.max()
    for threshold, found in zip(THRESHOLDS, curve, strict=True):
        if np.abs(normalised - threshold).min() > 1e-5:  # else it is rounding that decides
            expected = jaccard_score(mask.ravel(), (normalised >= threshold).ravel(), zero_division=0)
            assert found == pytest.approx(expected), threshold
    assert curve[0] == mask.mean()


def test_energy_is_the_share_of_the_sum():
    pixels = np.float32([[1, 2], [3, 4]])
    assert energy_inside(pixels, np.bool_([[1, 0], [0, 1]])) == pytest.approx(0.5)
    assert energy_inside(100 * pixels, np.bool_([[0, 0], [0, 1]])) == pytest.approx(0.4)


@pytest.mark.parametrize("value", [0, 2, 1e-20])
def test_a_flat_or_empty_map_is_the_uniform_one(value):
    mask = a_mask(np.random.default_rng(0))
    found, expected = score_pixels(np.full(mask.shape, value, np.float32), mask), uniform_scores(mask)
    for name in FIGURES:
        assert getattr(found, name) == pytest.approx(getattr(expected, name)), name
    assert expected.pointing == mask.mean()
    assert expected.auc == 0.5


def test_the_mask_itself_is_a_perfect_map():
    mask = a_mask(np.random.default_rng(0))
    scores = score_pixels(mask.astype(np.float32), mask)
    assert (scores.pointing, scores.energy, scores.auc) == (1, 1, 1)
    assert (scores.iou[1:] == 1).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), power=st.integers(-20, 20))
def test_strength_does_not_matter_and_figures_stay_in_range(seed, power):
    rng = np.random.default_rng(seed)
    mask, pixels = a_mask(rng), lay_on_image(a_map(rng), (20, 30))
    plain, scaled = score_pixels(pixels, mask), score_pixels(pixels * np.float32(2.0**power), mask)
    for name in ("pointing", "energy", "auc"):
        assert 0 <= getattr(plain, name) <= 1
        assert getattr(plain, name) == pytest.approx(getattr(scaled, name))
    assert plain.iou == pytest.approx(scaled.iou)
    assert plain.iou.min() >= 0
    assert plain.iou.max() <= 1


def test_the_threshold_is_one_for_the_whole_set():
    curves = np.zeros((2, len(THRESHOLDS)))
    curves[0, 10], curves[1, 80], curves[:, 40] = 0.9, 0.9, 0.6
    assert best_threshold(curves) == 40
    assert best_threshold(np.full((3, len(THRESHOLDS)), 0.2)) == 0


# ---- controls


def test_the_centre_prior_points_at_the_centre():
    prior = centre_prior((6, 6))[None]
    centre, corner = np.zeros((30, 30), bool), np.zeros((30, 30), bool)
    centre[12:18, 12:18] = corner[:6, :6] = True
    assert pointing_hits(np.repeat(prior, 2, 0), [centre, corner]).tolist() == [1, 0]
    assert prior[0] == pytest.approx(prior[0].T)
    assert prior[0] == pytest.approx(prior[0, ::-1])


def test_the_centre_prior_of_a_part_is_that_part_of_the_prior():
    whole = centre_prior((20, 40))
    assert centre_prior((10, 20), box=(0.25, 0.5, 0.75, 1)) == pytest.approx(whole[10:, 10:30])


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_other_captions_are_the_next_that_differ(captions):
    expected = []
    for i, caption in enumerate(captions):
        following = captions[i + 1 :] + captions[:i]
        expected.append(next((other for other in following if other != caption), caption))
    assert other_captions(captions) == expected


# ---- figures without masks


def test_maps_that_say_nothing():
    rng = np.random.default_rng(0)
    maps = rng.random((5, 4, 4)).astype(np.float32)
    maps[1] = 0
    maps[2] = 3 + 0.001 * maps[2]
    maps[3] = 0
    maps[3, 1, 2] = 5
    kinds = {name: np.flatnonzero(found).tolist() for name, found in degenerate_kinds(maps).items()}
    assert kinds == {"empty": [1], "flat": [2], "one cell": [3]}


def test_entropy_and_area():
    one, half, flat, empty = np.zeros((4, 4, 4), np.float32)
    one[0, 0], flat[:] = 7, 3
    half[:2], half[0, 0] = 1, 0.6
    maps = np.stack([one, half, flat, empty])
    shares = half.ravel()[:8] / half.sum()
    assert entropy(maps) == pytest.approx([0, -(shares * np.log(shares)).sum() / np.log(16), 1, 1])
    assert area(maps) == pytest.approx([1 / 16, 0.5, 1, 1])
    assert entropy(np.ones((1, 1, 1), np.float32)).tolist() == [1]


def test_correlation_is_numpys():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 6, 3, 5)).astype(np.float32)
    expected = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(first, second, strict=True)]
    assert correlation(first, second) == pytest.approx(expected)
    assert correlation(first, np.ones_like(first)).tolist() == [0] * 6


def test_correlation_with_the_centre_goes_by_the_part_that_a_map_covers():
    whole = centre_prior((20, 40))
    maps = np.stack([whole[10:, 10:30], centre_prior((10, 20))])
    assert centre_correlation(maps, np.float32([[0.25, 0.5, 0.75, 1], [0, 0, 1, 1]])) == pytest.approx([1, 1])
    assert centre_correlation(maps)[0] < 0.9
    assert centre_correlation(-maps)[1] == pytest.approx(-1)


def test_caption_sensitivity():
    rng = np.random.default_rng(0)
    maps, flat = rng.random((1, 4, 4)).astype(np.float32), np.ones((1, 4, 4), np.float32)
    assert caption_sensitivity(maps, 3 * maps) == pytest.approx([0], abs=1e-6)
    assert caption_sensitivity(maps, 1 - maps) == pytest.approx([2])
    assert caption_sensitivity(maps, flat).tolist() == [1]
    assert caption_sensitivity(flat, 0 * flat).tolist() == [0]


# ---- intervals


def test_intervals_are_those_of_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(40, 2))
    means = np.stack([values[rng.integers(40, size=40)].mean(axis=0) for _ in range(4000)])
    assert bootstrap_intervals(values) == pytest.approx(np.quantile(means, [0.025, 0.975], axis=0), abs=0.03)
    assert (bootstrap_intervals(values) == bootstrap_intervals(values)).all()
    assert (bootstrap_intervals(values) != bootstrap_intervals(values, seed=1)).any()


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = [
        low[0] <= 0.3 <= high[0]
        for low, high in (bootstrap_intervals(rng.random((80, 1)) < 0.3, resamples=300) for _ in range(200))
    ]
    assert 0.88 <= np.mean(covered) <= 0.99


def test_pairs_of_one_image_are_drawn_together():
    """Ten captions of an image are not ten images: copies add no certainty."""
    rng = np.random.default_rng(0)
    values = rng.random((30, 1))
    repeated, images = np.repeat(values, 10, axis=0), np.repeat(np.arange(30), 10)
    assert bootstrap_intervals(repeated, images=images) == pytest.approx(bootstrap_intervals(values))
    assert np.ptp(bootstrap_intervals(repeated)) < 0.5 * np.ptp(bootstrap_intervals(values))


def test_a_difference_on_the_same_images_is_sharper_than_two_intervals():
    rng = np.random.default_rng(0)
    easy = rng.random(60)
    control, better = easy, easy + 0.05 + 0.01 * rng.random(60)
    low, _ = bootstrap_intervals((better - control)[:, None])
    ends = bootstrap_intervals(np.stack([better, control], axis=1))
    assert low[0] > 0
    assert ends[0, 0] < ends[1, 1]


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_has_no_spread(count):
    assert np.isnan(bootstrap_intervals(np.ones((count, 3)))).all()
    if count:
        assert np.isnan(bootstrap_intervals(np.ones((4, 3)), images=np.zeros(4, np.int64))).all()


def test_blocks_of_draws_do_not_change_the_draws(monkeypatch):
    values = np.random.default_rng(0).random((50, 1))
    whole = bootstrap_intervals(values)
    monkeypatch.setattr("saliency.quality._BLOCK", 333)
    assert (bootstrap_intervals(values) == whole).all()


def test_pointing_counts_every_pixel_of_the_peak():
    for pixels in itertools.permutations([2.0, 2.0, 1.0, 0.0]):
        square = np.float32(pixels).reshape(2, 2)
        assert pointing(square, np.bool_([[1, 0], [0, 0]])) == (0.5 if pixels[0] == 2 else 0)
