"""Parts of a labelled set that must not overlap: what the lower levels train on, what judges the masks, the test."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def split_rows(labels: NDArray[np.int64], fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of a part of 1 − ``fraction`` and of one of ``fraction`` of every class, ascending, drawn by ``seed``.

    ``labels`` are int64 [n]. Every class is in both parts: ValueError if one has a single image, or the fraction does
    not lie between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the share held out for the masks is {fraction:g}; it must lie between 0 and 1")
    classes, counts = np.unique(labels, return_counts=True)
    if len(alone := classes[counts < 2]):
        raise ValueError(f"class {alone[0]} has one image; both parts of the split need one")
    held = _draw(labels, fraction, np.random.default_rng([seed, 3]))
    return np.flatnonzero(~held), np.flatnonzero(held)


def check_disjoint(**parts: Iterable[str]) -> None:
    """Raises ValueError, naming a key, if a key is in two of the parts, given by name."""
    sets = {name: set(keys) for name, keys in parts.items()}
    for (one, first), (other, second) in itertools.combinations(sets.items(), 2):
        common = first & second
        if common:
            raise ValueError(
                f"key {min(common)!r} is in both the {one} and the {other} split ({len(common)} keys are): "
                "the splits must not overlap"
            )


def hold_out(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """True for a share of every class, drawn by ``seed``; a class of one image stays in training."""
    return _draw(labels, fraction, np.random.default_rng([seed, 1]))


def _draw(labels: NDArray[np.int64], fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """True for a share of every class, one image at least and all but one at most; none of a class of one."""
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held[members[: min(len(members) - 1, max(1, round(fraction * len(members))))]] = True
    return held
