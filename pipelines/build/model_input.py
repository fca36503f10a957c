"""A pair's image on its way to the model: read, decoded and resized by threads that run ahead of it.

JPEGs much larger than the model's square are decoded at a half, a quarter or an eighth of their size, never below
three times what the model sees. Where that size is odd, the picture lies a small part of a model's pixel off.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.build.pairs import Pair
from pipelines.build.stages import DECODE, READ, Stages
from pipelines.sources.images import BadImage, decode_sized
from pipelines.sources.source import Rejected
from pipelines.views.geometry import central_box
from saliency.maps import FULL, Box
from saliency.methods.windows import squash_windows
from saliency.table.table import Row
from saliency.towers.tower import Tower

SMALLEST_SIDE = 4
"""Pixels; a smaller image has nothing to look at."""

# A JPEG is decoded at no less than this many times the side that the model sees. On 198 photographs of ImageNet (64 px
# CLIP) maps then correlate 0.9993 with those of the whole JPEG; at twice the side 0.993, at once 0.966.
_DRAFT = 3


@dataclass(frozen=True)
class Prepared:
    """A pair ready for the model: its row (but for the score) and the pixels of its windows, uint8 [T, 3, S, S]."""

    row: Row
    pixels: NDArray[np.uint8]


def prepare_pair(pair: Pair, tower: Tower, fit: str, tiles: int, stages: Stages) -> Prepared | Rejected:
    """Read, decode and resize one pair's image, or say why that can't be done."""
    if pair.duplicate:
        return Rejected(pair.key, pair.caption, "duplicate: an earlier pair has this key and caption")
    if pair.caption is None or not pair.caption.strip():
        return Rejected(pair.key, pair.caption, pair.fault or "no caption")
    try:
        with stages.time(READ):
            data = pair.read()
        with stages.time(DECODE):
            return _prepare(pair, pair.caption, data, tower, fit, tiles)
    except (BadImage, OSError) as error:
        return Rejected(pair.key, pair.caption, " ".join(str(error).split()))


def _prepare(pair: Pair, caption: str, data: bytes, tower: Tower, fit: str, tiles: int) -> Prepared:
    pixels, (width, height), box = see(data, tower, fit, tiles)
    row = Row(
        key=pair.key,
        url=pair.url,
        caption=caption,
        image_sha256=hashlib.sha256(data).hexdigest(),
        width=width,
        height=height,
        crop_box=box,
        clip_score=math.nan,
    )
    return Prepared(row, pixels)


def see(data: bytes, tower: Tower, fit: str, tiles: int) -> tuple[NDArray[np.uint8], tuple[int, int], Box]:
    """What the model sees of an encoded image.

    Returns the pixels of its windows uint8 [T, 3, S, S], the upright image's (width, height) and the box the windows
    cover: all of it, or with ``fit`` crop the central square. Raises BadImage.
    """
    image, size = decode_sized(data, draft=_DRAFT * tower.size * tiles)
    return see_image(image, size, tower, fit, tiles)


def see_image(
    image: Image.Image, size: tuple[int, int], tower: Tower, fit: str, tiles: int
) -> tuple[NDArray[np.uint8], tuple[int, int], Box]:
    """:func:`see` of an upright RGB image that is decoded, and is ``size`` (width, height) large when decoded whole."""
    width, height = size
    if min(width, height) < SMALLEST_SIDE:
        raise BadImage(f"image of {width}×{height} pixels is too small")
    box = FULL if fit == "squash" else central_box(width, height, 1.0)
    return np.ascontiguousarray(squash_windows(tower, image, box, tiles)), (width, height), box
