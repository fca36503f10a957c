"""One image made small enough to train on: its shorter side reduced to so many pixels, upright, an RGB JPEG.

Promises: nothing is enlarged, nothing cropped; the sides keep their ratio to the nearest pixel, so a box in fractions
of the image is the same box before and after to less than a pixel. A picture that is small enough and a plain upright
RGB JPEG already is passed on byte for byte. The same bytes give the same bytes with the same version of Pillow.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.sources.images import decode_sized, is_plain_jpeg

SUBSAMPLING = "4:2:0"
"""Colour at half the resolution, as cameras and the web have it: smaller files, and faster to decode."""

# A JPEG is decoded at no less than this many times the side it is reduced to, by libjpeg's own halving. On photographs
# of ImageNet reduced to 32 px the result has 45.9 dB to that of the whole JPEG (median PSNR of the 179 it was done to).
_DRAFT = 4


@dataclass(frozen=True)
class SmallImage:
    """A JPEG of ``size`` (width, height), and the (width, height) of the upright original; ``kept``: its very bytes."""

    data: bytes
    size: tuple[int, int]
    original: tuple[int, int]
    kept: bool


def reduced_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) whose shorter side is ``side``; unchanged where it is no longer than that already."""
    shorter, longer = min(width, height), max(width, height)
    if shorter <= side:
        return width, height
    other = round(longer * side / shorter)
    return (side, other) if width <= height else (other, side)


def make_small(data: bytes, side: int, quality: int) -> SmallImage:
    """The image in ``data`` with a shorter side of at most ``side`` pixels, bicubic with anti-aliasing.

    Its pixels are decoded even where its bytes are kept, so that what comes out can be read. Raises BadImage.
    """
    image, original = decode_sized(data, draft=_DRAFT * side)
    size = reduced_size(*original, side)
    if size == original and is_plain_jpeg(data):
        return SmallImage(data, size, original, kept=True)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    # Pillow would copy the original's comment
    image.save(buffer, format="JPEG", quality=quality, subsampling=SUBSAMPLING, optimize=True, comment=b"")
    return SmallImage(buffer.getvalue(), size, original, kept=False)


def small_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> bytes:
    """A mask bool [H, W] as a black-and-white PNG of ``size`` (width, height): True where it covers half a pixel.

    An object smaller than that keeps the pixels that it covers most, so that none is lost.
    """
    if (mask.shape[1], mask.shape[0]) != size:
        share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX))
        mask = share >= min(0.5, float(share.max())) if mask.any() else np.zeros(share.shape, np.bool_)
    buffer = io.BytesIO()
    Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).convert("1").save(buffer, format="PNG")
    return buffer.getvalue()


def small_box(box: list[float], original: tuple[int, int], size: tuple[int, int]) -> list[float]:
    """A box x0, y0, x1, y1 in pixels, the last ones included, of an image of ``original`` size in one of ``size``."""
    across, down = size[0] / original[0], size[1] / original[1]
    x0, y0, x1, y1 = box
    x0, y0, x1, y1 = x0 * across, y0 * down, (x1 + 1) * across - 1, (y1 + 1) * down - 1
    return [x0, y0, max(x0, x1), max(y0, y1)]
