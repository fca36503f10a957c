"""How good maps are, against the true masks of the objects their captions name.

The pointing game (arXiv 1608.00507, without its 15-pixel tolerance): does the map's peak lie on the object? Beside
every figure stand two controls: a centre prior, which needs no model, and another image's caption, which shows
whether the map follows the text at all.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


def pointing_hits(maps: NDArray[np.float32], masks: list[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """For each map [n, H, W], the share of its peak (all pixels of the largest value) on its mask, in 0..1, [n].

    A map is interpolated bilinearly to its mask's size. A flat map has its peak everywhere, and scores by chance.
    """
    hits = np.empty(len(maps))
    for i, (values, mask) in enumerate(zip(maps, masks, strict=True)):
        tensor = torch.tensor(values, dtype=torch.float32)[None, None]
        large = torch.nn.functional.interpolate(tensor, size=mask.shape, mode="bilinear")[0, 0].numpy()
        hits[i] = mask[large >= large.max()].mean()
    return hits


def centre_prior(grid: tuple[int, int], sigma: float = 0.25) -> NDArray[np.float32]:
    """A Gaussian around the image's centre, its width ``sigma`` of the side, [H, W] with peak ~1."""
    rows, columns = ((np.arange(cells) + 0.5) / cells - 0.5 for cells in grid)
    squared = rows[:, None] ** 2 + columns[None, :] ** 2
    return np.exp(-squared / (2 * sigma**2)).astype(np.float32)


def other_captions(captions: list[str]) -> list[str]:
    """For each caption the next one in the list (cyclic) that differs from it; the shuffled-caption control."""
    count = len(captions)
    others = []
    for i, caption in enumerate(captions):
        following = (captions[(i + step) % count] for step in range(1, count))
        others.append(next((other for other in following if other != caption), caption))
    return others
