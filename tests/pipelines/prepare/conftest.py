"""Pairs with captions, labels and masks."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.pipelines.prepare.test_prepare import picture


@pytest.fixture
def pairs(tmp_path):
    """Ten images in folders, of two sizes, with captions first and all, labels by name, URLs and masks."""
    folder = tmp_path / "pairs"
    (folder / "images.v1").mkdir(parents=True)
    lines = []
    for i in range(10):
        size = (60, 40) if i % 2 else (30, 24)
        picture(i, size).save(folder / "images.v1" / f"{i:03d}.a.jpg", quality=95)
        mask = np.zeros((size[1], size[0]), np.uint8)
        mask[: size[1] // 2, : size[0] // 4 * (i % 3 + 1)] = 255
        Image.fromarray(mask).save(folder / f"m{i}.png")
        line = {"file_name": f"images.v1/{i:03d}.a.jpg", "caption": f"first {i} ", "url": f"http://x/{i}"}
        line |= {"captions": [f"one {i}", f"ünd {i}"][: i % 3], "label": ["dog", "cat", "ape"][i % 3]}
        lines.append(line | {"mask_file_name": f"m{i}.png"})
    lines[3]["caption"] = None
    lines[4]["label"] = None
    lines[5]["mask_file_name"] = None
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
