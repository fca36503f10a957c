"""Image-caption pairs in files, good ones and such as can't be used."""

import json
import struct
import zlib

import pytest
from PIL import Image

from tests.pipelines.build.test_build_saliency import write_pictures


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures", [f"picture {i % 5}" for i in range(10)])


@pytest.fixture
def bad_pictures(tmp_path):
    """Ten good pairs and one of every bad kind."""
    folder = write_pictures(tmp_path / "bad", [f"picture {i}" for i in range(10)])
    good = (folder / "000.png").read_bytes()
    (folder / "truncated.png").write_bytes(good[: len(good) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is no image")
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    (folder / "bomb.png").write_bytes(_png_header_of(50_000, 50_000))
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    for name in ("truncated.png", "empty.jpg", "text.jpg", "pixel.png", "bomb.png", "absent.png"):
        lines.append(json.dumps({"file_name": name, "caption": "bad"}))
    for name, caption in (("000.png", None), ("001.png", ""), ("002.png", "  \n"), ("003.png", "picture 3")):
        lines.append(json.dumps({"file_name": name, "caption": caption}))
    lines.append(json.dumps({"file_name": "004.png", "caption": "long " * 2000}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _png_header_of(width, height):
    """A PNG of a few bytes that claims to be of this size."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
