import math

import numpy as np
import pytest

from mae.evaluation.region_scores import boundary, boundary_accuracy, dilated, region_similarity


def blobs(seed, shape=(23, 31)):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, bool)
    for _ in range(3):
        cy, cx, r = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(2, 7)
        mask |= (y - cy) ** 2 + (x - cx) ** 2 < r**2
    return mask


def brute_boundary(mask):
    height, width = mask.shape
    found = set()
    for y in range(height):
        for x in range(width):
            others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if any(j < height and i < width and mask[j, i] != mask[y, x] for j, i in others):
                found.add((y, x))
    return found


def brute_f(found, truth, tolerance):
    reach = math.ceil(tolerance * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))
    a, b = brute_boundary(found), brute_boundary(truth)
    if not a or not b:
        return float(not a and not b)

    def share(points, others):
        near = [any((y - j) ** 2 + (x - i) ** 2 <= reach**2 for j, i in others) for y, x in points]
        return sum(near) / len(near)

    precision, recall = share(a, b), share(b, a)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tolerance", [0.008, 0.06])
def test_f_is_that_of_loops(seed, tolerance):
    found, truth = blobs(seed), blobs(seed + 100)
    assert boundary_accuracy(found, truth, tolerance=tolerance) == pytest.approx(brute_f(found, truth, tolerance))


@pytest.mark.parametrize("seed", range(3))
def test_boundaries_are_those_of_loops(seed):
    assert set(zip(*(axis.tolist() for axis in np.nonzero(boundary(blobs(seed)))), strict=True)) == brute_boundary(
        blobs(seed)
    )


@pytest.mark.parametrize("seed", range(3))
def test_j_is_that_of_sets(seed):
    found, truth = blobs(seed), blobs(seed + 50)
    a, b = ({tuple(place) for place in np.argwhere(mask)} for mask in (found, truth))
    assert region_similarity(found, truth) == pytest.approx(len(a & b) / len(a | b))


def test_perfect_and_empty_masks():
    mask, nothing, everything = blobs(0), np.zeros((23, 31), bool), np.ones((23, 31), bool)
    for score in (region_similarity, boundary_accuracy):
        assert score(mask, mask) == 1
        assert score(nothing, nothing) == 1
        assert score(nothing, mask) == 0
        assert score(mask, nothing) == 0
    assert boundary_accuracy(everything, mask) == 0  # all of an image has no boundary
    assert region_similarity(everything, nothing) == 0


def test_the_tolerance_is_of_the_diagonal_and_rounded_up():
    """480×854: 8 pixels."""
    truth, found, far = (np.zeros((480, 854), bool) for _ in range(3))
    truth[100:200, 300:400], found[108:208, 300:400], far[109:209, 300:400] = True, True, True
    assert boundary_accuracy(found, truth) == 1
    assert boundary_accuracy(far, truth) < 1


@pytest.mark.parametrize("radius", [0, 1, 2, 5])
def test_dilation_is_by_a_disc(radius):
    mask = np.random.default_rng(0).random((15, 18)) < 0.02
    points = np.argwhere(mask)
    y, x = np.mgrid[:15, :18]
    near = [(y - j) ** 2 + (x - i) ** 2 <= radius**2 for j, i in points]
    assert (dilated(mask, radius) == np.any(near, axis=0)).all()
