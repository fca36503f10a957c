"""Images, masks and videos as inputs, and what is held of their readers."""

from __future__ import annotations

import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.sources.images import (
    EncodedImage,
    decode_mask,
    decode_rgb,
    decode_sized,
    image_size,
    is_plain_jpeg,
    is_twelve_bit,
)
from pipelines.sources.open_source import open_clips
from tests.pipelines import video_files
from tests.pipelines.sources.test_images import encode, png_header
from tools.fuzzing.worker import Lost

_PNG = b"\x89PNG\r\n\x1a\n"


def images() -> list[bytes]:
    """Every format in the modes it has, small; with EXIF, transparency, palettes, frames, tiles and colour profiles."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (19, 23, 3), np.uint8))
    rgba = Image.fromarray(rng.integers(0, 256, (19, 23, 4), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = exif.tobytes()
    large = rgb.resize((160, 120))
    found = [
        encode(rgb, name) for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")
    ]
    found += [encode(rgba, name) for name in ("PNG", "WEBP", "TIFF", "ICO", "JPEG2000", "TGA")]
    found += [encode(rgb.convert(mode), "PNG", transparency=3) for mode in ("P", "L", "1")]
    found += [encode(rgb.convert(mode), "TIFF") for mode in ("1", "L", "P", "F", "I", "CMYK", "LAB", "YCbCr")]
    found += [encode(rgb, "TIFF", compression=name) for name in ("jpeg", "tiff_lzw", "tiff_deflate", "packbits")]
    found += [encode(Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 16), "PNG")]
    found += [encode(large, "JPEG", progressive=True, exif=turned), encode(large.convert("CMYK"), "JPEG")]
    found += [encode(rgb, "PNG", exif=turned), encode(rgb, "WEBP", lossless=True, exif=turned)]
    found += [
        encode(rgb, name, save_all=True, append_images=[rgb.rotate(90)] * 2) for name in ("GIF", "WEBP", "PNG", "TIFF")
    ]
    found += [
        b"P1\n3 2\n101010",
        b"P2\n3 2\n9\n1 2 3 4 5 6",
        b"P5 3 2 65535 " + b"\0\1" * 6,
        b"Pf\n2 1\n-1.0\n" + b"\0" * 8,
    ]
    return [*found, png_header(13_377, 13_377), png_header(1, 65_535), b""]


def png_checksums(data: bytes) -> bytes:
    """The PNG with right checksums; what is none as it is."""
    if not data.startswith(_PNG):
        return data
    at, pieces = len(_PNG), [_PNG]
    while at + 8 <= len(data):
        length = min(struct.unpack(">I", data[at : at + 4])[0], max(len(data) - at - 12, 0))
        body = data[at + 4 : at + 8 + length]
        pieces += [struct.pack(">I", length), body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length
    return b"".join(pieces)


def read_image(data: bytes, _: Path) -> None:
    """All that is asked of an image: every way to read it gives the same picture, or none does."""
    image, size = decode_sized(data)
    if image.mode != "RGB" or image.size != size:
        raise Lost(f"{image.mode} {image.size}, and {size} is told")
    pixels = zlib.crc32(image.tobytes())
    del image  # two of the largest that are decoded are more than one reader ever holds
    opened = EncodedImage(data)
    if opened.size != size or zlib.crc32(opened.decode().tobytes()) != pixels:
        raise Lost(f"EncodedImage has {opened.size}, decode_rgb {size}")
    if image_size(data) != size:
        raise Lost(f"image_size has {image_size(data)}, decode_rgb {size}")
    decode_rgb(data, draft=16)
    is_plain_jpeg(data)
    is_twelve_bit(data)


def read_mask(data: bytes, _: Path) -> None:
    """A mask, and a box on its image."""
    mask = decode_mask(data)
    width, height = image_size(data)
    if mask.shape != (height, width) or mask.dtype != bool:
        raise Lost(f"a mask {mask.shape} of an image of {height}×{width}")


def videos() -> list[bytes]:
    """Small videos: three codecs in four containers, with B-frames, without times, turned, cut into a stream."""
    frames = video_files.pictures(6)
    kinds: list[tuple[str, dict[str, object]]] = [
        *((".mkv", {}), (".mp4", video_files.B_FRAMES), (".avi", video_files.MPEG4), (".ts", video_files.MPEG2)),
        *(
            (".mov", {"codec": "mjpeg", "pixels": "yuvj420p", "rotation": 90}),
            (".webm", {"codec": "vp8", "pixels": "yuv420p"}),
        ),
        *((".mpg", video_files.MPEG2 | {"container": "mpeg"}), (".gif", {"codec": "gif", "pixels": "rgb8"})),
    ]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix, options in kinds:
            path = Path(folder) / f"a{suffix}"
            video_files.write_video(path, frames, **options)  # type: ignore[no-untyped-call]
            found.append(path.read_bytes())
    return found


def read_video(data: bytes, folder: Path) -> None:
    """The times of a file's frames, and its first, middle and last frame."""
    path = folder / "a.mp4"
    path.write_bytes(data)
    source = open_clips(str(path))
    video = source.open_video(0)
    times = np.asarray(video.times)
    if not len(times) or not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise Lost(f"the times of its frames are {times[:20]}")
    numbers = sorted({0, len(times) // 2, len(times) - 1})
    read = video.read(numbers)
    if len(read) != len(numbers) or any(image.size != video.size or image.mode != "RGB" for image in read):
        raise Lost(f"{len(read)} of {len(numbers)} frames, of {[image.size for image in read]}")
