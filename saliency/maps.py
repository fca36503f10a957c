"""The map as an array, quantised for storage.

A raw map is float32 ≥ 0. Stored, it is uint8 with 255 at its peak, beside ``vmin`` and ``scale`` so that its strength
survives: raw = vmin + scale · stored / 255.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as fractions of the image."""

FULL: Box = (0.0, 0.0, 1.0, 1.0)


def quantise(maps: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Raw maps [B, H, W] → (stored uint8 [B, H, W], vmin float32 [B], scale float32 [B]). A flat map stores zeros.

    Maps of K time slots, [B, K, H, W], have one range for all of their slots.
    """
    inner = tuple(range(1, maps.ndim))
    low, high = maps.min(axis=inner), maps.max(axis=inner)
    scale = (high - low).astype(np.float32)
    step = np.where(scale > 0, scale, 1)
    stored = np.rint((maps - _by_map(low, maps)) / _by_map(step, maps) * 255).astype(np.uint8)
    return stored, low.astype(np.float32), scale


def dequantise(stored: NDArray[np.uint8], vmin: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inverse of :func:`quantise`, to within scale / 510."""
    raw = _by_map(vmin, stored) + _by_map(scale, stored) * stored.astype(np.float32) / 255
    return np.asarray(raw, np.float32)


def _by_map(values: NDArray[Any], maps: NDArray[Any]) -> NDArray[Any]:
    """A number for each map, in a shape that goes with the maps."""
    return values.reshape(-1, *[1] * (maps.ndim - 1))
