"""Draws pictures of the guides from built-in scenes: ``python tools/guide_pictures.py``, in seconds."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import saliency_mae as sm  # noqa: E402
from mae.masks.masking import Masking, salient_set  # noqa: E402
from mae.masks.strategies import SALIENT_OF  # noqa: E402
from pipelines.inspect.inspect import inspect  # noqa: E402
from pipelines.inspect.options import InspectOptions  # noqa: E402
from pipelines.plots import contact_sheet, grey_out, overlay  # noqa: E402
from pipelines.sources.open_source import open_source  # noqa: E402

Pixels = NDArray[np.uint8]
PICTURES = ROOT / "docs" / "pictures"
GRID = 12
CAPTIONS = (
    ("a red circle", "an orange square", "a pink heart"),
    ("a cyan ring", "a yellow circle", "an orange square"),
)
"""Of the first scenes: what is in them."""
HIDDEN, FORCED, SET = (128, 128, 128), (222, 0, 148), (255, 221, 51)
"""Colours of patches that are hidden at random or because they are salient, and of the line around the salient set."""
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
    """Writes ``captions.png``, ``masks.png``, ``which-patches.png`` and a ``reading-*.png`` for each reading."""
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
    for reading in SALIENT_OF:
        scene = overlay(np.asarray(images[0]), heats[0].on_image())
        _draw_reading(PICTURES / f"reading-{reading}.png", reading, np.asarray(images[0]), scene, saliency[:1])


def _draw_reading(path: Path, reading: str, image: Pixels, shown: Pixels, saliency: torch.Tensor) -> None:
    """The map on its image, and what a reading hides of it, side by side on a transparent ground.

    ``image`` and ``shown`` uint8 [H, W, 3], ``saliency`` [1, G, G]. Where the reading counts the salient set, a line
    goes around it.
    """
    masking = Masking("salient", salient_of=reading)
    grid, maps = (GRID, GRID), saliency.flatten(1)
    draw = masking.draw(1, grid, generator=torch.Generator().manual_seed(1), saliency=maps)
    hidden, forced = masking.mask(draw).hidden.view(grid).numpy(), masking.forced(draw).view(grid).numpy()
    cell = 2 * image.shape[0] // GRID  # pixels are drawn twice as large
    tiles = [np.asarray(Image.fromarray(each).resize((GRID * cell,) * 2)).copy() for each in (shown, image)]
    for chosen, colour in ((hidden, HIDDEN), (forced, FORCED)):
        tiles[1][np.kron(chosen, np.ones((cell, cell), bool))] = colour
    tiles[1][::cell] = tiles[1][:, ::cell] = 90
    if "salient" in reading:
        members = salient_set(maps, draw.ties, masking.salient_mass).view(grid).numpy()
        inside = np.pad(np.kron(members, np.ones((cell, cell), bool)), 3)
        shifts = [np.roll(inside, (down, across), (0, 1)) for down in (-3, 0, 3) for across in (-3, 0, 3)]
        line = (np.any(shifts, 0) & ~inside)[3:-3, 3:-3]
        for tile in tiles:
            tile[line] = SET
    sheet = Image.new("RGBA", (2 * GRID * cell + cell, GRID * cell))
    for number, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), (number * (GRID + 1) * cell, 0))
    sheet.quantize(64).save(path, optimize=True)


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
