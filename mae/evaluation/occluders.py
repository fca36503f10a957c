"""Occluders: which pixels of an image are hidden at a given share, and what covers them.

Pixels are replaced in the image, never left out of what a model sees. Everything random comes from outside, so that all
models see the same occlusion, and a larger share hides all that a smaller one hides (but for rectangles, which are
moved so that they stay within the image).

Shapes: B images of H×W pixels; a region is bool [B, H, W], True = hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (124, 116, 104)
"""The mean colour of photos (ImageNet's), which every encoder's normalisation sends near to 0."""
OUTLINE = 64
"""Sides of the grid on which the outline of a pasted object is found."""

_DIRECTIONS = 120
_LEAST_REACH = 0.75 / OUTLINE


class Occluder(Protocol):
    """What hides a share of each of B images; of clips see :mod:`mae.evaluation.clip_occluders`."""

    def region(self, share: float, size: tuple[int, int]) -> Tensor:
        """The hidden pixels, bool [B, H, W]."""

    def content(self, share: float, size: tuple[int, int]) -> Tensor | None:
        """What covers them, uint8 [B, 3, H, W]; None for what images are filled with."""


def cover(images: Tensor, region: Tensor, content: Tensor) -> Tensor:
    """Images uint8 [B, 3, H, W] with ``content`` (of that shape, or one that becomes it) where the region is.

    Clips are [B, 3, T, H, W], their region [B, T, H, W].
    """
    return torch.where(region[:, None], content, images)


@dataclass(frozen=True)
class Patches:
    """Cells of a grid in the order of ``priorities`` [B, h·w], the highest first: round(share · h · w) of them."""

    priorities: Tensor
    grid: tuple[int, int]

    def region(self, share: float, size: tuple[int, int]) -> Tensor:
        """A pixel belongs to the cell that its centre lies in."""
        cells = torch.zeros_like(self.priorities, dtype=torch.bool)
        order = torch.argsort(self.priorities, dim=1, descending=True, stable=True)
        cells.scatter_(1, order[:, : round(share * cells.shape[1])], True)
        rows, columns = (
            ((torch.arange(side) + 0.5) * count / side).long() for side, count in zip(size, self.grid, strict=True)
        )
        return cells.view(-1, *self.grid)[:, rows][:, :, columns]

    def content(self, share: float, size: tuple[int, int]) -> Tensor | None:
        """None."""
        return None


@dataclass(frozen=True)
class Rectangles:
    """A solid rectangle in each image; ``others`` uint8 [B, 3, H, W] is what is seen in its place, if not the filling.

    ``places`` [B, 2] in 0..1: from the uppermost to the lowest and from the leftmost to the rightmost place where it
    fits. ``aspects`` [B]: width over height as shares of the image's; at large shares nearer to 1, so that it fits.
    """

    places: Tensor
    aspects: Tensor
    others: Tensor | None = None

    def region(self, share: float, size: tuple[int, int]) -> Tensor:
        """Its area is the share to half a column of its own height."""
        height, width = size
        if share <= 0:
            return torch.zeros(len(self.aspects), height, width, dtype=torch.bool)
        aspects = self.aspects.double().clamp(share, 1 / share)
        tall = ((share / aspects).sqrt() * height).round().clamp(1, height)
        wide = (share * height * width / tall).round().clamp(1, width)
        tops = (self.places[:, 0] * (height - tall)).round()
        lefts = (self.places[:, 1] * (width - wide)).round()
        rows, columns = torch.arange(height)[None], torch.arange(width)[None]
        inside_rows = (rows >= tops[:, None]) & (rows < (tops + tall)[:, None])
        inside_columns = (columns >= lefts[:, None]) & (columns < (lefts + wide)[:, None])
        return inside_rows[:, :, None] & inside_columns[:, None, :]

    def content(self, share: float, size: tuple[int, int]) -> Tensor | None:
        """The other images, place for place."""
        return self.others


@dataclass(frozen=True)
class Objects:
    """An object of another image, scaled around a point until what is seen of it has the wished area.

    ``others`` uint8 [B, 3, H, W] are the images it comes from, ``anchors`` [B, 2] a point well inside of it there and
    ``reach`` [B, directions] how far it reaches from that point (:func:`outline`); ``places`` [B, 2] is where that
    point comes to lie. Points are row and column in fractions of an image. Holes and bays that can't be seen from the
    point are pasted with it.
    """

    others: Tensor
    anchors: Tensor
    reach: Tensor
    places: Tensor

    def region(self, share: float, size: tuple[int, int]) -> Tensor:
        """Exactly round(share · H · W) pixels."""
        needed = self._needed_scale(size)
        order = torch.argsort(needed, dim=1, stable=True)
        hidden = torch.zeros_like(needed, dtype=torch.bool)
        hidden.scatter_(1, order[:, : round(share * needed.shape[1])], True)
        return hidden.view(-1, *size)

    def content(self, share: float, size: tuple[int, int]) -> Tensor | None:
        """The other images at the scale at which the object covers the share."""
        needed, count = self._needed_scale(size), round(share * size[0] * size[1])
        if count == 0:
            return None
        scale = needed.sort(dim=1).values[:, count - 1].clamp(min=1e-3)
        points = self.anchors[:, None] + self._offsets(size) / scale[:, None, None]  # [B, H·W, 2]
        grid = (2 * points.flip(2) - 1).view(len(points), *size, 2)
        seen = F.grid_sample(self.others.float(), grid.float(), padding_mode="border", align_corners=False)
        return seen.round().clamp(0, 255).to(torch.uint8)

    def _offsets(self, size: tuple[int, int]) -> Tensor:
        """From the object's place to every pixel, [B, H·W, 2]."""
        return _centres(size)[None] - self.places[:, None].double()

    def _needed_scale(self, size: tuple[int, int]) -> Tensor:
        """How large the object must become to cover each pixel, [B, H·W]."""
        offsets, reach = self._offsets(size), self.reach.double()
        turn = _turn(offsets) - 0.5
        low, part = turn.floor().long(), turn - turn.floor()
        before, after = (reach.gather(1, (low + more) % _DIRECTIONS) for more in (0, 1))
        needed: Tensor = offsets.norm(dim=2) / torch.lerp(before, after, part)
        return needed


def outline(mask: Tensor) -> tuple[Tensor, Tensor]:
    """A point well inside of a mask bool [s, s], [2] (row, column), and how far the mask reaches from it [directions].

    In fractions of the image. A mask of nothing is a disc in the middle.
    """
    if not mask.any():
        return torch.tensor([0.5, 0.5]), torch.full((_DIRECTIONS,), 0.2)
    inner, eroded = mask, mask
    while eroded.any():
        inner = eroded
        eroded = F.max_pool2d(F.pad((~eroded).float(), (1, 1, 1, 1), value=1.0)[None, None], 3, 1)[0, 0] == 0
    centres = _centres((mask.shape[0], mask.shape[1]))
    candidates = centres[inner.flatten()]
    anchor = candidates[(candidates - candidates.mean(0)).norm(dim=1).argmin()]
    offsets = centres[mask.flatten()] - anchor
    reach = torch.full((_DIRECTIONS,), _LEAST_REACH, dtype=torch.float64)
    distances, directions = offsets.norm(dim=1) + 0.5 / mask.shape[0], _turn(offsets).long()
    for turn in (-1, 0, 1):  # a pixel is wider than a direction
        reach.scatter_reduce_(0, (directions + turn) % _DIRECTIONS, distances, "amax")
    return anchor.float(), reach.float()


def _centres(size: tuple[int, int]) -> Tensor:
    """The pixels' centres, row by row, [H·W, 2] in fractions of the image."""
    sides = [(torch.arange(side, dtype=torch.float64) + 0.5) / side for side in size]
    return torch.cartesian_prod(*sides)


def _turn(offsets: Tensor) -> Tensor:
    """The direction of offsets [..., 2] in 0 to the number of directions; direction i is i to i + 1."""
    turn: Tensor = (torch.atan2(offsets[..., 0], offsets[..., 1]) / (2 * torch.pi) + 0.5) * _DIRECTIONS
    return turn
