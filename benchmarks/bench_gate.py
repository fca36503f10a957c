"""How well a gate finds objects, by what it reads and learns: AUC of its scores against true masks or boxes.

    python benchmarks/bench_gate.py TRAIN --judge NAME=SOURCE[,SOURCE…] [--judge …] --json FILE
                                    [--images N] [--judged N] [--steps N] [--seeds N] [--only WAY …] [--model mini]

Every way to train a gate trains with its autoencoder, both from random weights, with the same images in the same order.
Images are squashed to the model's size and half of them mirrored. AUC is that of ``inspect --gate``: per image, each
pixel with its patch's score, the mean over images. Beside the gates stand the centre prior, and the boundary prior
alone: each patch's distance from the frame of its image in the patch embeddings of the autoencoder, nothing learnt.
Results are added to FILE as they come, and what it holds is not computed again. Processor time is that of the training
alone.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from mae.mask_learners.gate_loss import background_distance, frame_of
from mae.masks.masking import Masking
from mae.models.sizes import SIZES
from mae.models.vit import MaskedAutoencoder
from mae.pixels import normalise
from mae.training.settings import TrainingSettings
from mae.training.training import Batch, Training
from pipelines.inspect.map_scores import evenly_spaced, score_arrays
from pipelines.inspect.map_verdict import CENTRE, MAPS
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.settings import new_learner
from pipelines.sources.images import decode_rgb
from pipelines.sources.open_source import open_source
from pipelines.sources.source import Source
from pipelines.views.geometry import View, view_image

SLOTS = {"gate_slots": 64}
WAYS = {
    "patches": {},
    "patches, no contrast": {"gate_contrast": 0.0},
    "patches, slots": SLOTS,
    "patches with places": {"gate_positions": True},
    "patches with places, slots": {"gate_positions": True} | SLOTS,
    "middle": {"gate_reads": "middle"},
    "middle, slots": {"gate_reads": "middle"} | SLOTS,
    "middle-all": {"gate_reads": "middle-all"},
    "middle-all, slots": {"gate_reads": "middle-all"} | SLOTS,
}
BLR, BATCH, SIDE, PATCH = 3e-3, 128, 64, 8
BOUNDARY = "boundary prior"


def read(sources: list[Source], count: int, masks: bool) -> tuple[torch.Tensor, list]:
    """At most ``count`` images, evenly spaced, uint8 [n, 3, SIDE, SIDE], and the masks of these."""
    images, found = [], []
    for source in sources:
        for pair in evenly_spaced(np.arange(len(source)), max(count // len(sources), 1)).tolist():
            mask = source.read_mask(pair) if masks else None
            if masks and (mask is None or not 0 < mask.mean() < 1):
                continue
            images.append(view_image(decode_rgb(source.read_image(pair)), View(), (SIDE, SIDE)))
            found.append(mask)
    return torch.from_numpy(np.stack(images)), found


def auc(scores: torch.Tensor, masks: list, grid: tuple[int, int]) -> tuple[float, float]:
    """Of scores [n, N], and of the centre prior."""
    maps = torch.sigmoid(scores.double()).reshape(-1, *grid).float().numpy()
    figures = score_arrays(maps, iter(masks)).figures
    return figures[MAPS]["auc"].mean, figures[CENTRE]["auc"].mean


def train(arguments: argparse.Namespace, way: str, seed: int, images: torch.Tensor) -> tuple[Training, float]:
    torch.manual_seed(seed)
    model = MaskedAutoencoder.from_size(arguments.model, SIDE, PATCH)
    options = PretrainOptions("", Path(), masking="gate", **WAYS[way])
    learner = new_learner(options, model, torch.device("cpu"))
    per_epoch = len(images) // BATCH
    epochs = -(-arguments.steps // per_epoch)
    settings = TrainingSettings(epochs=epochs, batch_size=BATCH, blr=BLR, seed=seed, precision="fp32")
    training = Training(model, Masking(mask_ratio=0.75), settings, per_epoch, torch.device("cpu"), None, learner)
    generator, began = torch.Generator().manual_seed(seed), time.process_time()
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator)[: per_epoch * BATCH].split(BATCH):
            batch = images[rows]
            flip = torch.rand(BATCH, generator=generator) < 0.5
            training.update([Batch(torch.where(flip[:, None, None, None], batch.flip(3), batch))])
    return training, time.process_time() - began


@torch.no_grad()
def judge(training: Training, judged: dict[str, tuple[torch.Tensor, list]]) -> dict[str, dict[str, float]]:
    """AUC of the gate, of the centre prior and of the boundary prior, by the name of what is judged."""
    model, grid, found = training.model.eval(), training.model.grid, {}
    for name, (images, masks) in judged.items():
        parts, distances = [], []
        for part in images.split(256):
            pixels = normalise(part)
            parts.append(training.learner.scores(pixels, grid))
            half = torch.full((len(part), grid[0] * grid[1]), 0.5)
            distances.append(background_distance(half, model.embed(pixels), frame_of(grid), with_itself=True))
        gate, centre = auc(torch.cat(parts), masks, grid)
        found[name] = {"gate": gate, "centre prior": centre, BOUNDARY: auc(torch.cat(distances), masks, grid)[0]}
    return found


def to_markdown(rows: list[dict], names: list[str]) -> str:
    lines = ["| gate | " + " | ".join(names) + " | processor seconds |", "|---" * (len(names) + 2) + "|"]
    for prior in ("centre prior", BOUNDARY):
        values = [f"{statistics.mean(row['auc'][name][prior] for row in rows):.3f}" for name in names]
        lines.append(f"| {prior} | " + " | ".join(values) + " | |")
    for way in dict.fromkeys(row["way"] for row in rows):
        own = sorted((row for row in rows if row["way"] == way), key=lambda row: row["seed"])
        values = [" ".join(f"{row['auc'][name]['gate']:.3f}" for row in own) for name in names]
        seconds = statistics.mean(row["seconds"] for row in own)
        lines.append(f"| {way} | " + " | ".join(values) + f" | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("--judge", action="append", required=True, metavar="NAME=SOURCE[,SOURCE…]")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--judged", type=int, default=600)
    parser.add_argument("--steps", type=int, default=312)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--model", choices=SIZES, default="mini")
    arguments = parser.parse_args()
    images, _ = read([open_source(arguments.train)], arguments.images, masks=False)
    judged = {}
    for each in arguments.judge:
        name, _, places = each.partition("=")
        judged[name] = read([open_source(place) for place in places.split(",")], arguments.judged, masks=True)
        print(f"{name}: {len(judged[name][1])} images", flush=True)
        small = [index for index, mask in enumerate(judged[name][1]) if mask.mean() < 0.35]
        if 0 < len(small) < len(judged[name][1]) / 2:
            judged[f"small {name}"] = (judged[name][0][small], [judged[name][1][index] for index in small])
    for seed in range(arguments.seeds):
        for way in arguments.only:
            lines = arguments.json.read_text().splitlines() if arguments.json.exists() else []
            rows = [json.loads(line) for line in lines]
            if any((row["way"], row["seed"]) == (way, seed) for row in rows):
                continue
            training, seconds = train(arguments, way, seed, images)
            row = {"way": way, "seed": seed, "seconds": seconds, "auc": judge(training, judged)}
            with arguments.json.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print("\n" + to_markdown([*rows, row], list(judged)), flush=True)


if __name__ == "__main__":
    main()
