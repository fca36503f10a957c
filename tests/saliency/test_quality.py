import numpy as np
import pytest

from saliency.quality import centre_prior, other_captions, pointing_hits


def test_a_peak_on_the_object_is_a_hit():
    maps = np.zeros((3, 4, 4), np.float32)
    maps[0, 0, 0] = maps[1, 3, 3] = maps[2, 1, 2] = 1
    mask = np.zeros((40, 20), bool)
    mask[:10, :5] = True
    other = np.zeros((16, 16), bool)
    other[5:7, 9:11] = True
    assert pointing_hits(maps, [mask, mask, other]).tolist() == [1, 0, 1]


def test_a_flat_map_scores_by_chance():
    mask = np.zeros((10, 10), bool)
    mask[:3] = True
    hits = pointing_hits(np.stack([np.zeros((5, 5), np.float32), np.full((5, 5), 2, np.float32)]), [mask, mask])
    assert hits == pytest.approx([0.3, 0.3])


def test_the_centre_prior_points_at_the_centre():
    prior = centre_prior((6, 6))[None]
    centre, corner = np.zeros((30, 30), bool), np.zeros((30, 30), bool)
    centre[12:18, 12:18] = corner[:6, :6] = True
    assert pointing_hits(np.repeat(prior, 2, 0), [centre, corner]).tolist() == [1, 0]
    assert prior[0] == pytest.approx(prior[0].T)
    assert prior[0] == pytest.approx(prior[0, ::-1])


def test_other_captions_are_other():
    captions = ["a", "a", "b", "a", "c"]
    others = other_captions(captions)
    assert all(x != y for x, y in zip(captions, others, strict=True))
    assert other_captions(["same", "same"]) == ["same", "same"]
