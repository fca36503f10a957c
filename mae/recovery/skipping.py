"""Which places of a stream are encoded again: those whose content has changed since they were last encoded.

A camera that stands still shows the same background with new noise in every frame. The noise is what makes pixels
hard to compare, so cells of about four pixels are compared, in which most of it averages out: white noise of deviation
σ between two frames changes a cell of 4×4 pixels by σ·√2/4. The change of a place is the root mean square over its
cells, which a small object moves more than a mean does, and the largest over the frames of its tubelet. It is taken
from the content that was last *encoded*, not from the frame before: what drifts slowly adds up until it is noticed.

Shapes: t frames of H×W pixels a tubelet, S = H/p · W/p places, cells of c×c pixels.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_CELL = 4


class Skipper(Protocol):
    """Chooses what a stream's encoder encodes of every tubelet; all of the first one."""

    def fresh(self, frames: Tensor, visible: Tensor) -> Tensor:
        """The places to encode, bool [S] on the frames' device, of a tubelet uint8 [t, 3, H, W] that shows ``visible``,
        bool [S]. It is called for every tubelet, in order; a place that was hidden is encoded when it is visible again.
        """

    def clear(self) -> None:
        """Another stream begins."""


class PixelChange:
    """Places whose pixels changed by ``below`` or more since they were last encoded; 0 encodes all of them.

    ``below`` is in units of the full range of a colour, 0 ≤ below < 1. ValueError for another one.
    """

    def __init__(self, below: float, patch_size: int) -> None:
        if not 0 <= below < 1:
            raise ValueError(f"--skip-below is {below:g}; it must be at least 0 and below 1")
        self._below, self._patch = below, patch_size
        self._cell = _CELL if patch_size % _CELL == 0 else patch_size
        self._last: Tensor | None = None

    def fresh(self, frames: Tensor, visible: Tensor) -> Tensor:
        """As :meth:`Skipper.fresh`."""
        cells = self._cells(frames)
        if self._last is None:
            self._last = torch.full_like(cells, torch.nan)
        change = (cells - self._last).square_().mean(2).sqrt_().amax(0)  # NaN where nothing was encoded
        fresh = visible & ~(change < self._below)
        self._last = torch.where(fresh[:, None], cells, self._last)
        self._last[:, ~visible] = torch.nan
        return fresh

    def clear(self) -> None:
        """As :meth:`Skipper.clear`."""
        self._last = None

    def _cells(self, frames: Tensor) -> Tensor:
        """Means of cells in 0..1, float32 [t, S, cells of a place · 3]."""
        means = F.avg_pool2d(frames.float(), self._cell) / 255  # [t, 3, H/c, W/c]
        side = self._patch // self._cell
        count, channels, rows, columns = means.shape
        cells = means.view(count, channels, rows // side, side, columns // side, side).permute(0, 2, 4, 1, 3, 5)
        return cells.reshape(count, (rows // side) * (columns // side), -1)


class Tubelet(NamedTuple):
    """What a stream remembers of a tubelet to encode it anew."""

    tokens: Tensor
    """Embeddings [K, D] of its visible places, without positions; where nothing changed, those of before."""
    places: Tensor
    """int64 [K]."""
    new: Tensor | None = None
    """Which of them changed, int64 [F]; None for all."""

    def fresh(self) -> tuple[Tensor, Tensor]:
        """The embeddings [F, D] and the places [F] of what changed."""
        return (self.tokens, self.places) if self.new is None else (self.tokens[self.new], self.places[self.new])


def strip_of(frames: Tensor, places: Tensor, patch_size: int) -> Tensor:
    """The patches ``places``, int64 [F], of frames [t, 3, H, W] side by side as a clip [1, 3, t, p, F·p]."""
    count, channels, height, width = frames.shape
    p, columns = patch_size, width // patch_size
    cells = frames.view(count, channels, height // p, p, columns, p).permute(2, 4, 1, 0, 3, 5)
    chosen = cells[places // columns, places % columns]  # [F, 3, t, p, p]
    return chosen.permute(1, 2, 3, 0, 4).reshape(1, channels, count, p, -1)
