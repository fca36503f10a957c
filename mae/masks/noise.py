"""Masks that look at nothing, yet are not uniform: rectangles, a lattice, and noise of which a band of frequencies is
left.

Grid-wise masking is that of He et al. 2021 (arXiv 2111.06377, figure 6): one patch of every 2×2 stays. Coloured noise
is ColorMAE's (Hinojosa et al. 2024, arXiv 2407.13036): white noise through Gaussian filters, and its highest values are
hidden. The paper cuts windows from large noise images made once; here a window's own surroundings are drawn with it,
which is such a cut from an image without an end.

Shapes: B images, a grid of H×W patches, N = H·W. Priorities are [B, N], the highest are hidden.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

COLORS = ("red", "green", "blue", "purple")

_SIDE = 14
_SIGMAS = {"red": (2.0,), "green": (0.75, 1.5), "blue": (0.75,), "purple": (0.75, 1.5)}
"""Deviations of the Gaussians in patches of a 14×14 grid; on another one they grow with the root of its patches, so
that a pattern covers the same share of an image. They are chosen here, for the paper's are not in its text."""
_LEAST_SCALE = 0.5
"""On grids below 7×7 the Gaussians stay as narrow as there: a narrower one would leave nothing to take away."""
_REACH = 3
"""Deviations after which a Gaussian is cut off."""


RECTANGLES = 32
_RECTANGLE_AREA = (0.08, 0.4)
_RECTANGLE_ASPECT = 0.3
"""Block-wise masking after BEiT (arXiv 2106.08254): rectangles per image, bounds of their share of the grid's area
(BEiT's least is 16 of 196 patches), and the least ratio of height to width; the greatest is its inverse."""


def grid_priorities(grid: tuple[int, ...], hidden: int, uniform: Tensor, place: Tensor) -> Tensor:
    """Priorities [B, N] that keep a regular lattice of patches: with 75 % hidden, one of every 2×2.

    The patches have the order of an ordered dither (Bayer 1973): the first quarter is every second patch of every
    second row, the second quarter lies diagonally between, and within a quarter it is so again where fewer are kept
    than that. Where the count falls between, or the grid is odd, noise ``uniform`` [B, N] decides. The lattice begins
    where the noise ``place`` [B, 2] says. Noises are in [0, 1), ``hidden`` of the patches will be hidden.
    """
    height, width = grid
    kept = height * width - hidden
    levels = 1
    while 4**levels * kept < height * width and 2 ** (levels + 1) <= max(grid):
        levels += 1
    start = (place * 2**levels).long()
    rows = torch.arange(height, device=uniform.device) + start[:, :1]  # [B, H]
    columns = torch.arange(width, device=uniform.device) + start[:, 1:]  # [B, W]
    rank = torch.zeros_like(uniform).view(-1, height, width)
    for level in range(levels):
        row, column = (rows[:, :, None] >> level) & 1, (columns[:, None, :] >> level) & 1
        rank = 4 * rank + 2 * (row ^ column) + row  # the order within 2×2: corner, opposite corner, the other two
    return rank.flatten(1) + uniform


def color_priorities(color: str, grid: tuple[int, ...], noise: Callable[[int, int], Tensor]) -> Tensor:
    """Priorities [B, N] that are noise of one of COLORS, from ``noise``: k, n → [k, B, n] numbers in [0, 1).

    With W white noise and G(σ) a Gaussian blur: red is G(σ) W, few large patches of hidden and visible; blue is
    W − G(σ) W, an even scatter; green is G(σ₁) W − G(σ₂) W, σ₁ < σ₂, patches of one size; purple is W less the green
    noise, this at a gain of 1 where it is strongest, so that no more is left of that frequency.
    """
    height, width = grid
    scale = max(math.sqrt(height * width) / _SIDE, _LEAST_SCALE)
    sigmas = tuple(scale * sigma for sigma in _SIGMAS[color])
    margin = math.ceil(_REACH * max(sigmas))
    rows, columns = height + 2 * margin, width + 2 * margin
    white = noise(1, rows * columns)[0].view(-1, rows, columns)
    # Double precision: it is nobody's to round to half, and a GPU's last bits do not decide who is hidden.
    white = white.to(torch.float32 if white.device.type == "mps" else torch.float64) - 0.5
    blurred = [_blur(white, sigma, margin) for sigma in sigmas]
    inner = white[:, margin : margin + height, margin : margin + width]
    if color == "red":
        colored = blurred[0]
    elif color == "blue":
        colored = inner - blurred[0]
    else:
        green = blurred[0] - blurred[1]
        colored = green if color == "green" else inner - green / _peak_gain(sigmas[0], sigmas[1])
    return colored.flatten(1)


def _blur(noise: Tensor, sigma: float, margin: int) -> Tensor:
    """Noise [B, H + 2m, W + 2m] under a Gaussian, [B, H, W]; no value of it lies outside of the noise."""
    down, across = (_filter(side, sigma, margin, noise.dtype, noise.device) for side in noise.shape[1:])
    return down @ noise @ across.T


@functools.cache
def _filter(side: int, sigma: float, margin: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A Gaussian as a matrix [side - 2m, side], whose rows sum to 1."""
    places = torch.arange(side, dtype=torch.float64)
    distance = places - (places[: side - 2 * margin, None] + margin)
    weights = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= _REACH * sigma)
    return (weights / weights.sum(1, keepdim=True)).to(device, dtype)


@functools.cache
def _peak_gain(narrow: float, wide: float) -> float:
    """The highest gain of G(narrow) − G(wide), along an axis; a Gaussian's is the sum of its cosines."""
    frequencies = torch.linspace(0, math.pi, 512, dtype=torch.float64)
    reach = math.ceil(_REACH * wide)
    waves = torch.cos(frequencies[:, None] * torch.arange(-reach, reach + 1, dtype=torch.float64))
    side = 2 * reach + 1
    gains = [waves @ _filter(side, sigma, reach, torch.float64, torch.device("cpu"))[0] for sigma in (narrow, wide)]
    return float((gains[0] - gains[1]).max())


def block_priorities(grid: tuple[int, ...], uniform: Tensor, draws: Tensor) -> Tensor:
    """Priorities [B, N] that hide one random rectangle after the other; the last one in part, by noise ``uniform``.

    Area, aspect, row and column of R rectangles follow from noise ``draws`` [4, B, R].
    """
    height, width = grid
    low, high = _RECTANGLE_AREA
    area = (low + (high - low) * draws[0]) * height * width  # [B, R], in patches
    aspect = torch.exp((2 * draws[1] - 1) * math.log(_RECTANGLE_ASPECT))
    rows = _spans((area * aspect).sqrt(), height, draws[2])  # [B, R, H]
    columns = _spans((area / aspect).sqrt(), width, draws[3])  # [B, R, W]
    covered = (rows[:, :, :, None] & columns[:, :, None, :]).flatten(2)  # [B, R, N]
    turn = torch.arange(RECTANGLES, dtype=torch.int8, device=uniform.device)[None, :, None]
    first = torch.where(covered, turn, RECTANGLES).amin(1)  # [B, N]
    return uniform + (RECTANGLES - first)


def _spans(length: Tensor, side: int, place: Tensor) -> Tensor:
    """Bool [B, R, side]: a span of about ``length`` [B, R] cells, at least one, placed by noise ``place`` in [0, 1)."""
    cells = length.round().clamp(1, side)
    start = (place * (side - cells + 1)).floor()
    axis = torch.arange(side, device=length.device)
    return (axis >= start[..., None]) & (axis < (start + cells)[..., None])
