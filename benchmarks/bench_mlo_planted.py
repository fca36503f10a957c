"""The planted task with distractors: does T find the block that the label hangs on, and is the encoder better for it?

    python benchmarks/bench_mlo_planted.py [--seeds 0 1 2 3 4] [--path drawn-relative] [--steps 160] [--unroll 8]
        [--rate 0.05] [--head solved] [--exploration 1] [--share 1] [--out FILE]

Images of ``tests/planted.py`` with a pattern in each of nine blocks, a nano model, T a number for each place. For each
seed: the mean score of the label's block and the highest of the other blocks; the share of its patches that is hidden;
and the accuracy of a logistic probe on unseen scenes, after MLO-MAE, after random masks for as many steps of the
autoencoder, and after random masks for as many FLOPs.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from mae.evaluation.probes import accuracy, logistic_predict
from mae.masks.masking import Masking
from mae.multilevel.draws import PATHS
from mae.multilevel.mlo_training import LabelledImages, MultilevelTraining
from mae.multilevel.settings import MultilevelSettings
from mae.pixels import normalise
from mae.training.settings import TrainingSettings
from mae.training.training import Batch, Training
from tests.planted import PATTERNS, Places, patterns_of, scenes
from tests.tiny_mae import nano

BATCH, BLR = 64, 2e-3


def block_of_patches(blocks: int) -> torch.Tensor:
    """The number of the block that each patch lies in, [N]."""
    side = round(blocks**0.5)
    return torch.arange(blocks).view(side, side).repeat_interleave(2, 0).repeat_interleave(2, 1).flatten()


class Task:
    """The scenes of a seed, in parts that do not overlap."""

    def __init__(self, seed: int, blocks: int) -> None:
        self.seed, self.blocks = seed, block_of_patches(blocks)
        self.size = 16 * round(blocks**0.5)
        generator = torch.Generator().manual_seed(seed)
        self.patterns = patterns_of(generator, blocks)
        self.parts = {
            name: scenes(count, self.patterns, generator)
            for name, count in (("lower", 4096), ("upper", 1024), ("probe", 2048), ("test", 2048))
        }
        self.generator = torch.Generator().manual_seed(seed + 1)

    def batch(self, part: str) -> LabelledImages:
        images, labels = self.parts[part]
        rows = torch.randint(0, len(images), (BATCH,), generator=self.generator)
        return LabelledImages(images[rows], labels[rows])

    def probe(self, model) -> float:
        """Accuracy of a probe on the mean of the patch tokens."""
        with torch.no_grad():
            found = {name: model.features(normalise(self.parts[name][0])) for name in ("probe", "test")}
        labels = self.parts["probe"][1]
        predicted, _ = logistic_predict(found["probe"], labels, found["test"], classes=PATTERNS)
        return accuracy(predicted, self.parts["test"][1])[0]


def settings_for(steps: int, seed: int) -> TrainingSettings:
    return TrainingSettings(epochs=1, batch_size=BATCH, blr=BLR * 256 / BATCH, warmup_epochs=0.05, seed=seed)


def with_random_masks(task: Task, steps: int) -> float:
    torch.manual_seed(task.seed)
    training = Training(nano(task.size, norm_pix=False), Masking(), settings_for(steps, task.seed), steps)
    for _ in range(steps):
        training.update([Batch(task.batch("lower").images)])
    return task.probe(training.model)


def with_mlo(task: Task, asked: argparse.Namespace) -> tuple[MultilevelTraining, int]:
    torch.manual_seed(task.seed)
    run = MultilevelTraining(
        nano(task.size, norm_pix=False),
        PATTERNS,
        Masking(),
        settings_for(asked.steps, task.seed),
        MultilevelSettings(
            path=asked.path,
            head=asked.head,
            unroll=(asked.unroll, 1),
            through=asked.through,
            share=asked.share,
            exploration=asked.exploration,
            masker_rate=asked.rate,
            head_rate=1e-2,
            wait=0.95 if asked.head == "solved" else 0.0,
            pool="mean",
        ),
        asked.steps,
        masker=Places(len(task.blocks)),
    )
    for _ in range(asked.steps):
        run.update(
            {
                name: [task.batch("upper" if name == "masker" else "lower") for _ in range(count)]
                for name, count in run.batches_per_step.items()
            }
        )
    flops = sum(level["flops"] for level in run.cost().values())
    return run, round(flops / run.plain_flops(task.batch("lower").images))


def cell(seed: int, asked: argparse.Namespace) -> dict[str, float]:
    task = Task(seed, asked.blocks)
    run, plain = with_mlo(task, asked)
    images = normalise(task.parts["test"][0])
    scores = run.probabilities(images[:256]).mean(0)
    hidden = run.draw_masks(images).hidden.float().mean(0)
    by_block = [scores[task.blocks == block].mean().item() for block in range(asked.blocks)]
    return {
        "seed": seed,
        "label": by_block[0],
        "others": by_block[1:],
        "hidden": hidden[task.blocks == 0].mean().item(),
        "learned": run.learned,
        "steps": asked.steps * asked.unroll,
        "plain_steps": plain,
        "mlo": task.probe(run.model),
        "random": with_random_masks(task, asked.steps * asked.unroll),
        "random_flops": with_random_masks(task, plain),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--path", default="drawn-relative", choices=PATHS)
    parser.add_argument("--head", default="solved", choices=("solved", "steps"))
    for name, default in (("steps", 160), ("unroll", 8), ("through", 1), ("blocks", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("rate", 0.05), ("exploration", 1.0), ("share", 1.0)):
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    for seed in asked.seeds:
        found = cell(seed, asked)
        if asked.out:
            with asked.out.open("a") as file:
                file.write(json.dumps({"path": asked.path, "head": asked.head, "rate": asked.rate} | found) + "\n")
        others = f"{sum(found['others']) / len(found['others']):.3f}, at most {max(found['others']):.3f}"
        print(
            f"{asked.path} seed {seed}: label {found['label']:.3f}, others {others}; hidden {found['hidden']:.3f}; "
            f"accuracy mlo {found['mlo']:.3f}, random {found['random']:.3f} at {found['steps']} steps, "
            f"{found['random_flops']:.3f} at {found['plain_steps']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
