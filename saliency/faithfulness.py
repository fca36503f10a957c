"""Whether a map is true to its model: what the model's score does when the pixels that the map ranks are changed.

No mask of an object is needed. A map [h, w] is laid on the square that the model sees, S × S pixels, by bilinear
interpolation, and ranks its N = S² pixels. Pixels of equal value are ranked by a random map of the same grid, laid in
the same way: single random pixels would be a disturbance of another kind than connected regions.

* Deletion (RISE, arXiv 1806.07421): the share t of the pixels that are ranked first is replaced by a baseline.
  D(t) = s(image with the first t·N pixels replaced), t = 0, 1/n, … 1. Its area is low for a true map.
* Insertion (RISE): the same share of the image is put into the baseline. I(t) = s(baseline with the first t·N pixels of
  the image). Its area is high for a true map.
* SaCo (arXiv 2404.01415): whether pixel groups of more salience have more effect, see :func:`saco`.

A baseline is the blurred image or its mean colour. The inverted map needs no measurement: its deletion curve is the
map's insertion curve read backwards, and the reverse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from saliency.quality import lay_on_image

Score = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""Images float32 [k, 3, S, S] in 0..255 → what a model says of each, float64 [k]."""

STEPS = 10
"""Intervals of a curve, which has one point more."""
GROUPS = 10
"""Pixel groups of SaCo, as in its paper."""
BLUR = 0.2
"""Deviation of the blurred baseline's Gaussian, in sides of the square. RISE's 5 of 224 pixels leaves large objects as
recognisable as they were."""

BLURRED, MEAN = "blurred", "mean"
BASELINES = (BLURRED, MEAN)


@dataclass(frozen=True)
class Faithfulness:
    """One map under one score.

    ``insertion`` and ``deletion``: by baseline, the score at each share of pixels, float64 [n + 1]. ``salience`` and
    ``effects``, float64 [K]: the arguments of :func:`saco`.
    """

    insertion: dict[str, NDArray[np.float64]]
    deletion: dict[str, NDArray[np.float64]]
    salience: NDArray[np.float64]
    effects: NDArray[np.float64]

    @property
    def saco(self) -> float:
        """The salience-guided faithfulness coefficient, −1..1."""
        return saco(self.salience, self.effects)

    def inverted(self) -> Faithfulness:
        """What the map that ranks the pixels the other way round has."""
        insertion = {name: curve[::-1] for name, curve in self.deletion.items()}
        deletion = {name: curve[::-1] for name, curve in self.insertion.items()}
        return Faithfulness(insertion, deletion, -self.salience[::-1], self.effects[::-1])


class Perturbed:
    """One image, float32 [3, S, S] in 0..255, whose pixels are replaced in the order of one map after another.

    ``seed`` draws the map [h, w] that ranks pixels of equal value.
    """

    def __init__(self, image: NDArray[np.float32], score: Score, *, seed: int | tuple[int, ...] = 0) -> None:
        self._image, self._score, self._seed = image, score, seed
        self._baselines = {BLURRED: blurred(image), MEAN: mean_colour(image)}
        self._whole, *ends = score(np.stack([image, *self._baselines.values()])).tolist()
        self._ends = dict(zip(self._baselines, ends, strict=True))

    def random_map(self, grid: tuple[int, int]) -> NDArray[np.float32]:
        """The map that ranks pixels of equal value, float32 [h, w] in 0..1; as a map, it is the random control."""
        return np.random.default_rng(self._seed).random(grid, np.float32)

    def measure(self, values: NDArray[np.float32], *, steps: int = STEPS, groups: int = GROUPS) -> Faithfulness:
        """A raw map, float32 [h, w] ≥ 0. The model sees 4 · (steps − 1) + groups images.

        The uniform map has the order of the random one and a SaCo of 0, since it says nothing of any group. A map
        without a positive value counts as uniform.
        """
        laid = lay_on_image(values, (self._image.shape[1], self._image.shape[2]))
        ranks = pixel_ranks(laid, lay_on_image(self.random_map((values.shape[0], values.shape[1])), laid.shape))
        insertion, deletion = {}, {}
        for name, baseline in self._baselines.items():
            inside = self._curve(ranks, self._image, baseline, steps)
            insertion[name] = np.asarray([self._ends[name], *inside, self._whole])
            inside = self._curve(ranks, baseline, self._image, steps)
            deletion[name] = np.asarray([self._whole, *inside, self._ends[name]])
        group = ranks * groups // ranks.size
        replaced = [np.where(group == one, self._baselines[MEAN], self._image) for one in range(groups)]
        effects = self._whole - self._score(np.stack(replaced))
        salience = np.asarray([laid[group == one].sum(dtype=np.float64) for one in range(groups)])
        return Faithfulness(insertion, deletion, salience, effects)

    def _curve(
        self, ranks: NDArray[np.int64], first: NDArray[np.float32], rest: NDArray[np.float32], steps: int
    ) -> list[float]:
        """The scores with 1/n, … (n − 1)/n of the pixels, by rank, from one image and the others from another."""
        images = [np.where(ranks * steps < step * ranks.size, first, rest) for step in range(1, steps)]
        return self._score(np.stack(images)).tolist() if images else []


def pixel_ranks(laid: NDArray[np.float32], ties: NDArray[np.float32]) -> NDArray[np.int64]:
    """The place of each pixel [S, S], 0 for the largest value; equal ones by ``ties`` [S, S], larger first."""
    order = np.lexsort((-ties.ravel(), -laid.ravel()))
    ranks = np.empty(order.size, np.int64)
    ranks[order] = np.arange(order.size)
    return ranks.reshape(laid.shape)


def blurred(image: NDArray[np.float32], blur: float = BLUR) -> NDArray[np.float32]:
    """An image [3, S, S] after a Gaussian with a deviation of ``blur`` · S, with its edges mirrored."""
    deviation = blur * image.shape[-1]
    return np.asarray(gaussian_filter(image, (0, deviation, deviation), mode="reflect"), np.float32)


def mean_colour(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The image [3, S, S] that has the mean colour of this one everywhere."""
    return np.broadcast_to(image.mean(axis=(1, 2), keepdims=True, dtype=np.float64), image.shape).astype(np.float32)


def curve_area(curve: NDArray[np.float64]) -> float:
    """The area under equally spaced points over 0..1, by trapezoids: between the curve's least and largest value."""
    return float(((curve[1:] + curve[:-1]) / 2).mean())


def saco(salience: NDArray[np.float64], effects: NDArray[np.float64]) -> float:
    """The salience-guided faithfulness coefficient of K pixel groups (arXiv 2404.01415, algorithm 1), −1..1.

    ``salience`` [K]: the sum s_i of the map over group i, from the most salient group to the least. ``effects`` [K]:
    how far the score falls when the group's pixels are replaced by the image's mean colour. With e_i the effects,

        SaCo = Σ_{i<j} w_ij / Σ_{i<j} |w_ij|,   w_ij = s_i − s_j if e_i ≥ e_j, else s_j − s_i

    1: every group of more salience has no less effect. −1: every one has less. Groups of equal salience do not count.
    0 where all are equal, which the paper leaves open. A model that does not react to anything gives 1 for any map.
    """
    apart = salience[:, None] - salience[None, :]
    weights = np.where(effects[:, None] >= effects[None, :], apart, -apart)[np.triu_indices(len(salience), 1)]
    total = float(np.abs(weights).sum())
    return float(weights.sum()) / total if total > 0 else 0.0
