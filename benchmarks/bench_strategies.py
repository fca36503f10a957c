"""What every masking strategy costs: a training step with each of them beside a step with random masks.

    python benchmarks/bench_strategies.py [--models base tiny] [--only NAME …] [--batch N] [--rounds N] [--device cpu]
                                          [--precision auto] [--json FILE] [--markdown FILE]

A step is that of ``bench_step.py``: normalising uint8 images, drawing masks, forward, backward and AdamW, at 224 pixels
with 75 % hidden and normalised targets. All strategies train one and the same model, a step each in turns, in a new
order every round; a ratio is the median over the rounds of the quotient within a round, with the quartiles. The row
*random again* is random masking a second time: how far it is from 1 is what the machine's noise does to a ratio.
Learners are as ``pretrain`` makes them. Operations are the products of matrices of an image, as ``mae.training.flops``
counts them, and the learner's beside. Weights are random, images and maps are noise, and reading images is not in it.
"""

import argparse
import dataclasses
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from bench_step import BATCHES, MASK_RATIO, ROUNDS, SIDE, Setting, Way, machine, measure, our_training, quotient

from mae.mask_learners.gate import gate_width
from mae.mask_learners.gate_training import GateSettings
from mae.mask_learners.learner import MaskLearner
from mae.masks.masking import Masking
from mae.masks.strategies import STRATEGIES, blind, learned
from mae.models.sizes import SIZES
from mae.models.vit import MaskedAutoencoder
from mae.precision import resolve_precision
from mae.training.flops import training_flops
from mae.training.training import Batch
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.settings import new_learner

RANDOM, AGAIN, WEIGHTED = "random", "random again", "random, errors weighted by saliency"


class Strategy(NamedTuple):
    """What a step needs to know of a way to mask."""

    masking: Masking
    learner: MaskLearner | None
    weight: float
    flops: int | None
    """Of an image, beside the model's own; None where nobody has counted."""


def strategies(setting: Setting, model: MaskedAutoencoder, only: list[str] | None) -> dict[str, Strategy]:
    of_images = [name for name in blind() if name != "tube"]
    found = {name: Strategy(Masking(name, MASK_RATIO), None, 0.0, 0) for name in of_images}
    found[AGAIN] = found[RANDOM]
    found[WEIGHTED] = found[RANDOM]._replace(weight=1.0)
    for name in learned():
        if STRATEGIES[name].levels:  # takes steps of its own: bench_mlo.py
            continue
        if only is None or name in only:
            options = PretrainOptions("", Path(), masking=name)
            learner = new_learner(options, model, setting.device)
            count = LEARNER_FLOPS.get(name)
            found[name] = Strategy(Masking(mask_ratio=MASK_RATIO), learner, 0.0, count(model) if count else None)
    return {name: strategy for name, strategy in found.items() if only is None or name in (RANDOM, *only)}


def way(setting: Setting, strategy: Strategy) -> Way:
    training = our_training(setting, False)
    patches = training.model.grid[0] * training.model.grid[1]
    settings = dataclasses.replace(training.settings, saliency_weight=strategy.weight)
    batch = Batch(setting.images, torch.rand(len(setting.images), patches))

    def step():
        training.masking, training.settings, training.learner = strategy.masking, settings, strategy.learner
        training.update([batch])

    return Way(step, training_flops(training.model, MASK_RATIO) + (strategy.flops or 0))


def block_flops(tokens: int, width: int) -> int:
    return 2 * tokens * (12 * width**2 + 2 * tokens * width)


def embedding_flops(model: MaskedAutoencoder) -> int:
    rows, columns = model.grid
    return 2 * rows * columns * model.patch_size**2 * model.channels * model.pos_embed.shape[-1]


def attention_flops(model: MaskedAutoencoder) -> int:
    """A forward pass of the whole image through all blocks but the last, and the last one's keys."""
    tokens, width = 1 + model.grid[0] * model.grid[1], model.pos_embed.shape[-1]
    blocks = (len(model.blocks) - 1) * block_flops(tokens, width)
    return embedding_flops(model) + blocks + 2 * (tokens + 1) * width**2 + 2 * tokens * width


def network_flops(model: MaskedAutoencoder) -> int:
    """Forward and backward of the gate's network on an image."""
    patches, features = model.grid[0] * model.grid[1], model.pos_embed.shape[-1]
    width = gate_width(features)
    return 3 * (2 * patches * features * width + 2 * block_flops(patches, width))


def gate_flops(model: MaskedAutoencoder) -> int:
    """Of an image that is scored, from a share of which the gate learns in two views."""
    share, embedding, network = GateSettings().share, embedding_flops(model), network_flops(model)
    return round((1 + share) * embedding + (1 / 3 + 2 * share) * network)


LEARNER_FLOPS: dict[str, Callable[[MaskedAutoencoder], int]] = {
    "attention-high": attention_flops,
    "attention-hint": attention_flops,
    "hard": lambda model: embedding_flops(model) + network_flops(model),
    "gate": gate_flops,
}


def report(name: str, arguments, device: torch.device) -> dict:
    count = arguments.batch or BATCHES[device.type].get(name, 256)
    precision = resolve_precision(arguments.precision, device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator).to(device)
    setting = Setting(name, images, precision)
    our_training.cache_clear()
    found = strategies(setting, our_training(setting, False).model, arguments.only)
    ways = {each: way(setting, strategy) for each, strategy in found.items()}
    rounds = arguments.rounds or ROUNDS[device.type]
    seconds = measure(ways, rounds, 1 if device.type == "cpu" else 10, device)
    rows = {
        each: {
            "seconds": statistics.median(times),
            "flops_per_image": None if found[each].flops is None else ways[each].flops,
            "times_random": quotient(times, seconds[RANDOM]),
        }
        for each, times in seconds.items()
    }
    return {"model": name, "batch": count, "precision": precision, "rounds": rounds, "rows": rows}


def to_markdown(found: dict) -> str:
    lines = [
        f"{found['model']}, batch {found['batch']}, {found['precision']}, median of {found['rounds']} rounds",
        "",
        "| masking | seconds a step | GFLOP an image | time, in steps of random (quartiles) |",
        "|---|---|---|---|",
    ]
    for each, row in found["rows"].items():
        flops = "–" if row["flops_per_image"] is None else f"{row['flops_per_image'] / 1e9:.1f}"
        ratio = row["times_random"]
        shown = "1" if each == RANDOM else f"{ratio['median']:.3f} ({ratio['low']:.3f}–{ratio['high']:.3f})"
        lines.append(f"| {each} | {row['seconds']:.4f} | {flops} | {shown} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SIZES, help="base and tiny; base and large on a GPU")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these strategies, beside random")
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print(machine(device), flush=True)
    tables, found = [], []
    for name in arguments.models or (("base", "large") if device.type == "cuda" else ("base", "tiny")):
        found.append(report(name, arguments, device))
        tables.append(to_markdown(found[-1]))
        print("\n" + tables[-1], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(device), "models": found}, indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text("\n".join([machine(device) + "\n", *tables]))


if __name__ == "__main__":
    main()
