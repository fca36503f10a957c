"""How true the maps of each saliency method are to their CLIP, by its own score when pixels and captions change.

    python benchmarks/bench_faithful.py [SOURCE CLIP …] [--limit 100] [--blurs]

SOURCE is any source with captions (built-in scenes if not given), CLIP ``demo`` (the shipped one) or what ``--clip``
takes. ``--limit`` pairs, evenly spaced, are judged as ``inspect --faithful`` does: insertion and deletion, SaCo, and
captions that name another object. Every method sees the same pairs, and the controls are measured once. ↑ and ↓ mark
figures whose paired difference from the random map has an interval above or below zero. ScoreCAM, which runs the model
once for every channel, is left out. ``--blurs`` says instead how high cos(image, caption) is after Gaussians of several
widths. Prints Markdown.
"""

import argparse
from functools import partial

import numpy as np
import torch
from bench_methods import can_read, machine, make_maps
from tqdm import tqdm

from pipelines.inspect.faithful import FaithTally, SwapTally, measure_rows, named_captions, swap_figures
from pipelines.inspect.faithful_verdict import ABSENT, FIGURES, INVERTED, ORACLE, OWN, PRESENT, RANDOM
from pipelines.inspect.map_scores import evenly_spaced
from pipelines.inspect.map_verdict import CENTRE, Estimate
from pipelines.sources.images import decode_rgb
from pipelines.sources.open_source import open_source
from pipelines.sources.source import Source, Swap
from saliency.faithfulness import blurred, mean_colour
from saliency.maps import FULL
from saliency.methods.methods import METHODS
from saliency.quality import other_captions
from saliency.towers.tower import DEMO_CLIP, Tower, load_tower

SCENES = ("shapes:1000,split=test,objects=2-3", "demo")
CONTROLS = (ORACLE, CENTRE, RANDOM, INVERTED)
BLURS = {"none": 0.0, "5/224, as RISE": 5 / 224, "0.05": 0.05, "0.1": 0.1, "0.2": 0.2, "mean colour": np.inf}
"""Deviations in sides of the square."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", metavar="SOURCE CLIP", default=SCENES)
    parser.add_argument("--limit", type=int, default=100, help="pairs of a source")
    parser.add_argument("--blurs", action="store_true")
    arguments = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}, fp32")
    for spec, clip in zip(arguments.pairs[::2], arguments.pairs[1::2], strict=True):
        tower = load_tower(f"local-dir:{DEMO_CLIP}" if clip == "demo" else clip)
        source = open_source(spec)
        source = source.select(evenly_spaced(np.arange(len(source)), arguments.limit))
        print(f"\n{spec}, {clip} ({tower.layer.pooling}): {len(source)} pairs\n")
        (report_blurs if arguments.blurs else report)(tower, source)


def read(tower: Tower, source: Source) -> tuple[torch.Tensor, list[str]]:
    pixels = np.stack([tower.squash(decode_rgb(source.read_image(i))) for i in range(len(source))])
    return torch.from_numpy(pixels), source.captions.to_pylist()


def report_blurs(tower: Tower, source: Source) -> None:
    pixels, captions = read(tower, source)
    images = pixels.numpy().astype(np.float32)
    rows = []
    for name, width in BLURS.items():
        change = mean_colour if width == np.inf else partial(blurred, blur=width)
        seen = [change(image) for image in images]
        cosines = [score_of(tower, text)(image[None])[0] for text, image in zip(captions, seen, strict=True)]
        rows.append([name, f"{np.mean(cosines):.3f}"])
    print_table(["baseline", "cos(image, caption)"], rows)


def report(tower: Tower, source: Source) -> None:
    pixels, captions = read(tower, source)
    others = other_captions(captions)
    swaps = [source.swap(i) or Swap(others[i]) for i in range(len(source))]
    methods = [method for method in METHODS if method != "scorecam" and can_read(method, tower)]
    maps = {method: caption_maps(tower, pixels, captions, swaps, method) for method in methods}
    faithful, swapped = FaithTally(), {method: SwapTally() for method in methods}
    for i in tqdm(range(len(source)), desc=source.name, leave=False):
        mask, image = source.read_mask(i), pixels[i].numpy().astype(np.float32)
        named = named_captions(captions[i], swaps[i])
        cosines = {row: float(score_of(tower, text)(image[None])[0]) for row, text in named.items()}
        own = {method: made[OWN][i] for method, made in maps.items()}
        faithful.measure(i, measure_rows(image, score_of(tower, captions[i]), own, FULL, mask, seed=(0, i)))
        for method, made in maps.items():
            pair = {row: made[row][i] for row in named}
            swapped[method].add(i, swap_figures(pair, cosines, FULL, mask, swaps[i].mask))
    print_table(["method", *FIGURES.values()], faithful_rows(faithful, methods))
    print_table(["method", "own caption", "another", "moved", "left", "fading", "weaker"], swap_rows(swapped))


def caption_maps(tower, pixels, captions, swaps, method) -> dict[str, np.ndarray]:
    """Maps of all images under each caption; where there is no other object in an image, its own caption again."""
    texts = {OWN: captions, ABSENT: [swap.absent for swap in swaps]}
    texts[PRESENT] = [swap.present or caption for swap, caption in zip(swaps, captions, strict=True)]
    if texts[PRESENT] == captions:
        del texts[PRESENT]
    return {row: make_maps(tower, pixels, tower.encode_texts(some), method) for row, some in texts.items()}


def score_of(tower: Tower, caption: str):
    text = tower.encode_texts([caption])[0]

    @torch.inference_mode()
    def score(images: np.ndarray) -> np.ndarray:
        return (tower.encode_images(tower.normalise(torch.from_numpy(images))) @ text).double().cpu().numpy()

    return score


def faithful_rows(tally: FaithTally, methods: list[str]):
    for row in (*CONTROLS, *methods):
        if found := tally.figures(row):
            name = f"{row} (`{methods[0]}`)" if row == INVERTED else f"`{row}`" if row in methods else row
            apart = tally.differences(row, RANDOM)
            marks = {
                figure: "↑" if each.above_zero else "↓" if each.below_zero else "" for figure, each in apart.items()
            }
            yield [name, *(f"{found[figure]} {marks[figure]}".strip() for figure in FIGURES)]


def mark(difference: Estimate) -> str:
    return "↑" if difference.above_zero else "↓" if difference.below_zero else ""


def swap_rows(tallies: dict[str, SwapTally]):
    for method, tally in tallies.items():
        found = tally.scores(known=True)
        on_other = [found.figures.get(row, {}).get("on_other", "–") for row in (OWN, PRESENT)]
        effects = [found.effects[name].signed() if name in found.effects else "–" for name in ("moved", "left")]
        yield [f"`{method}`", *map(str, on_other), *effects, found.effects["fading"].signed(), found.effects["weaker"]]


def print_table(heading, rows) -> None:
    print(f"| {' | '.join(heading)} |\n|{'---|' * len(heading)}")
    for cells in rows:
        print(f"| {' | '.join(map(str, cells))} |")
    print(flush=True)


if __name__ == "__main__":
    main()
