"""Pictures of any size completed: what is hidden of them is filled in by a model of another size, without a seam.

The picture is brought to the model's size by averaging visible pixels alone, so that nothing of what is hidden is ever
seen; :func:`mae.recovery.recover.recover` fills in; the result is enlarged again, and its colours are bent towards
those just outside of the hidden region: the difference there is spread smoothly over the region (a membrane, as in
Pérez et al., "Poisson image editing", 2003, here by pull and push over a pyramid). Pixels outside the region are kept
to the bit.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mae.devices import copy_to
from mae.models.vit import MaskedAutoencoder
from mae.recovery.recover import recover


@torch.no_grad()
def complete(
    model: MaskedAutoencoder, images: Tensor, hidden: Tensor, *, blend: bool = True, precision: str = "fp32"
) -> Tensor:
    """Images uint8 [B, 3, H, W] of any size whose pixels under ``hidden`` bool [B, H, W] are the model's.

    All other pixels are untouched. The whole image is squashed to the model's size. Without ``blend`` the edge of the
    region shows. The result is on the model's device; inputs may lie on the host. ValueError for shapes that do not
    fit.
    """
    if images.ndim != 4 or hidden.shape != (len(images), *images.shape[2:]):
        raise ValueError(f"hidden pixels of shape {list(hidden.shape)} do not fit images of {list(images.shape)}")
    device = model.pos_embed.device
    images = copy_to(images, device)
    small, covered = shrink_visible(images, hidden, model.image_size)
    filled = recover(model, small, covered, precision)
    return enlarge_into(images, hidden, filled, copy_to(covered, device), blend=blend)


def enlarge_into(images: Tensor, hidden: Tensor, small: Tensor, covered: Tensor, *, blend: bool = True) -> Tensor:
    """Images uint8 [B, 3, H, W] whose pixels under ``hidden`` bool [B, H, W] are those of smaller pictures.

    ``small`` uint8 [B, 3, h, w] is what a model filled in where ``covered`` bool [B, h, w] (:func:`shrink_visible`).
    All work is done in the box around what is hidden, which waits for the device if ``hidden`` does not lie on the
    host.
    """
    size, reach = (images.shape[2], images.shape[3]), _reach(hidden, (small.shape[2], small.shape[3]))
    box = box_around(hidden, reach)
    if box is None:
        return images
    known = covered[:, None].float()
    # Only what the model filled in is enlarged: its edge must not be mixed with what lies around it.
    filled = spread_inwards(*_outwards(small.float() * known, known))
    large = _enlarge_part(filled, size, box)
    there, given = copy_to(hidden[(..., *box)], images.device)[:, None], images[(..., *box)]
    if blend:
        edge = _edge(there.float(), reach)
        corner = (box[0].start, box[1].start)
        large = large + spread_inwards((given.float() - large) * edge, edge, corner, size)
    completed = images.clone()
    completed[(..., *box)] = torch.where(there, large.round().clamp(0, 255).to(torch.uint8), given)
    return completed


Box = tuple[slice, slice]
"""Rows and columns of a picture."""


def box_around(hidden: Tensor, margin: tuple[int, int]) -> Box | None:
    """The smallest box that holds all that is hidden, bool [B, H, W], and a margin of rows and columns.

    None where nothing is hidden.
    """
    sides = []
    flat = hidden.any(0)
    for axis in (1, 0):
        there = torch.nonzero(flat.any(axis))[:, 0]
        if not len(there):
            return None
        start, end = max(int(there[0]) - margin[1 - axis], 0), int(there[-1]) + margin[1 - axis] + 1
        sides.append(slice(start, min(end, flat.shape[1 - axis])))
    return sides[0], sides[1]


def shrink_visible(images: Tensor, hidden: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The images at ``size`` (height, width), each pixel the mean of visible ones, and what is hidden there.

    uint8 [B, 3, h, w] and bool [B, h, w]: a pixel is hidden if any that it covers is, and no visible one knows anything
    of a hidden one. What is hidden may lie on the host with the images on a GPU, and then does so at ``size`` as well.
    """
    pixels, box = images.float(), box_around(hidden, (0, 0))
    if box is None:
        mean = F.adaptive_avg_pool2d(pixels, size)
        return mean.round().to(torch.uint8), hidden.new_zeros(len(hidden), *size)
    share = F.adaptive_avg_pool2d((~hidden)[:, None].float(), size)
    covered = share[:, 0] < 1 - 1e-4
    pixels[(..., *box)] *= copy_to(~hidden[(..., *box)], images.device)[:, None]
    mean = F.adaptive_avg_pool2d(pixels, size) / copy_to(share, images.device).clamp_min(1e-6)
    return mean.round().clamp(0, 255).to(torch.uint8), covered


