"""How well a mask fits the true one, as DAVIS measures it (Perazzi et al. 2016): region J and boundary F.

J is intersection over union. F is the harmonic mean of the precision and recall of boundary pixels: one is found if
there is a boundary pixel of the other mask within 0.008 of the image's diagonal, rounded up to whole pixels. A boundary
pixel is one that differs from its right, lower or lower right neighbour.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

TOLERANCE = 0.008
"""Of F, as a share of the image's diagonal."""

Mask = NDArray[np.bool_]


def region_similarity(found: Mask, truth: Mask) -> float:
    """J of two masks bool [H, W], 0..1; 1 if both are empty."""
    either = int((found | truth).sum())
    return float((found & truth).sum() / either) if either else 1.0


def boundary_accuracy(found: Mask, truth: Mask, *, tolerance: float = TOLERANCE) -> float:
    """F of two masks bool [H, W], 0..1; 1 if neither has a boundary, 0 if one of them has none."""
    reach = math.ceil(tolerance * math.hypot(*truth.shape))
    edges, true_edges = boundary(found), boundary(truth)
    count, true_count = int(edges.sum()), int(true_edges.sum())
    if count == 0 or true_count == 0:
        return float(count == true_count)
    precision = (edges & dilated(true_edges, reach)).sum() / count
    recall = (true_edges & dilated(edges, reach)).sum() / true_count
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def boundary(mask: Mask) -> Mask:
    """The boundary pixels of a mask bool [H, W]; the image's own borders are none."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, lower, across = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return np.asarray((mask != right) | (mask != lower) | (mask != across))


def dilated(mask: Mask, radius: int) -> Mask:
    """Every pixel within ``radius`` of one of the mask's, bool [H, W]."""
    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) <= radius)
