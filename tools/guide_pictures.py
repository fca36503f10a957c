"""Draws pictures of the guides from built-in scenes: ``python tools/guide_pictures.py``, in seconds."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import saliency_mae as sm  # noqa: E402
from pipelines.inspect.inspect import inspect  # noqa: E402
from pipelines.inspect.options import InspectOptions  # noqa: E402
from pipelines.plots import contact_sheet, grey_out, overlay  # noqa: E402
from pipelines.sources.open_source import open_source  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
GRID = 12
CAPTIONS = (
    ("a red circle", "an orange square", "a pink heart"),
    ("a cyan ring", "a yellow circle", "an orange square"),
)
"""Of the first scenes: what is in them."""
MASKS = {
    "random": {},
    "block": {},
    "grid": {},
    "color-green": {},
    "salient, top": {"salient_ratio": 0.25},
    "salient, weighted": {"salient_ratio": 0.25, "salient_pick": "weighted"},
    "inverse": {"salient_ratio": 0.25},
    "center": {"salient_ratio": 0.25},
}


def main() -> None:
    """Writes ``captions.png``, ``masks.png`` and ``which-patches.png``."""
    source = open_source("shapes:40,split=test,objects=3")
    clip = sm.load_clip("demo")
    images = [Image.open(BytesIO(source.read_image(row))).convert("RGB") for row in range(len(CAPTIONS))]
    columns: dict[str, list[object]] = {"image": [np.asarray(image) for image in images]}
    for place in range(3):
        captions = [each[place] for each in CAPTIONS]
        heats = [sm.heatmap(clip, image, caption) for image, caption in zip(images, captions, strict=True)]
        columns[f"caption {place + 1}"] = list(captions)
        columns[f"its map, {place + 1}"] = [
            overlay(np.asarray(image), heat.on_image()) for image, heat in zip(images, heats, strict=True)
        ]
    _draw(PICTURES / "captions.png", columns)

    shown = [0, 1]
    captions = [source.captions[row].as_py() for row in shown]
    heats = [sm.heatmap(clip, images[row], caption) for row, caption in zip(shown, captions, strict=True)]
    saliency = torch.from_numpy(np.stack([heat.map for heat in heats]))
    sheet: dict[str, list[object]] = {
        "map": [overlay(np.asarray(images[row]), heat.on_image()) for row, heat in zip(shown, heats, strict=True)]
    }
    for name, options in MASKS.items():
        masks = sm.mask(name.split(",")[0], **options)
        hidden = masks(saliency, torch.Generator().manual_seed(1)).hidden.reshape(-1, GRID, GRID)
        cells = [np.kron(each.numpy(), np.ones((96 // GRID, 96 // GRID), bool)) for each in hidden]
        sheet[name] = [grey_out(np.asarray(images[row]), mask) for row, mask in zip(shown, cells, strict=True)]
    _draw(PICTURES / "masks.png", sheet)
    _draw_hidden(PICTURES / "which-patches.png")


def _draw_hidden(path: Path) -> None:
    """What masks hide of three scenes, as ``inspect --masks`` draws it."""
    with TemporaryDirectory() as place:
        sm.build_saliency("shapes:40,split=test,objects=2-3", out=f"{place}/maps", quiet=True)
        inspect(
            InspectOptions(f"{place}/maps", masks=True, image_size=(96,), patch_size=8, gallery=path, gallery_size=3)
        )
    _in_few_colours(path)


def _draw(path: Path, columns: dict[str, list[object]]) -> None:
    """A contact sheet in 128 colours, so that a clone stays small."""
    contact_sheet(path, columns)
    _in_few_colours(path)


def _in_few_colours(path: Path) -> None:
    with Image.open(path) as image:
        image.convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
