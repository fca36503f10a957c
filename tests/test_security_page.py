"""docs/security.md names tests that exist, and the limits that hold."""

import re
from pathlib import Path

from pipelines.import_maps.fixations import LARGEST_FIXATIONS
from pipelines.sources.images import LARGEST_FILE, MAX_BYTES, MAX_PIXELS
from pipelines.sources.text_files import LARGEST_TEXT
from pipelines.sources.video.video_stream import MAX_FRAME_PIXELS
from saliency.files import LARGEST_JSON

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_named_test_exists():
    named = re.findall(r"`(tests/[^`]*)`", PAGE)
    assert len(named) >= 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_limits_are_those_of_the_code():
    shown = dict(re.findall(r"^\| ([A-Z][^|]*) \| ([^|]*) \|$", PAGE.partition("## Sizes")[2], re.M))
    assert shown["Encoded image"] == f"{LARGEST_FILE >> 30} GiB"
    assert shown["Array of an NPY or NPZ file"] == shown["Encoded image"]
    assert shown["JSON of fixations"] == f"{LARGEST_FIXATIONS >> 30} GiB"
    assert shown["Pixels of an image"] == f"{MAX_PIXELS:,}, and {MAX_BYTES / 2**30:g} GiB while decoding"
    width, height = map(int, re.findall(r"\d+", shown["Frame of a video"]))
    assert width * height == MAX_FRAME_PIXELS
    assert shown["Caption file"] == f"{LARGEST_TEXT >> 20} MiB"
    assert shown["Manifest and other JSON of a folder"] == f"{LARGEST_JSON >> 20} MiB"
