"""Decoding holds a bounded number of bytes a pixel, and what is converted in strips is what it was in one piece."""

import io
import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import UserError
from pipelines.sources import images
from pipelines.sources.images import MAX_BYTES, MAX_PIXELS, BadImage, decode_mask, decode_rgb
from pipelines.sources.open_source import open_source
from pipelines.sources.source import FileImages, read_file

RNG = np.random.default_rng(3)
RGBA = RNG.integers(0, 256, (37, 23, 4), np.uint8)


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def palette():
    image = Image.fromarray(RGBA[..., 0] % 9, "P")
    image.putpalette(RGBA[:9, 0, :3].tobytes())
    return image


KINDS = {
    "RGBA": encode(Image.fromarray(RGBA)),
    "LA": encode(Image.fromarray(RGBA[..., :2].copy(), "LA")),
    "P with a transparent index": encode(palette(), transparency=3),
    "P with alphas": encode(palette(), transparency=bytes(range(0, 250, 28))),
    "RGB with a transparent colour": encode(Image.fromarray(RGBA[..., :3] % 2), transparency=(0, 1, 0)),
    "L with a transparent grey": encode(Image.fromarray(RGBA[..., 0] % 3), transparency=2),
    "I;16": encode(Image.fromarray(RGBA[..., :2].copy().view(np.uint16)[..., 0])),
    "I;16B": encode(Image.frombytes("I;16B", (23, 37), RGBA[..., :2].tobytes()), "TIFF"),
    "I of 16 bits": encode(Image.fromarray(RGBA[..., 0].astype(np.int32) * 257), "TIFF"),
    "I of 32 bits": encode(Image.fromarray(RGBA[..., 0].astype(np.int32) * 2**22), "TIFF"),
    "F in 0..1": encode(Image.fromarray(RGBA[..., 0].astype(np.float32) / 255), "TIFF"),
    "F in 0..255": encode(Image.fromarray(RGBA[..., 0].astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_strips_change_nothing(kind, monkeypatch):
    whole = np.asarray(decode_rgb(KINDS[kind]))
    assert whole.shape == (37, 23, 3)
    for pixels in (1, 23 * 5, 23 * 36):
        monkeypatch.setattr(images, "_STRIP", pixels)
        np.testing.assert_array_equal(np.asarray(decode_rgb(KINDS[kind])), whole)


MEASURE = """
import resource, sys
from pipelines.sources.images import decode_rgb
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
data = open(sys.argv[1], "rb").read()
decode_rgb(open(sys.argv[2], "rb").read())
before = peak()
image = decode_rgb(data)
print((peak() - before) / (image.width * image.height))
"""


@pytest.mark.parametrize(("mode", "most"), [("I;16", 9), ("RGBA", 11), ("LA", 11), ("I", 12), ("F", 11)])
def test_bytes_a_pixel(mode, most, tmp_path):
    """Of a picture of 9 megapixels, in a process of its own; in one piece these took 20 to 32."""
    ramp = np.add.outer(np.arange(3000), np.arange(3000))
    image = {
        "I;16": lambda: Image.fromarray(ramp.astype(np.uint16)),
        "I": lambda: Image.fromarray(ramp.astype(np.int32)),
        "F": lambda: Image.fromarray(ramp.astype(np.float32)),
        "LA": lambda: Image.fromarray(np.dstack([ramp, ramp]).astype(np.uint8), "LA"),
        "RGBA": lambda: Image.fromarray(np.dstack([ramp] * 4).astype(np.uint8)),
    }[mode]()
    format = "TIFF" if mode in "IF" else "PNG"
    (tmp_path / "large").write_bytes(encode(image, format))
    (tmp_path / "small").write_bytes(encode(image.crop((0, 0, 8, 8)), format))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "large", tmp_path / "small"],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < most


def png_header(width, height, colour=2, depth=8):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


def ico_with(png):
    """An icon that says it has 16×16 pixels, whatever picture it holds."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png


def bmp_header(width, height):
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + b"\0" * 6


def tiff_header(width, height):
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, height), (279, 4, 6)]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + body + b"\0" * 4


WIDE = 30_000
BOMBS = {
    "PNG": png_header(WIDE, WIDE),
    "PNG of 16 bits": png_header(WIDE, WIDE, 0, 16),
    "ICO": ico_with(png_header(WIDE, WIDE, 6)),
    "GIF": b"GIF89a"
    + struct.pack("<HH", WIDE, WIDE)
    + b"\0\0\0,"
    + b"\0" * 4
    + struct.pack("<HH", WIDE, WIDE)
    + b"\0\2\2L\1\0;",
    "BMP": bmp_header(WIDE, WIDE),
    "TIFF": tiff_header(WIDE, WIDE),
    "PPM": b"P6 30000 30000 255\n" + b"\0" * 9,
    "TGA": bytes([0, 0, 2, *[0] * 9]) + struct.pack("<HH", WIDE, WIDE) + bytes([24, 0]) + b"\0" * 9,
    "JPEG": encode(Image.new("RGB", (8, 8)), "JPEG").replace(
        struct.pack(">BHH", 8, 8, 8), struct.pack(">BHH", 8, WIDE, WIDE)
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("decode", [decode_rgb, decode_mask])
def test_a_bomb_is_refused_before_its_pixels_are_there(bomb, decode):
    assert WIDE * WIDE > MAX_PIXELS
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadImage, match="too large"):
        decode(BOMBS[bomb])
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 200e6


def test_what_decoders_take_beside_the_pixels_counts(monkeypatch):
    jpeg2000 = encode(Image.fromarray(RGBA[..., :3]), "JPEG2000")
    png = encode(Image.fromarray(RGBA[..., :3]))
    monkeypatch.setattr(images, "MAX_BYTES", 37 * 23 * 5)
    assert decode_rgb(png).size == (23, 37)
    with pytest.raises(BadImage, match=rf"23×37 pixels take {37 * 23 * 20:,} bytes to decode"):
        decode_rgb(jpeg2000)
    assert MAX_BYTES >= 8 * MAX_PIXELS, "a photograph of any size that Pillow takes is decoded, turned as well"


def test_a_gif_of_very_many_frames_is_its_first():
    frame = b",\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    data = b"GIF89a\1\0\1\0\x80\0\0\xff\0\0\0\0\0" + frame * 300_000 + b";"
    assert decode_rgb(data).getpixel((0, 0)) == (255, 0, 0)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(OSError, match="Not a regular file"):
            read_file(str(tmp_path / name))
    with pytest.raises(IsADirectoryError):
        read_file(str(tmp_path / "folder.png"))
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/none.png"):
        read_file(str(tmp_path / "none.png"))


def test_a_file_of_absurd_size_is_not_read(tmp_path):
    with (tmp_path / "hole.png").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match=r"Larger than 1,073,741,824 bytes"):
        read_file(str(tmp_path / "hole.png"))


def test_a_file_that_does_not_say_its_size_is_read_whole():
    assert read_file("/proc/self/cmdline") == Path("/proc/self/cmdline").read_bytes() != b""


def test_a_reason_never_carries_an_image_in_base64():
    import pyarrow as pa

    with pytest.raises(OSError, match="File name too long") as caught:
        FileImages(pa.array(["iVBORw0KGgo" * 100_000]))[0]
    assert len(str(caught.value)) < 600
    assert "characters more" in str(caught.value)
    assert len(str(BadImage("x" * 10**6))) < 400
    assert str(BadImage("its file\nname holds \x1b[2J")) == "its file name holds \\x1b[2J"


MASKS = {
    **{kind: KINDS[kind] for kind in ("RGBA", "LA", "P with alphas", "F in 0..1")},
    "1": encode(Image.fromarray(RGBA[..., 0] > 99)),
    "I;16": encode(Image.fromarray((RGBA[..., 0] // 99).astype(np.uint16))),
    "turned": encode(Image.fromarray(RGBA[..., 0] // 99), "TIFF", tiffinfo={274: 6}),
    "JPEG": encode(Image.fromarray(RGBA[..., :3]), "JPEG"),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_in_strips_is_the_mask(kind, monkeypatch):
    whole = decode_mask(MASKS[kind])
    assert whole.shape == ((23, 37) if kind == "turned" else (37, 23))
    assert 0 < whole.mean() < 1
    for pixels in (1, 23 * 5):
        monkeypatch.setattr(images, "_STRIP", pixels)
        np.testing.assert_array_equal(decode_mask(MASKS[kind]), whole)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.tar", "a.mp4"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_source_that_is_no_regular_file_is_one_line(tmp_path, name, kind):
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(UserError, match="can't be read: .*Not a regular file"):
        open_source(str(tmp_path / name))


def test_captions_that_could_be_waited_for_are_none(tmp_path):
    """And one that is larger than any caption: what can't be read is no caption, and hangs nothing."""
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(KINDS["RGBA"])
    (tmp_path / "a.txt").write_text("a dog")
    os.mkfifo(tmp_path / "b.txt")
    with (tmp_path / "c.txt").open("wb") as file:
        file.truncate(1 << 40)
    assert open_source(str(tmp_path)).captions.to_pylist() == ["a dog", None, None]
