import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae.splits import check_disjoint, split_rows


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=60).map(lambda found: np.asarray(found * 2)),
    st.floats(0.05, 0.95),
    st.integers(0, 5),
)
def test_a_split_is_a_partition_with_every_class_on_both_sides(labels, fraction, seed):
    lower, upper = split_rows(labels, fraction, seed)
    assert sorted([*lower, *upper]) == list(range(len(labels)))
    for label in np.unique(labels):
        count, held = (labels == label).sum(), (labels[upper] == label).sum()
        assert 1 <= held <= count - 1
        assert abs(held - fraction * count) <= 1


def test_a_split_follows_from_its_seed():
    labels = np.arange(100) % 5
    assert np.array_equal(split_rows(labels, 0.2, 0)[1], split_rows(labels, 0.2, 0)[1])
    assert not np.array_equal(split_rows(labels, 0.2, 0)[1], split_rows(labels, 0.2, 1)[1])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_share_that_leaves_a_part_empty_is_an_error(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_rows(np.zeros(4, np.int64), fraction, 0)


def test_a_class_of_one_image_is_an_error():
    with pytest.raises(ValueError, match="class 7 has one image"):
        split_rows(np.asarray([1, 1, 7]), 0.5, 0)


def test_an_overlap_is_named():
    check_disjoint(training=["a", "b"], mask=["c"], test=["d"])
    with pytest.raises(ValueError, match=r"key 'b' is in both the training and the test split \(2 keys are\)"):
        check_disjoint(training=["a", "b", "c"], mask=["d"], test=iter(["b", "c"]))
