"""The maps of the benchmark: true ones, and true ones made worse on purpose.

    python benchmarks/masking/maps.py [--out FOLDER]

writes ``results/hits.json``: by map of the plan map-quality, the mean share of an object's area that lies in the 25 %
most salient patches of a whole picture.

A worse map is the true one changed in one way, by an amount that is its distance from the truth: ``blurred`` by a
Gaussian, ``moved`` in a direction that differs from image to image, or ``noisy``, mixed with smoothed noise.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift

import saliency_mae as sm

Map = NDArray[np.float64]
Worse = Callable[[Map, np.random.Generator], Map]


def blurred(true: Map, rng: np.random.Generator, *, sigma: float) -> Map:
    """``sigma`` is a fraction of the side."""
    return np.asarray(gaussian_filter(true, sigma * len(true), mode="constant"))


def moved(true: Map, rng: np.random.Generator, *, way: float) -> Map:
    """``way`` is a fraction of the side. What leaves the picture comes in on its other side."""
    angle = rng.uniform(0, 2 * np.pi)
    return np.asarray(
        shift(true, way * len(true) * np.array([np.sin(angle), np.cos(angle)]), order=1, mode="grid-wrap")
    )


def noisy(true: Map, rng: np.random.Generator, *, share: float, sigma: float = 0.06) -> Map:
    """``share`` of the map is noise as smooth as ``sigma`` of the side, both with a peak of 1."""
    noise = gaussian_filter(rng.standard_normal(true.shape), sigma * len(true), mode="wrap")
    noise = (noise - noise.min()) / np.ptp(noise)
    return (1 - share) * true / max(true.max(), 1e-12) + share * noise


@dataclass(frozen=True)
class Maps:
    """Maps of a source: its true masks, or those changed by ``worse``, or those of a CLIP."""

    source: str
    worse: Worse | None = None
    true: str | None = None
    """The name of the true maps, which ``worse`` changes."""
    clip: bool = False
    """Those of the shipped CLIP and Grad-CAM, as ``build-saliency`` makes them, instead."""


_SMALL, _LARGE = (f"shapes:4000,objects=1,size=48,radius={radius}" for radius in ("0.08-0.1", "0.15-0.23"))
_worse = partial(Maps, _SMALL, true="scenes-small")

MAPS = {
    "scenes-small": Maps(_SMALL),
    "scenes-large": Maps(_LARGE),
    "clip-small": Maps(_SMALL, clip=True, true="scenes-small"),
    "clip-large": Maps(_LARGE, clip=True, true="scenes-large"),
    "moving": Maps("shapes-video:600,objects=1,size=48,label=color"),
    "quick": Maps("shapes:256,objects=1,size=48,radius=0.15-0.23"),
    "tiny-imagenet": Maps("tiny_imagenet100/train.parquet"),
    "blurred-0.1": _worse(partial(blurred, sigma=0.1)),
    "moved-0.1": _worse(partial(moved, way=0.1)),
    "moved-0.2": _worse(partial(moved, way=0.2)),
    "noisy-0.5": _worse(partial(noisy, share=0.5)),
    "noisy-0.8": _worse(partial(noisy, share=0.8)),
}
"""By name, as the plans call them."""


def make_maps(name: str, folder: Path) -> Path:
    """The maps ``name`` in ``folder``/maps. What is there already is kept, and what was stopped half-way goes on."""
    asked, out = MAPS[name], folder / "maps" / name
    if asked.clip:
        sm.build_saliency(asked.source, out=out, quiet=True)
        return out
    if asked.worse is None or asked.true is None:
        sm.import_maps(asked.source, "masks", out=out, quiet=True)
        return out
    files = folder / "files" / name
    files.mkdir(parents=True, exist_ok=True)
    for row in sm.open_maps(make_maps(asked.true, folder)):
        rng = np.random.default_rng(zlib.crc32(row.key.encode()))
        np.save(files / f"{row.key}.npy", asked.worse(row.map.astype(np.float64), rng).astype(np.float32))
    sm.import_maps(asked.source, files, out=out, quiet=True, made_by=f"true masks, {name}")
    return out


def hits(name: str, folder: Path, side: int = 6) -> tuple[float, float]:
    """The share of an object's area in the 25 % highest of side × side patches, by its map and by another image's."""
    of_maps, of_truth = (
        torch.nn.functional.adaptive_avg_pool2d(
            torch.from_numpy(np.stack([row.map.astype(np.float32) for row in sm.open_maps(make_maps(each, folder))])),
            side,
        ).flatten(1)
        for each in (name, MAPS[name].true or name)
    )
    certain = torch.zeros_like(of_maps).scatter_(1, of_maps.topk(side * side // 4, dim=1).indices, 1)
    area = of_truth / of_truth.sum(1, keepdim=True)
    return tuple(float((area * chosen).sum(1).mean()) for chosen in (certain, certain.roll(1, 0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("masking-runs"))
    folder = parser.parse_args().out
    found = {name: round(hits(name, folder)[0], 4) for name, maps in MAPS.items() if maps.true is not None}
    found["scenes-small"], found["shuffled"] = (round(share, 4) for share in hits("scenes-small", folder))
    found["scenes-large"], found["shuffled-large"] = (round(share, 4) for share in hits("scenes-large", folder))
    place = Path(__file__).parent / "results" / "hits.json"
    place.write_text(json.dumps(found, indent=1) + "\n")
    print(f"shares in {place}")


if __name__ == "__main__":
    main()
