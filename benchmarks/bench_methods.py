"""What each saliency method costs, as a multiple of a bare forward pass, and how good its maps are.

    python benchmarks/bench_methods.py [--model ViT-B-16] [--batch 4] [--rounds 5] [--scorecam]
    python benchmarks/bench_methods.py --skip-cost --quality SOURCE CLIP [--quality SOURCE CLIP …] [--limit 600]

Cost: random weights, the same images and texts for all, in turns; the median of the rounds. ScoreCAM runs the model
once for every channel, and is measured only with ``--scorecam``: one image, one round, against a forward pass of one
image. Quality: SOURCE is any source with captions and true masks or boxes, CLIP ``demo`` (the shipped one) or what
``--clip`` takes. Every method makes the maps of the same pairs, and of the same images under other captions; both and
the centre prior are judged by what ``inspect`` judges by. Prints Markdown.
"""

import argparse
import os
import platform
import statistics
import time

import numpy as np
import open_clip
import torch
from tqdm import tqdm

from pipelines.inspect.map_scores import score_arrays
from pipelines.inspect.map_verdict import CENTRE, MAPS, SHUFFLED
from pipelines.sources.images import decode_rgb
from pipelines.sources.open_source import open_source
from saliency.methods.methods import METHODS, check_method, saliency_maps
from saliency.quality import other_captions
from saliency.towers.tower import DEMO_CLIP, Tower, load_tower

FIGURES = {"pointing": "pointing", "energy": "energy", "auc": "AUC"}
BATCH = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scorecam", action="store_true", help="measure its cost too (minutes)")
    parser.add_argument("--skip-cost", action="store_true")
    parser.add_argument("--quality", nargs=2, action="append", default=[], metavar=("SOURCE", "CLIP"))
    parser.add_argument("--limit", type=int, default=600, help="pairs of a source")
    parser.add_argument("--scorecam-limit", type=int, default=0, help="pairs of a source that ScoreCAM gets")
    arguments = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}, fp32")
    if not arguments.skip_cost:
        report_cost(arguments.model, arguments.batch, arguments.rounds)
        if arguments.scorecam:
            report_scorecam_cost(arguments.model)
    for source, clip in arguments.quality:
        report_quality(source, clip, arguments.limit, arguments.scorecam_limit)


def machine() -> str:
    name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def random_tower(name: str) -> Tower:
    model = open_clip.create_model(name)
    return Tower(model, open_clip.get_tokenizer(name))


def random_pairs(tower: Tower, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.randint(0, 256, (count, 3, tower.size, tower.size), dtype=torch.uint8)
    return pixels, tower.encode_texts([f"a photo of thing {i}" for i in range(count)])


def forward(tower: Tower, pixels: torch.Tensor) -> None:
    with torch.inference_mode():
        tower.encode_images(tower.normalise(pixels))


def report_cost(name: str, batch: int, rounds: int) -> None:
    tower = random_tower(name)
    pixels, texts = random_pairs(tower, batch)
    seconds: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    for step in range(rounds + 1):
        for method in METHODS:
            if method == "scorecam" or not can_read(method, tower):
                continue
            # the machine's pace changes all the time: each method is set against the forward pass just before it
            bare = timed(lambda: forward(tower, pixels))
            taken = timed(lambda method=method: saliency_maps(tower, pixels, texts, method=method))
            if step:  # the first round warms up
                seconds.setdefault("forward pass", []).append(bare)
                seconds.setdefault(method, []).append(taken)
                ratios.setdefault(method, []).append(taken / bare)
    print(f"\n{name}, batch {batch}, median of {rounds} rounds in turns\n")
    print("| method | pairs/s | × forward |\n|---|---|---|")
    for way, values in seconds.items():
        ratio = statistics.median(ratios.get(way, [1]))
        print(f"| `{way}` | {batch / statistics.median(values):.2f} | {ratio:.2f} |")


def can_read(method: str, tower: Tower) -> bool:
    try:
        check_method(method, tower)
    except ValueError:
        return False
    return True


def timed(run) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def report_scorecam_cost(name: str) -> None:
    tower = random_tower(name)
    pixels, texts = random_pairs(tower, 1)
    alone = statistics.median([timed(lambda: forward(tower, pixels)) for _ in range(4)][1:])
    taken = timed(lambda: saliency_maps(tower, pixels, texts, method="scorecam"))
    print(
        f"\nscorecam, 1 image, 1 round: {taken:.0f} s, {taken / alone:.0f} × a forward pass of 1 image ({alone:.2f} s)"
    )


def report_quality(spec: str, clip: str, limit: int, scorecam_limit: int) -> None:
    tower = load_tower(f"local-dir:{DEMO_CLIP}" if clip == "demo" else clip)
    source = open_source(spec, limit=limit)
    count = len(source)
    captions = [source.caption(i) for i in range(count)]
    pixels = torch.from_numpy(np.stack([tower.squash(decode_rgb(source.read_image(i))) for i in range(count)]))
    masks = [source.read_mask(i) for i in range(count)]
    texts, others = tower.encode_texts(captions), tower.encode_texts(other_captions(captions))
    share = np.mean([mask.mean() for mask in masks])
    print(f"\n{spec}, {clip} ({tower.layer.pooling}): {count} pairs, masks cover {share:.2f}\n")
    print("| method | n | " + " | ".join(f"{name} | of another caption" for name in FIGURES.values()) + " |")
    print("|---|---|" + "---|" * 2 * len(FIGURES))
    for index, method in enumerate(METHODS):
        n = scorecam_limit if method == "scorecam" else count
        if not n or not can_read(method, tower):
            continue
        own = make_maps(tower, pixels[:n], texts[:n], method)
        map_scores = score_arrays(own, masks[:n], shuffled=make_maps(tower, pixels[:n], others[:n], method))
        if index == 0:
            print_row("centre prior", map_scores.judged, map_scores.figures[CENTRE], None)
        print_row(f"`{method}`", map_scores.judged, map_scores.figures[MAPS], map_scores.figures[SHUFFLED])


def make_maps(tower: Tower, pixels: torch.Tensor, texts: torch.Tensor, method: str) -> np.ndarray:
    parts = []
    for start in tqdm(range(0, len(pixels), BATCH), desc=method, leave=False):
        batch = slice(start, start + BATCH)
        parts.append(saliency_maps(tower, pixels[batch], texts[batch], method=method)[0].numpy())
    return np.concatenate(parts)


def print_row(name, judged, figures, shuffled) -> None:
    cells = []
    for figure in FIGURES:
        cells += [str(figures[figure]), f"{shuffled[figure].mean:.3f}" if shuffled else "–"]
    print(f"| {name} | {judged} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
