"""Encoded bytes to pixels: whatever an image's mode, depth or orientation, out comes 8-bit RGB, upright.

Promises: EXIF orientation is applied; transparency is laid over white; greys of 16 bits, or of 12 in 16, are scaled,
not clipped; the size is checked before a pixel is decoded; bytes that are not one whole image raise ``BadImage`` with a
short reason, never a half-grey picture; what a PNG says beside its pixels spoils none of them. Only photographic
formats are tried, so no bytes can reach an interpreter such as Ghostscript.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.sources.bare_png import bare_png
from saliency.shown import one_line

MAX_PIXELS = 178_956_970
"""An image that claims more pixels than this (half a gigabyte of RGB) is refused; Pillow's own hard limit."""
MAX_SIDE = 65_535
"""The longest side a JPEG can have."""
MAX_BYTES = 3 << 29
"""What decoding an image may hold at once; JPEG 2000 and WebP, whose decoders keep copies, reach it first."""
LARGEST_FILE = 1 << 30
"""Bytes of an encoded image; what is larger is not read."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA")
Image.init()
SUFFIXES = frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in (*FORMATS, "MPO"))
"""File name endings, in lower case, that make a file an image: those of FORMATS; an MPO is a JPEG with more behind it.
"""
PICTURE_LIKE = frozenset(
    (
        *(".heic", ".heif", ".hif", ".jxl", ".svg", ".psd", ".eps", ".exr", ".hdr", ".pcx", ".raw", ".dng"),
        *(".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
    )
)
"""Endings of pictures that are not decoded, and are told of where they are left out."""

_LOSSY_LIMIT = 64
"""Up to here a lossy mask is background. At a quarter of white, JPEGs of quality 75 and more give a drawn mask back to
0.9999 (IoU), and such of quality 10 to 0.995; at 0, as lossless masks are read, to 0.94."""
_TWELVE_BITS = 4095

_LONGEST_REASON = 300  # characters
_ORIENTATION = 0x0112
_TURNED = {5, 6, 7, 8}
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns at half of its hard limit; the limit here is the explicit one above.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


_STRIP = 1 << 20  # pixels that are converted at a time
_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}  # bytes that Pillow keeps; else 4
_DECODER = {"WEBP": 12, "JPEG2000": 16, "AVIF": 6, "GIF": 1}  # bytes a pixel that a decoder takes beside the image
_PROGRESSIVE = 6  # of a JPEG whose coefficients all have to be there before the first pixel is


class BadImage(ValueError):  # noqa: N818 (it is the sample that is bad)
    """The bytes are not one whole image of a sane size; the text is the reason, a few words."""

    def __init__(self, reason: object) -> None:
        super().__init__(one_line(reason, _LONGEST_REASON))


def decode_rgb(data: bytes, *, draft: int | None = None) -> Image.Image:
    """The image in ``data`` as upright RGB.

    ``draft`` says that it will be shown at that many pixels: a large JPEG is then decoded at 1/2, 1/4 or 1/8 of its
    size, which is many times cheaper, but never with a side below ``draft``. Raises ``BadImage``.
    """
    return decode_sized(data, draft=draft)[0]


def decode_sized(data: bytes, *, draft: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """:func:`decode_rgb`, and the (width, height) that the upright image has when decoded whole."""
    return _decode(_open(data), data, draft)


def _decode(image: Image.Image, data: bytes, draft: int | None) -> tuple[Image.Image, tuple[int, int]]:
    whole = image.size
    if draft is not None:
        image.draft(None, (draft, draft))
    drafted = image.size
    image = _load(image, data)
    orientation = _orientation(image)
    upright = _upright(_to_rgb(image), orientation)
    if drafted == whole:
        return upright, upright.size
    return upright, whole[::-1] if orientation in _TURNED else whole


def upright_rgb(image: Image.Image) -> Image.Image:
    """:func:`decode_rgb` of an image that Pillow has opened. Raises ``BadImage``."""
    return _decode(image, b"", None)[0]


class EncodedImage:
    """Encoded bytes whose size is known before they are decoded: :func:`image_size`, then :func:`decode_rgb`, at less
    cost, for the header is not read twice, nor a PNG decoded twice. Raises ``BadImage`` as they do, on either occasion.
    """

    size: tuple[int, int]
    """Width and height of the upright image."""

    def __init__(self, data: bytes) -> None:
        image = _open(data)
        if image.format == "PNG":  # whose EXIF may lie behind the pixels: looking for it decodes them
            image = _load(image, data)
        self._data = data
        self.size = _upright_size(image)
        self._opened = image if image.format in ("JPEG", "PNG") else None

    def decode(self, *, draft: int | None = None) -> Image.Image:
        """The upright image in RGB. To be called once."""
        return _decode(self._opened or _open(self._data), self._data, draft)[0]


def decode_mask(data: bytes) -> NDArray[np.bool_]:
    """The mask in ``data``, bool [H, W], upright: True where a pixel is neither zero nor transparent.

    In a lossy format (JPEG, lossy WebP, AVIF) values up to 64 are background, for what is near an edge is never quite
    zero there. A palette's indices count, not its colours. Raises ``BadImage``.
    """
    image = _load(_open(data), data)
    background = _LOSSY_LIMIT if _is_lossy(image, data) else 0
    has_alpha = image.mode in ("LA", "PA", "RGBA")
    image = _upright(image, _orientation(image))
    mask = np.empty((image.height, image.width), np.bool_)
    for strip, top in _strips(image):
        values = np.asarray(strip) > background
        if has_alpha:
            values = values[..., :-1] & values[..., -1:]
        mask[top : top + strip.height] = values if values.ndim == 2 else values.any(axis=-1)
    return mask


def decode_objects(data: bytes) -> NDArray[np.uint8]:
    """The objects in a mask, uint8 [H, W], upright: an image with a palette numbers them, 0 being the background.

    Any other mask shows one object, 1 where :func:`decode_mask` is True. Raises ``BadImage``.
    """
    image = _load(_open(data), data)
    if image.mode != "P":
        return decode_mask(data).astype(np.uint8)
    return np.asarray(_upright(image, _orientation(image)), np.uint8)


def decode_grey(data: bytes) -> NDArray[np.float32]:
    """The grey image in ``data``, float32 [H, W] in 0..1, upright: 1 is the white of its depth of 1, 8 or 16 bits.

    An image in colour is one only if its channels are all equal. Raises ``BadImage``.
    """
    image = _load(_open(data), data)
    image = _upright(image, _orientation(image))
    white = 255
    if image.mode.startswith("I;16") or image.mode == "I":
        white = 65_535
    elif image.mode == "F":
        raise BadImage("its map is an image of floats: write it as NPY")
    elif image.mode != "L":
        image = image if image.mode == "1" else image.convert("RGBA")
        if image.mode == "RGBA":
            red, *others, alpha = image.split()
            if alpha.getextrema()[0] != white:
                raise BadImage("its map is an image with transparency, and not a grey one")
            if any(other.tobytes() != red.tobytes() for other in others):
                raise BadImage("its map is an image in colour, and not a grey one")
            image = red
        white = white if image.mode == "L" else 1
    grey = np.asarray(image).astype(np.float32) / np.float32(white)
    if grey.min() < 0 or grey.max() > 1:
        raise BadImage("its map is a grey of more than 16 bits")
    return grey


def _is_lossy(image: Image.Image, data: bytes) -> bool:
    if image.format == "WEBP":
        return b"VP8L" not in data
    if image.format == "JPEG2000":  # its coding style says which of the two wavelets, and one gives back what it got
        style = data.find(b"\xff\x52")
        return style >= 0 and data[style + 13 : style + 14] == b"\0"
    return image.format in ("JPEG", "MPO", "AVIF") or image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")


def is_twelve_bit(data: bytes) -> bool:
    """Whether the image is a grey of more bits that needs no more than 12, and is read as such. Raises ``BadImage``."""
    image = _open(data)
    if not image.mode.startswith("I"):
        return False
    return bool(np.asarray(_load(image, data)).max() <= _TWELVE_BITS)


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height of the upright image, from its header alone. Raises ``BadImage``."""
    return _upright_size(_open(data))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    # A TIFF's size is already that of the upright image.
    return (height, width) if image.format != "TIFF" and _orientation(image) in _TURNED else (width, height)


