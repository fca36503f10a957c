"""The part of a picture that a view needs, cut out by a worker, and a batch of such parts resized at once on a device.

It promises the very bytes of Pillow's bicubic ``resize(box=…)``: the cubic with a = −0.5, widened by the scale where it
shrinks, its weights cut off at the picture's borders (not at the box's) and made to sum to 1, one axis after the other,
rounded to bytes after each. The weights of an image are a matrix for each axis, so a pass over a batch is one batched
product; they are whole numbers of 2⁻²² in two parts, whose products single precision adds up without an error. (On a
device without double precision a weight may be off by a few of these units, and so a byte by one.) Nothing here waits
for the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mae.devices import copy_to
from pipelines.views.geometry import View, pixel_box, view_image

_SUPPORT = 2.0  # of the cubic, in pixels of the coarser side
_LARGEST = 8
"""A region of more than so many times the pixels of its view is resized by the worker: sending it would cost more."""
_AT_ONCE = 32
"""Images whose float pixels and weights lie on the device together."""
_UNITS = 22
_FINE = 12
"""A weight is a whole number of 2^−22, as Pillow's; it is split above its last 12 bits into numbers of 11 and 12."""
_HEIGHT_MAY_BE_FIRST = int(PIL.__version__.split(".")[0]) >= 13
"""Pillow 13 resizes the height first where it loses over twice as many pixels as the width; earlier ones never do."""


@dataclass(frozen=True)
class Region:
    """A part of a picture: ``pixels`` uint8 [h, w, 3]; ``box`` x0, y0, x1, y1, what is seen of it, in its own pixels.

    Around the box it holds all that the filter reads. ``height_first`` is the order of the axes.
    """

    pixels: NDArray[np.uint8]
    box: tuple[float, float, float, float]
    height_first: bool = False


def cut_region(image: Image.Image, view: View, size: tuple[int, int]) -> Region:
    """What of an RGB image the view at ``size`` (height, width) depends on; mirroring is left to :func:`resize`."""
    ends = np.asarray(pixel_box(image, view), np.float32)  # Pillow has a box, and its sides, in single precision
    box = np.concatenate([ends[:2], ends[:2] + (ends[2:] - ends[:2]).astype(np.float64)])
    edges = []
    for axis in (0, 1):
        low, high, whole = box[axis], box[axis + 2], image.size[axis]
        reach = _SUPPORT * max(1.0, (high - low) / size[1 - axis])
        edges.append((max(math.floor(low - reach), 0), min(math.ceil(high + reach), whole)))
    (x0, x1), (y0, y1) = edges
    if (x1 - x0) * (y1 - y0) > _LARGEST * size[0] * size[1]:
        seen = view_image(image, View(view.box), size)
        return Region(np.ascontiguousarray(seen.transpose(1, 2, 0)), (0.0, 0.0, float(size[1]), float(size[0])))
    pixels = np.asarray(image.crop((x0, y0, x1, y1)))
    left, top, right, bottom = (float(end) for end in box - (x0, y0, x0, y0))
    lost = (image.height - size[0], image.width - size[1])
    return Region(pixels, (left, top, right, bottom), _HEIGHT_MAY_BE_FIRST and lost[0] > max(0, 2 * lost[1]))


@dataclass(frozen=True)
class PackedRegions:
    """Regions of a batch with their pixels in one buffer, so that they are copied at once."""

    data: Tensor
    """uint8 [bytes]: the pixels of every region, one after the other."""
    places: NDArray[np.int64]
    """[B, 3]: where each begins in ``data``, its height and width."""
    boxes: NDArray[np.float64]
    """[B, 4]: x0, y0, x1, y1 in pixels of the region."""
    height_first: NDArray[np.bool_]
    """[B]."""

    def pin_memory(self) -> PackedRegions:
        """The same in memory that a GPU can fetch while it computes."""
        return replace(self, data=self.data.pin_memory())


def pack_regions(regions: list[Region]) -> PackedRegions:
    """Regions as one buffer."""
    starts = np.cumsum([0, *(region.pixels.size for region in regions)])[:-1]
    places = [(start, *region.pixels.shape[:2]) for start, region in zip(starts, regions, strict=True)]
    data = np.concatenate([region.pixels.reshape(-1) for region in regions]) if regions else np.zeros(0, np.uint8)
    return PackedRegions(
        torch.from_numpy(data),
        np.asarray(places, np.int64).reshape(-1, 3),
        np.asarray([region.box for region in regions], np.float64).reshape(-1, 4),
        np.asarray([region.height_first for region in regions], np.bool_),
    )


