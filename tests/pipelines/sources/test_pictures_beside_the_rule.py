"""Pictures that decoders stumble over: PNGs whose comments are damaged, masks in lossy formats, 12 bits in 16."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines.sources.bare_png import bare_png
from pipelines.sources.images import BadImage, EncodedImage, decode_mask, decode_rgb, image_size, is_twelve_bit

RGB = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def chunk(kind, body, *, crc=None):
    whole = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", whole)


def with_chunk(data, piece, where):
    """The PNG with a chunk before its pixels, or behind them."""
    at = data.index(b"IDAT" if where == "before" else b"IEND") - 4
    return data[:at] + piece + data[at:]


BOMB = zlib.compress(bytes(3 << 20))
PIECES = {
    "large profile": chunk(b"iCCP", b"icc\0\0" + BOMB),
    "damaged profile": chunk(b"iCCP", b"icc\0\0" + b"no zlib"),
    "profile of another compression": chunk(b"iCCP", b"icc\0\7" + BOMB),
    "large compressed text": chunk(b"zTXt", b"Comment\0\0" + BOMB),
    "large international text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + BOMB),
    "text of another compression": chunk(b"zTXt", b"Comment\0\7" + BOMB),
    "large text": chunk(b"tEXt", b"Comment\0" + b"x" * (70 << 20)),
    "wrong sum": chunk(b"tEXt", b"Comment\0hello", crc=7),
    "short sRGB": chunk(b"sRGB", b""),
    "short pHYs": chunk(b"pHYs", b"\0"),
    "short cHRM": chunk(b"cHRM", b"\0\0\0"),
    "short gAMA": chunk(b"gAMA", b"\0"),
}


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
def test_what_a_png_says_beside_its_pixels_spoils_none(piece, where):
    data = with_chunk(encode(Image.fromarray(RGB)), piece, where)
    np.testing.assert_array_equal(np.asarray(decode_rgb(data)), RGB)
    np.testing.assert_array_equal(np.asarray(EncodedImage(data).decode()), RGB)
    assert image_size(data) == EncodedImage(data).size == (7, 9)
    np.testing.assert_array_equal(decode_mask(data), RGB.any(-1))


def test_transparency_and_orientation_outlive_a_damaged_comment():
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = Image.fromarray((RGB[..., 0] % 3).astype(np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    data = encode(palette, transparency=1, exif=exif)
    damaged = with_chunk(data, PIECES["large profile"], "before")
    np.testing.assert_array_equal(np.asarray(decode_rgb(damaged)), np.asarray(decode_rgb(data)))
    assert image_size(damaged) == (9, 7)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_damaged_pixels_stay_damaged(share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = with_chunk(encode(Image.fromarray(noise)), PIECES["wrong sum"], "before")
    with pytest.raises(BadImage, match="truncated|damaged"):
        decode_rgb(data[: int(len(data) * share)])
    at = data.index(b"IDAT") + 100
    with pytest.raises(BadImage, match="damaged"):
        decode_rgb(data[:at] + b"\xff\xff\xff" + data[at + 3 :])


def test_bare_png():
    data = encode(Image.fromarray(RGB))
    assert bare_png(data) is None
    assert bare_png(b"no PNG") is None
    assert bare_png(with_chunk(data, PIECES["wrong sum"], "behind")) == data


def drawn(value=255):
    image = Image.new("L", (320, 240))
    draw = ImageDraw.Draw(image)
    draw.ellipse((60, 40, 200, 180), fill=value)
    draw.rectangle((230, 100, 300, 220), fill=value)
    return image


@pytest.mark.parametrize("colour", ["L", "RGB"])
@pytest.mark.parametrize(
    ("format", "options", "least"),
    [
        ("JPEG", {"quality": 75}, 0.9999), ("JPEG", {"quality": 30}, 0.998), ("JPEG", {"quality": 10}, 0.994),
        ("WEBP", {"quality": 75}, 0.999), ("AVIF", {"quality": 50}, 0.999), ("TIFF", {"compression": "jpeg"}, 0.999),
        ("JPEG2000", {"irreversible": True, "quality_layers": [20]}, 0.999),
    ],
)  # fmt: skip
def test_lossy_masks_have_a_threshold(format, options, least, colour):
    truth = np.asarray(drawn()) > 0
    found = decode_mask(encode(drawn().convert(colour), format, **options))
    assert (found & truth).sum() / (found | truth).sum() >= least
    none = decode_mask(encode(Image.new(colour, (64, 64)), format, **options))
    assert not none.any()


@pytest.mark.parametrize(
    ("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG2000", {}), ("TIFF", {})]
)
def test_lossless_masks_have_none(format, options):
    values = np.repeat(np.repeat(np.arange(9, dtype=np.uint8).reshape(3, 3), 8, 0), 8, 1)
    np.testing.assert_array_equal(decode_mask(encode(Image.fromarray(values), format, **options)), values > 0)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_twelve_bits_in_sixteen(format):
    values = np.asarray([[0, 16, 2048, 4095]], np.uint16)
    data = encode(Image.fromarray(values), format)
    assert np.asarray(decode_rgb(data))[0, :, 0].tolist() == [0, 1, 128, 255]
    assert is_twelve_bit(data)
    wide = encode(Image.fromarray(np.asarray([[0, 4096, 65_535]], np.uint16)), format)
    assert np.asarray(decode_rgb(wide))[0, :, 0].tolist() == [0, 16, 255]
    assert not is_twelve_bit(wide)
    assert not is_twelve_bit(encode(Image.fromarray(RGB)))


def test_inspect_says_what_was_done(tmp_path):
    from pipelines.inspect.source import describe_source
    from pipelines.sources.open_source import open_source

    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(RGB).save(tmp_path / "b.png")
    (tmp_path / "c.heic").touch()
    facts, numbers = describe_source(open_source(str(tmp_path)))
    assert facts["12 bits in 16"] == "1 greys of the first 200 need no more: 4095 is read as white"
    assert numbers["warnings"] == ["1 .heic left out, for such pictures are not decoded; the first is c.heic"]