def is_plain_jpeg(data: bytes) -> bool:
    """Whether the bytes are, by their header, an upright JPEG in RGB: what decoding gives is what they hold."""
    image = _open(data)
    return image.format == "JPEG" and image.mode == "RGB" and _orientation(image) == 1


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadImage("empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError:
        raise BadImage(f"too large: over {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Plugins raise every kind of exception on damaged headers.
        bare = bare_png(data)
        if bare is not None:
            return _open(bare)
        raise BadImage("not an image") from error
    _check_size(image)
    return image


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise BadImage(f"too large: {width}×{height} pixels")
    if width * height == 0:
        raise BadImage(f"no pixels: {width}×{height}")
    needed = width * height * _bytes_a_pixel(image)
    if needed > MAX_BYTES:
        raise BadImage(f"too large: {width}×{height} pixels take {needed:,} bytes to decode, over {MAX_BYTES:,}")


def _bytes_a_pixel(image: Image.Image) -> int:
    """What decoding holds at once for each pixel: the decoder's copies and the image, then the image and its RGB."""
    stored = _PIXEL.get(image.mode, 4)
    progressive = image.format == "JPEG" and "progression" in image.info
    decoder = _PROGRESSIVE if progressive else _DECODER.get(image.format or "", 0)
    return max(decoder + stored, stored + 4 * (image.mode != "RGB"))


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _load(image: Image.Image, data: bytes) -> Image.Image:
    """The image with its pixels decoded."""
    try:
        image.load()
    except MemoryError:
        raise BadImage("too large for the memory") from None
    except Exception as error:  # As above; a damaged body is a bad sample, never a crash.
        bare = bare_png(data)
        if bare is not None:
            return _load(_open(bare), bare)
        text = str(error).split("\n")[0]
        raise BadImage("truncated" if "truncated" in text else f"damaged: {text or type(error).__name__}") from error
    _check_size(image)  # an ICO's header may state another size than the image in it has
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation 1..8; EXIF that can't be read is ignored, as viewers do."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _TRANSPOSE.get(orientation)
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    try:
        if mode.startswith("I") or mode == "F":
            return _in_strips(image, _grey(image))
        if mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
            return _in_strips(image, _over_white)
        return image if mode == "RGB" else image.convert("RGB")
    except Exception as error:
        raise BadImage(f"mode {mode} can't be shown as RGB") from error


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The image converted to RGB some rows at a time, as ``convert`` takes several times the memory of its image."""
    rgb = Image.new("RGB", image.size)
    for strip, top in _strips(image):
        rgb.paste(convert(strip), (0, top))
    return rgb


def _strips(image: Image.Image) -> Iterator[tuple[Image.Image, int]]:
    """The image in strips of whole rows, each with the number of its first row."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height))), top


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _grey(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """How greys of more than 8 bits are brought to 8, strip by strip.

    16-bit ones are divided by 257, so white stays white, and those that need no more than 12 bits, as scanners and
    cameras give them, by 4095 / 255. Mode I is read as 16-bit while its values fit, else as 32-bit. Floats in 0..1 are
    fractions, others are taken as 0..255.
    """
    mode = image.mode
    if mode == "F":
        peak = max(_finite(np.asarray(strip)).max() for strip, _ in _strips(image))
        factor = 255 if peak <= 1 else 1
    else:
        peak = max(np.asarray(strip).max() for strip, _ in _strips(image))
        wide = 65_535 if mode != "I" or peak <= 65_535 else 2**31 - 1
        divisor = (_TWELVE_BITS if peak <= _TWELVE_BITS else wide) / 255

    def convert(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip)
        scaled = _finite(values) * factor if mode == "F" else values / divisor
        return Image.fromarray(np.asarray(np.clip(scaled, 0, 255).round(), np.uint8)).convert("RGB")

    return convert


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0))
