"""How far two maps of a pair agree, as numbers that do not depend on the strength of the maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0, 5, 25, 50, 75, 95, 100)
"""In per cent."""


@dataclass(frozen=True)
class Spread:
    """How a figure is spread over ``count`` pairs: its mean, and the values at ``QUANTILES``."""

    count: int
    mean: float
    quantiles: tuple[float, ...]

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> Spread | None:
        """Of some values [n]; None if there are none."""
        if not len(values):
            return None
        at = np.quantile(values.astype(np.float64), [quantile / 100 for quantile in QUANTILES])
        return cls(len(values), float(values.mean(dtype=np.float64)), tuple(map(float, at)))


def overlap(first: NDArray[np.float32], second: NDArray[np.float32], area: float) -> NDArray[np.float64]:
    """The IoU of the most salient cells of each pair of maps [n, h, w], at the same ``area`` in both, 0..1, [n].

    ``area`` is the fraction of the cells that counts. Cells that tie for the last places share them: a cell then counts
    in part, and the IoU is the sum of the smaller shares over that of the larger ones.
    """
    one, other = _shares(first, area), _shares(second, area)
    return np.asarray(np.minimum(one, other).sum(axis=1) / np.maximum(one, other).sum(axis=1))


def _shares(maps: NDArray[np.float32], area: float) -> NDArray[np.float64]:
    """How far each cell belongs to the most salient ones, 0..1, [n, cells]; they add up to the same in every map."""
    cells = maps.reshape(len(maps), -1)
    count = max(1, round(area * cells.shape[1]))
    last = np.partition(cells, -count, axis=1)[:, -count, None]
    above, tied = cells > last, cells == last
    left = count - above.sum(axis=1, keepdims=True)
    return np.asarray(above + tied * (left / tied.sum(axis=1, keepdims=True)), np.float64)
