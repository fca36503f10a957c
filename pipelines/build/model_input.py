"""Images on their way to the model: read, decoded and resized by threads that run ahead of it.

JPEGs much larger than the model's square are decoded at a half, a quarter or an eighth of their size, never below
three times what the model sees. Where that size is odd, the picture lies a small part of a model's pixel off.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.io import decode_jpeg

from pipelines.build.pairs import Pair
from pipelines.build.stages import DECODE, READ, Stages
from pipelines.sources.images import BadImage, decode_sized, image_size, is_plain_jpeg
from pipelines.sources.source import Rejected, Video
from pipelines.sources.video.slots import slot_frames
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
_JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Prepared:
    """An image ready for the model: a row (but for the score) for each of its captions, and the pixels of its windows,
    uint8 [T, 3, S, S], or of the frames of its slots."""

    rows: list[Row]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class _Seen:
    """An image that is ready for its captions, and what tells it from others."""

    row: int | None
    sha256: str
    size: tuple[int, int]
    box: Box
    prepared: Prepared


def prepare_pairs(
    pairs: Sequence[Pair], tower: Tower, fit: str, tiles: int, stages: Stages, slots: int = 1
) -> list[Prepared | Rejected]:
    """Read, decode and resize the images of some pairs, or say why that can't be done.

    With ``slots`` they are the frames in the middle of each slot of a video.

    Pairs that follow each other and show the same image, to the byte, share one that is decoded once.
    """
    made: list[Prepared | Rejected] = []
    last: _Seen | None = None
    for pair in pairs:
        try:
            caption = _caption(pair)
            seen = _see_pair(pair, last, tower, fit, tiles, stages, slots)
        except (BadImage, OSError) as error:
            made.append(Rejected(pair.key, pair.caption, " ".join(str(error).split())))
            continue
        if seen is not last:
            made.append(seen.prepared)
            last = seen
        seen.prepared.rows.append(Row(pair.key, pair.url, caption, seen.sha256, *seen.size, seen.box, math.nan))
    return made


def _caption(pair: Pair) -> str:
    """A pair's caption; BadImage, with the reason, where no map can be made for it."""
    if pair.duplicate:
        raise BadImage("duplicate: an earlier pair has this key and caption")
    if pair.caption is None or not pair.caption.strip():
        raise BadImage(pair.fault or "no caption")
    return pair.caption


def _see_pair(
    pair: Pair, before: _Seen | None, tower: Tower, fit: str, tiles: int, stages: Stages, slots: int
) -> _Seen:
    """A pair's image: the one ``before``, if it is the same. Raises BadImage or OSError."""
    if before is not None and before.row is not None and before.row == pair.row:
        return before
    with stages.time(READ):
        data = pair.read()
    with stages.time(DECODE):
        digest = hashlib.sha256(data).hexdigest()
        if before is not None and before.sha256 == digest:
            return before
        if slots > 1 and pair.video is not None:
            pixels, size, box = see_slots(pair.video(), tower, fit, slots)
        else:
            pixels, size, box = see(data, tower, fit, tiles)
        return _Seen(pair.row, digest, size, box, Prepared([], pixels))


def see(data: bytes, tower: Tower, fit: str, tiles: int) -> tuple[NDArray[np.uint8], tuple[int, int], Box]:
    """What the model sees of an encoded image.

    Returns the pixels of its windows uint8 [T, 3, S, S], the upright image's (width, height) and the box the windows
    cover: all of it, or with ``fit`` crop the central square. Raises BadImage.
    """
    if fit == "squash" and tiles == 1:
        pixels = _plain_jpeg(data, least=2 * tower.size, draft=_DRAFT * tower.size)
        if pixels is not None:
            return tower.shrink(pixels)[None], (pixels.shape[2], pixels.shape[1]), FULL
    image, size = decode_sized(data, draft=_DRAFT * tower.size * tiles)
    return see_image(image, size, tower, fit, tiles)


def see_slots(video: Video, tower: Tower, fit: str, slots: int) -> tuple[NDArray[np.uint8], tuple[int, int], Box]:
    """As :func:`see` of the frames in the middle of each slot of a video, uint8 [slots, 3, S, S]."""
    frames, places = np.unique(slot_frames(video.times, slots), return_inverse=True)
    pictures = video.read(frames.tolist(), draft=_DRAFT * tower.size)
    seen = [see_image(picture, video.size, tower, fit, 1) for picture in pictures]
    return np.concatenate([pixels for pixels, _, _ in seen])[places], video.size, seen[0][2]


def _plain_jpeg(data: bytes, *, least: int, draft: int) -> Tensor | None:
    """The pixels of an upright JPEG in RGB, uint8 [3, H, W]: Pillow's own, in two thirds of its time.

    None for any other image, for one with a side below ``least``, for one that Pillow decodes at a half or less of its
    size where ``draft`` pixels will do, and for what is damaged: Pillow says of what kind the damage is.
    """
    if not data.startswith(_JPEG):  # before the size is asked for, which decodes a PNG
        return None
    width, height = image_size(data)
    if not (least <= min(width, height) < 2 * draft and is_plain_jpeg(data)):
        return None
    try:
        pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    except (RuntimeError, AttributeError):  # the latter from a torchvision that was built without libjpeg
        return None
    return pixels


def see_image(
    image: Image.Image, size: tuple[int, int], tower: Tower, fit: str, tiles: int
) -> tuple[NDArray[np.uint8], tuple[int, int], Box]:
    """:func:`see` of an upright RGB image that is decoded, and is ``size`` (width, height) large when decoded whole."""
    width, height = size
    if min(width, height) < SMALLEST_SIDE:
        raise BadImage(f"image of {width}×{height} pixels is too small")
    box = FULL if fit == "squash" else central_box(width, height, 1.0)
    return np.ascontiguousarray(squash_windows(tower, image, box, tiles)), (width, height), box
