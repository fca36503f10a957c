"""How good maps are: against the true masks of the objects their captions name, and, without masks, in themselves.

With a mask: the pointing game (arXiv 1608.00507, without its 15-pixel tolerance), the energy-based pointing game
(arXiv 1910.01279), the IoU at one threshold for the whole set (arXiv 2007.04178) and the area under the ROC curve of
the pixels. A map is interpolated bilinearly to its mask's pixels, where its crop box says that it lies, and is zero
elsewhere. A map without any positive value says nothing, and counts as the uniform map everywhere in this file.
Without a mask: how many maps are degenerate, entropy, area, likeness to the centre and to another caption's map.

No figure means anything alone: :func:`centre_prior`, :func:`other_captions` and :func:`uniform_scores` are the
controls, :func:`bootstrap_intervals` the uncertainty. docs/guide/map-quality.md says how to read them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saliency.maps import FULL, Box

THRESHOLDS: NDArray[np.float64] = np.linspace(0, 1, 101)
"""Shares of a map's peak at which the IoU is computed; at 0 the whole image is the object."""
FLAT_BELOW = 0.01
"""A map is flat if its values span less than this share of its peak."""
ONE_CELL_ABOVE = 0.9
"""A map is one cell if a single cell holds more than this share of its sum."""
RESAMPLES = 2000
"""Of the bootstrap."""

_BLOCK = 4_000_000  # random numbers drawn at a time


@dataclass(frozen=True)
class PixelScores:
    """One map against one mask: ``pointing``, ``energy`` and ``auc`` in 0..1, ``iou`` [101] at each threshold."""

    pointing: float
    energy: float
    auc: float
    iou: NDArray[np.float64]


def score_pixels(pixels: NDArray[np.float32], mask: NDArray[np.bool_]) -> PixelScores:
    """All figures of a map ≥ 0 laid on its image, float32 [H, W], against its mask, bool [H, W].

    Needs about 40 bytes a pixel while it runs.
    """
    return PixelScores(
        pointing(pixels, mask), energy_inside(pixels, mask), pixel_auc(pixels, mask), iou_curve(pixels, mask)
    )


def uniform_scores(mask: NDArray[np.bool_]) -> PixelScores:
    """What the uniform map scores: the mask's share of the image, and 0.5 for the area under the curve."""
    share = float(mask.mean())
    return PixelScores(share, share, 0.5, np.full(len(THRESHOLDS), share))


def lay_on_image(values: NDArray[np.floating], shape: tuple[int, int], box: Box = FULL) -> NDArray[np.float32]:
    """A map [h, w] on the pixels of its image, float32 [H, W]: bilinear inside ``box``, zero outside.

    Equal to ``torch.nn.functional.interpolate(mode="bilinear")`` where the box is the whole image, but for one thing:
    cells of equal value give pixels of exactly equal value, so that a plateau keeps all of its peak.
    """
    top, bottom, down, rows = _neighbours(values.shape[0], shape[0], box[1], box[3])
    left, right, across, columns = _neighbours(values.shape[1], shape[1], box[0], box[2])
    grid = values.astype(np.float32)
    tall = grid[top] + down[:, None] * (grid[bottom] - grid[top])
    whole = tall[:, left] + across * (tall[:, right] - tall[:, left])
    whole[~rows] = 0
    whole[:, ~columns] = 0
    return np.asarray(whole, np.float32)


