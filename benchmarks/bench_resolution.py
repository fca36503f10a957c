"""What a larger input and overlapping windows buy: maps against true masks, each variant beside the plain map.

    python benchmarks/bench_resolution.py [--judge CLIP SOURCE]... [--limit 600] [--small 0.25] [--method gradcam]

CLIP is ``demo`` (the shipped one) or what ``--clip`` takes as hf-hub:… or local-dir:…; SOURCE is any source with true
masks or boxes. Without ``--judge``: the shipped CLIP on 300 unseen scenes with two or three objects. Prints a Markdown
table for all objects and one for the small ones (under that share of the image, if there are 30), with half the width
of the 95 % bootstrap interval over images; ↑ and ↓ mark figures whose paired difference from the plain map has an
interval above or below zero. The cost is the processor time of a map over that of a plain one, in the same run
(medians over batches of 32).
"""

import argparse
import platform
import statistics
import time
from dataclasses import dataclass, field

import numpy as np
import torch

from pipelines.sources.images import decode_rgb
from pipelines.sources.open_source import open_source
from saliency.maps import FULL
from saliency.methods.windows import finest_grid, map_windows, squash_windows, windows
from saliency.names import FIGURES
from saliency.quality import (
    PixelScores,
    best_threshold,
    bootstrap_intervals,
    centre_prior,
    lay_on_image,
    score_pixels,
)
from saliency.towers.tower import DEMO_CLIP, load_tower

BATCH = 32
FEWEST_SMALL = 30


@dataclass(frozen=True)
class Variant:
    """How maps are made: the input's side over the model's own, tiles a side, and whether on the plain map's grid."""

    name: str
    scale: float = 1.0
    tiles: int = 1
    plain_grid: bool = False


PLAIN = Variant("plain")
VARIANTS = (
    PLAIN,
    Variant("clip-size ×1.5", scale=1.5),
    Variant("clip-size ×2", scale=2),
    Variant("tiles 2", tiles=2),
    Variant("tiles 3", tiles=3),
    Variant("tiles 3, stored on the plain grid", tiles=3, plain_grid=True),
    Variant("clip-size ×1.5, tiles 2", scale=1.5, tiles=2),
    Variant("clip-size ×2, tiles 3", scale=2, tiles=3),
)


@dataclass
class Found:
    """The scores of a variant's maps, the grid they have, and the seconds a map took, by batch."""

    grid: int = 0
    seconds: list[float] = field(default_factory=list)
    scores: list[PixelScores] = field(default_factory=list)

    def columns(self, chosen):
        """The figures of the chosen maps, float64 [n, 4], the IoU at their best threshold."""
        scores = [self.scores[i] for i in chosen]
        best = best_threshold(np.stack([score.iou for score in scores]))
        return np.asarray(
            [[score.iou[best] if name == "iou" else getattr(score, name) for name in FIGURES] for score in scores]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", nargs=2, action="append", metavar=("CLIP", "SOURCE"))
    parser.add_argument("--limit", type=int, default=600)
    parser.add_argument("--small", type=float, default=0.25)
    parser.add_argument("--method", default="gradcam")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = platform.processor() or platform.machine()
    print(f"{machine}, one thread, fp32, torch {torch.__version__}; method {arguments.method}")
    for clip, source in arguments.judge or [("demo", "shapes:300,split=test,objects=2-3")]:
        judge(clip, source, arguments)


def judge(clip, source_name, arguments) -> None:
    source = open_source(source_name, limit=arguments.limit)
    masks = {i: source.read_mask(i) for i in range(len(source))}
    pairs = [i for i, mask in masks.items() if mask is not None and mask.any()]
    shares = np.asarray([masks[i].mean() for i in pairs])
    found = {variant.name: run(variant, clip, source, pairs, masks, arguments.method) for variant in VARIANTS}
    prior = Found(scores=[score_pixels(centre_prior(masks[i].shape), masks[i]) for i in pairs])
    print(f"\n{clip} on {source_name}: {len(pairs)} objects, median {np.median(shares):.2f} of the image")
    print_table(found, prior, np.arange(len(pairs)))
    small = np.flatnonzero(shares < arguments.small)
    if FEWEST_SMALL <= len(small) < len(pairs):
        print(f"\nthe {len(small)} of them under {arguments.small:g} of the image")
        print_table(found, prior, small)


def run(variant, clip, source, pairs, masks, method) -> Found:
    name = f"local-dir:{DEMO_CLIP}" if clip == "demo" else clip
    plain = load_tower(name)
    step = plain.size // max(plain.grid)
    tower = load_tower(name, size=round(variant.scale * plain.size / step) * step)
    grid = max(plain.grid) if variant.plain_grid else finest_grid(max(tower.grid), variant.tiles)
    found = Found(grid)
    for start in range(0, len(pairs), BATCH):
        chosen = pairs[start : start + BATCH]
        texts = tower.encode_texts([source.caption(i) for i in chosen])
        looks = [squash_windows(tower, decode_rgb(source.read_image(i)), FULL, variant.tiles) for i in chosen]
        pixels = torch.from_numpy(np.stack(looks))
        started = time.process_time()  # other programs on the machine do not count
        maps, _ = map_windows(tower, pixels, texts, method=method, tiles=variant.tiles, grid=grid)
        found.seconds.append((time.process_time() - started) / len(chosen))
        for i, values in zip(chosen, maps.numpy(), strict=True):
            found.scores.append(score_pixels(lay_on_image(values, masks[i].shape), masks[i]))
    return found


def print_table(found, prior, chosen) -> None:
    plain = found[PLAIN.name].columns(chosen)
    print("| maps | grid | passes | cost | pointing | energy | IoU | AUC |\n|---|---|---|---|---|---|---|---|")
    for variant in VARIANTS:
        one = found[variant.name]
        cost = statistics.median(one.seconds) / statistics.median(found[PLAIN.name].seconds)
        start = f"| {variant.name} | {one.grid}×{one.grid} | {len(windows(variant.tiles))} | {cost:.1f} |"
        print(start, " | ".join(cells(one.columns(chosen), plain)), "|")
    print("| centre prior | | | |", " | ".join(cells(prior.columns(chosen), plain)), "|")


def cells(columns, plain):
    low, high = bootstrap_intervals(columns)
    below, above = bootstrap_intervals(columns - plain)
    for mean, half, least, most in zip(columns.mean(0), (high - low) / 2, below, above, strict=True):
        yield f"{mean:.3f} ± {half:.3f}" + (" ↑" if least > 0 else " ↓" if most < 0 else "")


if __name__ == "__main__":
    main()
