"""The time of a video in parts: K slots of equal length, whatever its rate."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def moments(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """The middle of each frame's time as a fraction of the video, in (0, 1), from when each begins in seconds."""
    span = float(times[-1] - times[0])
    if len(times) == 1 or span <= 0:
        return (np.arange(len(times)) + 0.5) / len(times)
    period = span / (len(times) - 1)
    return np.asarray((times - times[0] + period / 2) / (span + period), np.float64)


def slots_at(fractions: NDArray[np.floating[Any]], slots: int) -> NDArray[np.int64]:
    """The slot that each moment lies in, int64 0..slots − 1."""
    return np.asarray(np.minimum(fractions * slots, slots - 1), np.int64)


def slot_frames(times: NDArray[np.float64], slots: int) -> NDArray[np.int64]:
    """The frame in the middle of each slot, int64 [slots], ascending; of the middle slot, the video's middle frame."""
    at = moments(times)
    frames = np.abs(at[None] - (np.arange(slots)[:, None] + 0.5) / slots).argmin(axis=1)
    middle, here = (len(times) - 1) // 2, (slots - 1) // 2
    frames[: here + 1] = np.minimum(frames[: here + 1], middle)
    frames[here:] = np.maximum(frames[here:], middle)
    return np.asarray(frames, np.int64)


def slot_means(maps: NDArray[np.float32], times: NDArray[np.float64], slots: int) -> NDArray[np.float32]:
    """The mean over each slot of frames' maps [n, G, G], [slots, G, G]; a slot without a frame has its nearest one."""
    of_frame = slots_at(moments(times), slots)
    nearest = slot_frames(times, slots)
    means = [maps[of_frame == slot].mean(0) if (of_frame == slot).any() else maps[nearest[slot]]
             for slot in range(slots)]  # fmt: skip
    return np.stack(means)