def resize(regions: PackedRegions, flips: Tensor, size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """The boxes of regions at ``size`` (height, width), mirrored where ``flips`` [B] says so: uint8 [B, 3, h, w].

    ``regions`` and ``flips`` are on the CPU, the images on ``device``.
    """
    place = torch.device(device)
    wide = torch.float32 if place.type == "mps" else torch.float64
    known = (regions.data, torch.from_numpy(regions.places), torch.from_numpy(regions.boxes).to(wide), flips)
    data, places, boxes, mirrored = (copy_to(tensor, place) for tensor in known)
    images = torch.empty(len(flips), 3, *size, dtype=torch.uint8, device=place)
    for height_first in (False, True):
        chosen = np.flatnonzero(regions.height_first == height_first)
        for start in range(0, len(chosen), _AT_ONCE):
            some = chosen[start : start + _AT_ONCE]
            height, width = (int(side) for side in regions.places[some, 1:].max(0))
            part = copy_to(torch.from_numpy(some), place)
            lines = _unpack(data, places[part], height, width)
            seen = _resize(lines, places[part], boxes[part], mirrored[part], size, height_first)
            images.index_copy_(0, part, seen)
    return images


def _unpack(data: Tensor, places: Tensor, height: int, width: int) -> Tensor:
    """The regions side by side, float32 [B, height, 3, width]; beyond a region's own sides lies anything."""
    rows = torch.arange(height, device=data.device)[None, :, None] * (3 * places[:, 2])[:, None, None]
    columns = torch.arange(3 * width, device=data.device)[None, None, :]
    index = places[:, 0][:, None, None] + rows + columns  # [B, H, W·3]
    return data[index.clamp_(max=len(data) - 1)].view(-1, height, width, 3).transpose(2, 3).float()


def _resize(
    lines: Tensor, places: Tensor, boxes: Tensor, flips: Tensor, size: tuple[int, int], height_first: bool
) -> Tensor:
    """The boxes of regions ``lines`` [B, H, 3, W] at one size, uint8 [B, 3, h, w]."""
    batch = len(lines)
    rows = resize_weights(boxes[:, 1], boxes[:, 3], places[:, 1], lines.shape[1], size[0])  # [B, h, H]
    columns = resize_weights(boxes[:, 0], boxes[:, 2], places[:, 2], lines.shape[3], size[1])  # [B, w, W]
    columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    rows, columns = _split(rows), _split(columns)  # [B, 2·h, H], [B, 2·w, W]

    def resize_height(lines: Tensor) -> Tensor:
        return _to_bytes(rows @ lines.flatten(2), 1).reshape(batch, size[0], 3, -1)

    def resize_width(lines: Tensor) -> Tensor:
        return _to_bytes(lines.flatten(1, 2) @ columns.transpose(1, 2), 2).reshape(batch, -1, 3, size[1])

    seen = resize_width(resize_height(lines)) if height_first else resize_height(resize_width(lines))
    return seen.transpose(1, 2).to(torch.uint8)


def resize_weights(low: Tensor, high: Tensor, sides: Tensor, padded: int, count: int) -> Tensor:
    """How much of each input pixel is in each output pixel of one axis, [B, count, padded], in whole units of 2⁻²².

    low, high: [B], the ends of what is seen, in input pixels; sides: int64 [B], how many of the ``padded`` ones there
    really are. They are computed as precisely as low and high are given, and of their type.
    """
    scale = ((high - low) / count)[:, None]
    steps = torch.arange(count, device=low.device, dtype=low.dtype) + 0.5
    centers = low[:, None] + steps * scale  # [B, count]
    pixels = torch.arange(padded, device=low.device)
    distances = pixels.to(low.dtype) + 0.5 - centers[:, :, None]
    weights = _cubic(distances / scale.clamp(min=1)[:, :, None])
    weights = weights * (pixels < sides[:, None])[:, None, :]
    weights = weights / weights.sum(2, keepdim=True)
    units: Tensor = (weights.abs() * 2**_UNITS + 0.5).floor() * weights.sign()
    return units


def _split(weights: Tensor) -> Tensor:
    """Whole numbers [B, n, m] as float32 [B, 2·n, m]: how often 2^12 is in them, then the rest, from −2^11 to 2^11."""
    coarse = (weights / 2**_FINE).round()
    return torch.cat([coarse, weights - coarse * 2**_FINE], dim=1).float()


def _cubic(distances: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = −0.5 (IEEE ASSP 29, 1981)."""
    d = distances.abs()
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(d < 1, near, torch.where(d < _SUPPORT, far, 0))


def _to_bytes(products: Tensor, dim: int) -> Tensor:
    """Sums with weights that were split along ``dim``, rounded half up and clipped to 0..255, float32."""
    coarse, fine = (part.int() for part in products.chunk(2, dim))
    rounded: Tensor = ((coarse << _FINE) + fine + (1 << _UNITS - 1)) >> _UNITS
    return rounded.clamp(0, 255).float()