def spread_inwards(
    values: Tensor, weights: Tensor, corner: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None
) -> Tensor:
    """Values float [B, C, H, W], known where ``weights`` [B, 1, H, W] is 1 and 0 elsewhere, carried on smoothly.

    Pull and push (Gortler et al. 1996, "The lumigraph"): means of what is known at every halving, and from the coarsest
    on what is not known takes the value above it. Zero where nothing is known at all. Where values and weights are a
    part of pictures of that ``size``, from the row and column ``corner`` on, outside of which nothing is known, the
    result is that part of the result for the whole.
    """
    size = size or (values.shape[2], values.shape[3])
    levels = [(values, weights, corner)]
    while max(size) > 1:
        values, weights, corner = _halved(*levels[-1])
        size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        levels.append(_grown(values, weights, corner, size))
    filled, above = levels[-1][0] * (levels[-1][1] > 0), levels[-1][2]
    for known, weight, corner in reversed(levels[:-1]):
        top, left = (place - 2 * start for place, start in zip(corner, above, strict=True))
        doubled = _enlarge(filled, (2 * filled.shape[2], 2 * filled.shape[3]))
        doubled = doubled[:, :, top : top + known.shape[2], left : left + known.shape[3]]
        filled, above = weight * known + (1 - weight) * doubled, corner
    return filled


def seam(images: Tensor, hidden: Tensor) -> Tensor:
    """How visible the edge of the hidden region is, float32 [B]: the mean absolute step between neighbouring pixels,
    one hidden and one not, in 0..255; NaN where there is no edge.
    """
    steps = torch.zeros(len(images), device=images.device)
    edges = torch.zeros(len(images), device=images.device)
    box = box_around(hidden, (1, 1))
    if box is not None:
        images, hidden = images[(..., *box)], hidden[(..., *box)]
    pixels = images.float()
    for axis in (2, 3):
        crossing = (hidden.diff(dim=axis - 1) != 0).float()
        steps += (pixels.diff(dim=axis).abs().mean(1) * crossing).sum((1, 2))
        edges += crossing.sum((1, 2))
    return steps / edges


def _reach(hidden: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """How many rows and columns of a picture a pixel of the model's is wide, rounded up."""
    height, width = (max(1, math.ceil(large / small)) for large, small in zip(hidden.shape[1:], size, strict=True))
    return height, width


def _edge(hidden: Tensor, reach: tuple[int, int]) -> Tensor:
    """The visible pixels just outside the region [B, 1, H, W], as far as ``reach``: 1, others 0."""
    reached = hidden
    for kernel, padding in (((2 * reach[0] + 1, 1), (reach[0], 0)), ((1, 2 * reach[1] + 1), (0, reach[1]))):
        reached = F.max_pool2d(reached, kernel, stride=1, padding=padding)  # a side at a time: far cheaper
    return reached - hidden


def _outwards(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Values and weights as of ``spread_inwards``, known two pixels further out: the mean of what is known beside them.

    Just outside of its region the model's picture goes on as it was at the edge; a coarser mean, which is what pull and
    push has there, would let the bending bring in all the detail that the picture already has, once more.
    """
    for _ in range(2):
        share = F.avg_pool2d(weights, 3, stride=1, padding=1)
        mean = F.avg_pool2d(values, 3, stride=1, padding=1) / share.clamp_min(1e-6)
        values, weights = weights * values + (1 - weights) * mean, (share > 0).float()
    return values * weights, weights


def _halved(values: Tensor, weights: Tensor, corner: tuple[int, int]) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """The next level of the pyramid, of parts that start at ``corner`` of their pictures."""
    sides = [(start % 2, (start + count) % 2) for start, count in zip(corner, values.shape[2:], strict=True)]
    padding = (*sides[1], *sides[0])
    weights, values = F.pad(weights, padding), F.pad(values, padding)
    share = F.avg_pool2d(weights, 2)
    mean = F.avg_pool2d(values * weights, 2) / share.clamp_min(1e-6)
    # One known pixel of four is knowledge enough.
    return mean, (4 * share).clamp(max=1), (corner[0] // 2, corner[1] // 2)


def _grown(
    values: Tensor, weights: Tensor, corner: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """One more pixel on each side that is not the picture's, for the level below to interpolate with."""
    starts = [min(start, 1) for start in corner]
    ends = [min(whole - start - count, 1) for whole, start, count in zip(size, corner, values.shape[2:], strict=True)]
    padding = (starts[1], ends[1], starts[0], ends[0])
    grown = (corner[0] - starts[0], corner[1] - starts[1])
    return F.pad(values, padding), F.pad(weights, padding), grown


def _enlarge(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def _enlarge_part(images: Tensor, size: tuple[int, int], box: Box) -> Tensor:
    """The ``box`` of the images at ``size``, as :func:`_enlarge` gives it, without the rest."""
    for axis, part in zip((2, 3), box, strict=True):
        ratio = images.shape[axis] / size[axis - 2]
        places = ((torch.arange(part.start, part.stop, device=images.device) + 0.5) * ratio - 0.5).clamp(min=0)
        before = places.long()
        after = (before + 1).clamp(max=images.shape[axis] - 1)
        share = (places - before).view((-1, 1) if axis == 2 else (-1,))
        images = torch.lerp(images.index_select(axis, before), images.index_select(axis, after), share)
    return images
