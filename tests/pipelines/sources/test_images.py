"""Every mode, depth and orientation becomes upright 8-bit RGB; whatever is not one whole image is refused."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.sources.images import MAX_PIXELS, BadImage, EncodedImage, decode_mask, decode_rgb, image_size

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), np.uint8)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def pixels(data, **options):
    image = decode_rgb(data, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def turned(array, orientation):
    """What EXIF says a viewer does: row 0 / column 0 of the stored image lies where the standard's table puts it."""
    return {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.swapaxes(0, 1),
        6: array.swapaxes(0, 1)[:, ::-1],
        7: array.swapaxes(0, 1)[::-1, ::-1],
        8: array.swapaxes(0, 1)[::-1],
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_exif_orientation_is_applied_once(format, orientation):
    stored = np.repeat(np.repeat(RGB, 16, 0), 16, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "JPEG": {"quality": 100, "subsampling": 0}}[format]
    data = encode(Image.fromarray(stored), format, exif=exif.tobytes() if format != "TIFF" else exif, **options)
    expected = turned(stored, orientation)
    found = pixels(data)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= (3 if format == "JPEG" else 0)
    assert image_size(data) == (expected.shape[1], expected.shape[0])
    opened = EncodedImage(data)
    assert opened.size == image_size(data)
    assert np.array_equal(np.asarray(opened.decode()), found)


def test_damaged_exif_is_ignored():
    data = encode(Image.fromarray(RGB), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(pixels(data), RGB)


def test_grey_modes():
    assert np.array_equal(pixels(encode(Image.fromarray(GREY))), np.stack([GREY] * 3, -1))
    bits = GREY > 127
    assert np.array_equal(pixels(encode(Image.fromarray(bits)))[..., 0], bits * 255)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.asarray([[0, 128, 129, 257, 65_535, 32_896, 1]], np.uint16)
    expected = np.asarray([[0, 0, 1, 1, 255, 128, 0]], np.uint8)
    for format in ("PNG", "TIFF"):
        assert np.array_equal(pixels(encode(Image.fromarray(values), format))[..., 1], expected)
    every = np.arange(256, dtype=np.uint16)[None] * 257
    assert np.array_equal(pixels(encode(Image.fromarray(every)))[..., 2], np.arange(256, dtype=np.uint8)[None])


def test_wider_greys():
    integers = np.asarray([[0, 257 * 100, 65_535]], np.int32)
    assert pixels(encode(Image.fromarray(integers), "TIFF"))[0, :, 0].tolist() == [0, 100, 255]
    wide = np.asarray([[0, 2**30, 2**31 - 1]], np.int32)
    assert pixels(encode(Image.fromarray(wide), "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    fractions = np.asarray([[0.0, 0.2, 1.0, np.nan]], np.float32)
    assert pixels(encode(Image.fromarray(fractions), "TIFF"))[0, :, 0].tolist() == [0, 51, 255, 0]
    floats = np.asarray([[-5.0, 51.4, 300.0]], np.float32)
    assert pixels(encode(Image.fromarray(floats), "TIFF"))[0, :, 0].tolist() == [0, 51, 255]


def test_cmyk_matches_pillow_and_is_not_inverted():
    white_and_red = Image.new("CMYK", (16, 8), (0, 0, 0, 0))
    white_and_red.paste((0, 255, 255, 0), (8, 0, 16, 8))
    found = pixels(encode(white_and_red, "JPEG", quality=100, subsampling=0))
    assert found[4, 2].min() > 250
    assert found[4, 12, 0] > 250
    assert found[4, 12, 1:].max() < 5


def test_transparency_is_laid_over_white():
    rgba = np.dstack([RGB, RNG.integers(0, 256, (5, 7), np.uint8)])
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(pixels(encode(Image.fromarray(rgba))).astype(int) - expected).max() <= 1
    la = np.dstack([GREY, rgba[..., 3]])
    expected = la[..., :1] * alpha + 255 * (1 - alpha)
    assert np.abs(pixels(encode(Image.fromarray(la, "LA"))).astype(int) - expected).max() <= 1


def test_palettes():
    palette = Image.fromarray((GREY % 4).astype(np.uint8), "P")
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)]
    palette.putpalette([channel for color in colors for channel in color])
    expected = np.asarray(colors, np.uint8)[GREY % 4]
    assert np.array_equal(pixels(encode(palette)), expected)
    expected[GREY % 4 == 2] = 255
    assert np.array_equal(pixels(encode(palette, transparency=2)), expected)
    assert np.array_equal(pixels(encode(palette, "GIF", transparency=2)), expected)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(data)[0, 0].tolist() == [255, 0, 0]


def test_one_pixel():
    assert pixels(encode(Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("draft", [1, 60, 64, 100, 400, 5000])
@pytest.mark.parametrize("size", [(1024, 512), (517, 999), (40, 30)])
def test_draft_is_never_smaller_than_asked(draft, size):
    image = decode_rgb(encode(Image.new("RGB", size, "teal"), "JPEG"), draft=draft)
    full = min(size)
    assert min(image.size) >= min(draft, full)
    if draft * 2 <= full:
        assert min(image.size) <= max(full // 2 + 1, full // 8 + 1)
    assert image.size[0] / image.size[1] == pytest.approx(size[0] / size[1], rel=0.1)


def png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("decode", [decode_rgb, decode_mask, image_size, EncodedImage])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>404 not found</html>", "not an image"),
        (b"a text file\n" * 100, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (png_header(50_000, 50_000), "too large"),
        (png_header(13_378, 13_378), "too large"),
        (png_header(100_000, 1), "too large"),
        (png_header(0, 5), "not an image|no pixels"),
    ],
)
def test_what_is_no_image_is_refused_before_decoding(decode, data, reason):
    with pytest.raises(BadImage, match=reason):
        decode(data)


def test_the_limit_is_pillows_hard_one():
    assert 13_377**2 <= MAX_PIXELS < 13_378**2
    assert image_size(png_header(13_377, 13_377)) == (13_377, 13_377)


@pytest.mark.parametrize("draft", [None, 16])
@pytest.mark.parametrize(
    ("format", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {})],
)
def test_truncated_images_are_refused(format, options, draft):
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8))
    data = encode(noise, format, **options)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(BadImage, match=r"truncated|damaged|not an image"):
            decode_rgb(data[: int(len(data) * share)], draft=draft)
        with pytest.raises(BadImage, match=r"truncated|damaged|not an image"):
            EncodedImage(data[: int(len(data) * share)]).decode(draft=draft)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damage_gives_an_image_or_badimage_and_nothing_else(data):
    format = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]))
    blob = bytearray(encode(Image.fromarray(RGB), format))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadImage):
        assert decode_rgb(bytes(blob)).mode == "RGB"
    assert outcome(lambda data: EncodedImage(data).decode(), blob) == outcome(decode_rgb, blob)


def outcome(decode, blob):
    try:
        return decode(bytes(blob)).tobytes()
    except BadImage:
        return "bad"


def test_masks():
    bits = GREY > 127
    for image in (
        Image.fromarray(bits),
        Image.fromarray(bits.astype(np.uint8)),
        Image.fromarray(bits.astype(np.uint16) * 256),
        Image.fromarray(np.dstack([bits * 0, bits * 7, bits * 0]).astype(np.uint8)),
        Image.fromarray(np.dstack([bits * 0 + 9] * 3 + [bits * 255]).astype(np.uint8)),
    ):
        assert np.array_equal(decode_mask(encode(image)), bits)
    palette = Image.fromarray(bits.astype(np.uint8), "P")
    palette.putpalette([255, 255, 255, 0, 0, 0])
    assert np.array_equal(decode_mask(encode(palette)), bits)
