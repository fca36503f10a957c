"""Maps of a table's images under other captions, made as the table's own were; the shuffled-caption control.

Model, method, fit, tiles, grid and quantisation come from the table's metadata, so that an image under its own caption
gives the map that is in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.build.model_input import see
from saliency.faithfulness import Score
from saliency.maps import dequantise, quantise
from saliency.methods.methods import check_method
from saliency.methods.windows import map_windows
from saliency.table.table import SaliencyTable
from saliency.towers.tower import DEMO_CLIP, Tower, load_tower

_BATCH = 64  # images that are scored at a time


class Remaker:
    """Makes maps as a table's own were made.

    Raises ValueError, a short reason, if the model can't be had, or is not the one the maps were made with.
    """

    def __init__(self, table: SaliencyTable, *, device: str = "cpu") -> None:
        made = table.metadata
        lacking = [name for name in ("fit", "image_size", "weights_sha256") if name not in made]
        if lacking:
            raise ValueError(f"the maps do not say with which {', '.join(lacking)} they were made")
        self._tiles: int = made.get("tiles", 1)
        self._fit: str = made["fit"]
        self._method: str = made["method"]
        self._grid = table.grid
        self._tower = _load(made, device)
        check_method(self._method, self._tower)
        if self._tower.weights_sha256 != made["weights_sha256"]:
            raise ValueError(f"the weights of {made['clip']} are not those the maps were made with")

    def look(self, image: bytes) -> NDArray[np.uint8]:
        """What the model sees of an encoded image: its windows, uint8 [T, 3, S, S]. Raises BadImage."""
        pixels, _, _ = see(image, self._tower, self._fit, self._tiles)
        return pixels

    def maps(self, looks: Sequence[NDArray[np.uint8]], captions: Sequence[str]) -> NDArray[np.float32]:
        """Raw maps float32 [n, G, G], as they would come out of the table, of n looks under n captions.

        A map that is not finite, which a table would not hold, comes out empty.
        """
        raw, _ = map_windows(
            self._tower,
            torch.from_numpy(np.stack(looks)),
            self._tower.encode_texts(captions),
            method=self._method,
            tiles=self._tiles,
            grid=self._grid,
        )
        values = raw.cpu().numpy()
        values[~np.isfinite(values).all(axis=(1, 2))] = 0
        return dequantise(*quantise(values))

    def score(self, caption: str) -> Score:
        """cos(image, caption) by the model that made the maps, of images float32 [k, 3, S, S] in 0..255."""
        text = self._tower.encode_texts([caption])[0]

        @torch.inference_mode()
        def cosines(images: NDArray[np.float32]) -> NDArray[np.float64]:
            parts = torch.split(torch.from_numpy(images), _BATCH)
            found = torch.cat([self._tower.encode_images(self._tower.normalise(part)) @ text for part in parts])
            return np.asarray(found.double().cpu())

        return cosines


def _load(made: dict[str, Any], device: str) -> Tower:
    clip = f"local-dir:{DEMO_CLIP}" if made["clip"] == "demo" else made["clip"]
    return load_tower(
        clip,
        made.get("pretrained"),
        device=device,
        precision=made.get("precision", "fp32"),
        size=made["image_size"],
    )