def _neighbours(
    cells: int, pixels: int, low: float, high: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """For each pixel of a side the two cells around it, the second one's weight, and whether it lies in the box."""
    if high <= low:
        raise ValueError(f"a map that covers {low}..{high} of its image covers nothing")
    centres = (np.arange(pixels) + 0.5) / pixels
    places = np.clip((centres - low) / (high - low) * cells - 0.5, 0, cells - 1)
    first = np.floor(places).astype(np.int64)
    second = np.minimum(first + 1, cells - 1)
    return first, second, (places - first).astype(np.float32), (centres >= low) & (centres < high)


def pointing(pixels: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """The share of the map's peak, all pixels of the largest value, that lies on the mask; 0..1."""
    return float(mask[pixels >= pixels.max()].mean())


def pointing_hits(
    maps: NDArray[np.float32], masks: Iterable[NDArray[np.bool_]], boxes: NDArray[np.float32] | None = None
) -> NDArray[np.float64]:
    """:func:`pointing` of maps [n, h, w], each on its mask, float64 [n]; ``boxes`` [n, 4]: the parts they cover.

    A flat map has its peak everywhere, and scores by chance.
    """
    covered = np.tile(np.asarray(FULL, np.float32), (len(maps), 1)) if boxes is None else boxes
    hits = [
        pointing(lay_on_image(values, (mask.shape[0], mask.shape[1]), as_box(box)), mask)
        for values, mask, box in zip(maps, masks, covered, strict=True)
    ]
    return np.asarray(hits, np.float64)


def energy_inside(pixels: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """The share of the map's sum that lies on the mask, 0..1; of an empty map, as of a flat one, the mask's share."""
    total = float(pixels.sum(dtype=np.float64))
    return float(pixels[mask].sum(dtype=np.float64)) / total if total > 0 else float(mask.mean())


def pixel_auc(pixels: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """The chance that a pixel on the mask has a higher value than one off it, ties counting half; 0..1.

    This is the area under the ROC curve of the pixels. It does not change when the map is rescaled by any increasing
    function. A mask of all pixels, or of none, leaves nothing to rank: 0.5.
    """
    inside, outside = np.sort(pixels[mask]), np.sort(pixels[~mask])
    if not len(inside) or not len(outside):
        return 0.5
    below, up_to = (np.searchsorted(outside, inside, side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(outside)))


def iou_curve(pixels: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Intersection over union of the mask and the pixels ≥ t · peak, for each t of ``THRESHOLDS``; float64 [101]."""
    peak = float(pixels.max())
    steps = len(THRESHOLDS) - 1
    if peak > 0:  # the 1e-4 keeps values that are a threshold, but for rounding, from falling below it
        bins = np.clip(pixels * np.float32(steps / peak) + np.float32(1e-4), 0, steps).astype(np.uint8)
    else:
        bins = np.full(pixels.shape, steps, np.uint8)
    marked = _at_least(bins.ravel(), steps)
    shared = _at_least(bins[mask], steps)
    return np.asarray(shared / np.maximum(marked + mask.sum() - shared, 1), np.float64)


def _at_least(bins: NDArray[np.uint8], steps: int) -> NDArray[np.int64]:
    """How many of the bins are at least 0, 1, … ``steps``."""
    return np.asarray(np.bincount(bins, minlength=steps + 1)[::-1].cumsum()[::-1])


def best_threshold(curves: NDArray[np.float64]) -> int:
    """Which of ``THRESHOLDS`` gives a set, curves [n, 101], its highest mean IoU; the lowest of equal ones."""
    return int(curves.mean(axis=0).argmax())


def centre_prior(grid: tuple[int, int], sigma: float = 0.25, box: Box = FULL) -> NDArray[np.float32]:
    """A Gaussian around the image's centre, [H, W] with peak ~1, its width ``sigma`` of the image's sides.

    ``box`` is the part of the image that the grid covers.
    """
    rows, columns = (
        np.exp(-(((np.arange(cells) + 0.5) / cells * (high - low) + low - 0.5) ** 2) / (2 * sigma**2))
        for cells, low, high in ((grid[0], box[1], box[3]), (grid[1], box[0], box[2]))
    )
    return np.outer(rows, columns).astype(np.float32)


def other_captions(captions: list[str]) -> list[str]:
    """For each caption the next one in the list (cyclic) that differs from it; the shuffled-caption control.

    Captions that are all the same stay as they are.
    """
    others = list(captions)
    following = captions[0] if captions else ""
    for position in range(2 * len(captions) - 1, -1, -1):
        i = position % len(captions)
        after = captions[(i + 1) % len(captions)]
        following = after if after != captions[i] else following
        others[i] = following
    return others


def degenerate_kinds(maps: NDArray[np.float32]) -> dict[str, NDArray[np.bool_]]:
    """Which of the maps [n, h, w] say nothing, bool [n] for each kind; no map is of two kinds.

    ``empty``: no positive value. ``flat``: values span less than ``FLAT_BELOW`` of the peak. ``one cell``: one cell
    holds more than ``ONE_CELL_ABOVE`` of the sum.
    """
    cells = maps.reshape(len(maps), -1).astype(np.float64)
    peaks, lows, sums = cells.max(axis=1), cells.min(axis=1), cells.sum(axis=1)
    empty = peaks <= 0
    flat = ~empty & (peaks - lows < FLAT_BELOW * peaks)
    return {"empty": empty, "flat": flat, "one cell": ~empty & ~flat & (peaks > ONE_CELL_ABOVE * sums)}


def entropy(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """−Σ p log p / log(h·w) of each map [n, h, w] over its sum, [n]: 0 for a single cell, 1 for a uniform map."""
    cells = _uniform_if_empty(maps)
    shares = cells / cells.sum(axis=1, keepdims=True)
    if cells.shape[1] == 1:
        return np.ones(len(cells))
    logs = np.log(np.where(shares > 0, shares, 1))
    return np.asarray(-(shares * logs).sum(axis=1) / np.log(cells.shape[1]))


def area(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """The share of each map's cells that reach half of its peak, [n]: 1/(h·w) for a single cell, 1 for uniform."""
    cells = _uniform_if_empty(maps)
    return np.asarray((cells >= cells.max(axis=1, keepdims=True) / 2).mean(axis=1))


def centre_correlation(maps: NDArray[np.float32], boxes: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
    """Pearson's correlation of each map [n, h, w] with the centre prior, −1..1, [n]; 0 for a flat map.

    ``boxes`` [n, 4]: the part of the image that each map covers.
    """
    grid = (maps.shape[1], maps.shape[2])
    if boxes is None:
        return correlation(maps, np.broadcast_to(centre_prior(grid), maps.shape))
    priors = [centre_prior(grid, box=as_box(box)) for box in boxes]
    return correlation(maps, np.stack(priors) if priors else maps)


def caption_sensitivity(maps: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 − Pearson's correlation of each image's maps [n, h, w] under two captions, 0..2, [n].

    0: the caption changes nothing but the strength; 1: the maps have nothing in common. Two flat maps: 0.
    """
    both_flat = (np.ptp(maps, axis=(1, 2)) == 0) & (np.ptp(others, axis=(1, 2)) == 0)
    return np.where(both_flat, 0.0, 1 - correlation(maps, others))


def correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Pearson's correlation of each pair of maps [n, h, w], −1..1, [n]; 0 where either is flat."""
    x, y = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (first, second))
    flat = (np.ptp(x, axis=1) == 0) | (np.ptp(y, axis=1) == 0)
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    norms = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    flat |= norms == 0
    return np.where(flat, 0.0, np.clip((x * y).sum(axis=1) / np.where(flat, 1, norms), -1, 1))


def bootstrap_intervals(
    values: NDArray[np.float64],
    *,
    images: NDArray[np.int64] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Percentile bootstrap intervals of the means of ``values`` [n, k], float64 [2, k]: lower and upper ends.

    Images are drawn with replacement, not pairs: ``images`` int [n] says which pairs share one (default: none do).
    All columns see the same draws. With fewer than two images there is no spread to see: NaN. To compare a map with a
    control on the same images give the column of their differences, which is the paired bootstrap.
    """
    _, image = np.unique(np.arange(len(values)) if images is None else images, return_inverse=True)
    count = int(image.max()) + 1 if len(image) else 0
    if count < 2:
        return np.full((2, values.shape[1]), np.nan)
    sums = np.zeros((count, values.shape[1] + 1))
    np.add.at(sums, image, np.column_stack([values, np.ones(len(values))]))
    rng = np.random.default_rng(seed)
    means, block = [], max(1, _BLOCK // count)
    for start in range(0, resamples, block):
        draws = rng.integers(count, size=(min(block, resamples - start), count))
        drawn = np.stack([np.bincount(row, minlength=count) for row in draws]) @ sums
        means.append(drawn[:, :-1] / drawn[:, -1:])
    tail = (1 - level) / 2
    return np.asarray(np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0))


def as_box(box: NDArray[np.float32]) -> Box:
    """A stored box, float [4], as a tuple."""
    x0, y0, x1, y1 = (float(value) for value in box)
    return x0, y0, x1, y1


def _uniform_if_empty(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    cells = maps.reshape(len(maps), -1).astype(np.float64)
    cells[cells.max(axis=1) <= 0] = 1
    return cells
