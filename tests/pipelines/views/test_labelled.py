"""Which labels are used: balanced, nested, seeded; and what tells one part from another."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.open_source import open_source
from pipelines.views.labelled import Labelled, balanced_share

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(
    lambda labels: np.unique(labels, return_inverse=True)[1].astype(np.int64)
)


@given(LABELS, st.floats(0.001, 1), st.integers(0, 3))
@settings(max_examples=200)
def test_a_share_is_balanced_and_near_what_was_asked_for(labels, fraction, seed):
    chosen = balanced_share(labels, fraction, seed)
    total, taken = np.bincount(labels), np.bincount(labels[chosen], minlength=labels.max() + 1)
    most = taken.max()
    assert (taken == np.minimum(total, most)).all()  # the same number of each, or all there are
    assert taken.min() >= 1
    sizes = [int(np.minimum(total, k).sum()) for k in range(1, total.max() + 1)]
    wanted = fraction * len(labels)
    assert abs(chosen.sum() - wanted) == min(abs(size - wanted) for size in sizes)


@given(LABELS, st.floats(0.001, 1), st.floats(0.001, 1), st.integers(0, 3))
@settings(max_examples=200)
def test_shares_are_nested(labels, one, other, seed):
    small, large = (balanced_share(labels, fraction, seed) for fraction in sorted((one, other)))
    assert (large | ~small).all()


@given(LABELS, st.integers(0, 3))
def test_the_whole_is_everything(labels, seed):
    assert balanced_share(labels, 1.0, seed).all()


def test_one_and_ten_per_cent_of_a_large_set():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 500))
    one, ten = (balanced_share(labels, fraction, 0) for fraction in (0.01, 0.1))
    assert np.bincount(labels[one]).tolist() == [5] * 10
    assert np.bincount(labels[ten]).tolist() == [50] * 10
    assert ten[one].all()
    assert (balanced_share(labels, 0.1, 0) == ten).all()
    assert (balanced_share(labels, 0.1, 1) != ten).any()


def part(spec="shapes:12,size=32"):
    source = open_source(spec)
    return Labelled(source, np.unique(source.labels, return_inverse=True)[1])


def test_identity_is_of_keys_labels_order_and_pixels():
    whole = part()
    assert whole.identity() == part().identity()
    relabelled = replace(whole, labels=whole.labels[::-1].copy())
    shorter = whole.select(np.arange(12) < 11)
    others = [relabelled, shorter, part("shapes:12,size=48")]
    assert len({each.identity() for each in (whole, *others)}) == 4


def test_an_unreadable_image_has_an_identity_too(tmp_path):
    from tests.pipelines.evaluate.test_evaluate import tree

    folder = tree(tmp_path / "data", count=2)
    before = part(str(folder)).identity()
    (folder / "red" / "00.png").unlink()
    (folder / "red" / "00.png").write_bytes(b"")
    assert part(str(folder)).identity() != before


@pytest.mark.parametrize("count", [1, 3])
def test_a_selection_keeps_labels_with_images(count):
    chosen = part().select(np.arange(12) < count)
    assert len(chosen) == len(chosen.source) == count
