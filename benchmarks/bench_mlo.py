"""What an outer step of MLO-MAE costs: passes and FLOPs against theory, and seconds against plain MAE steps.

    python benchmarks/bench_mlo.py [--model tiny] [--image-size 64] [--patch-size 8] [--batch 16] [--unroll 2 1]
        [--masker gate] [--path weighted] [--rounds 5] [--device cpu] [--precision fp32]

For both hypergradients, after a warm-up: passes of each level against their theoretical number, FLOPs and seconds of an
outer step, and both again in units of a plain pretraining step on the same batch. *Overhead* is what the seconds are
above those FLOPs at the speed of the plain step. The rounds of the two methods and of plain MAE take turns, so that a
busy machine is busy for all; of several threads wall time is taken, of one the processor's own, which others can't
lengthen by much. Medians are printed.
"""

import argparse
import platform
import statistics
import time

import torch

from mae.masks.masking import Masking
from mae.models.sizes import SIZES
from mae.models.vit import MaskedAutoencoder
from mae.multilevel.draws import PATHS
from mae.multilevel.mlo_training import LabelledImages, MultilevelTraining
from mae.multilevel.nested import METHODS
from mae.multilevel.settings import MASKERS, MultilevelSettings
from mae.training.settings import TrainingSettings
from mae.training.training import Batch, Training

CLASSES = 10


def theory(method: str, unroll: tuple[int, int]) -> dict[str, tuple[int, int, int]]:
    """Forward, backward and second backward passes: a step made, and gone back over, is 1 + 2 evaluations by finite
    differences, and 1 + 1 that is differentiated again by the exact method."""
    again, second = (2, 0) if method == "finite" else (1, 1)
    mae, head = unroll[0] * unroll[1], unroll[1]
    return {
        "mae": (mae * (1 + again), mae * (1 + again), mae * second),
        "head": (head * (1 + again), head * (1 + again), head * second),
        "masker": (1, 1, 0),
    }


def labelled(batch: int, size: int) -> LabelledImages:
    return LabelledImages(
        torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8), torch.randint(0, CLASSES, (batch,))
    )


def seconds(function, device: torch.device) -> float:
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    begin = clock()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", choices=SIZES)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--unroll", type=int, nargs=2, default=(2, 1))
    parser.add_argument("--masker", default="gate", choices=MASKERS)
    parser.add_argument("--path", default="weighted", choices=PATHS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    arguments = parser.parse_args()
    device, unroll = torch.device(arguments.device), tuple(arguments.unroll)
    torch.manual_seed(0)
    settings = TrainingSettings(epochs=1, batch_size=arguments.batch, warmup_epochs=0, precision=arguments.precision)

    def model() -> MaskedAutoencoder:
        return MaskedAutoencoder.from_size(arguments.model, arguments.image_size, arguments.patch_size)

    runs = {
        method: MultilevelTraining(
            model(),
            CLASSES,
            Masking(),
            settings,
            MultilevelSettings(
                hypergradient=method,
                unroll=unroll,
                masker=arguments.masker,
                path=arguments.path,
                exploration=float(arguments.path == "drawn"),
            ),
            1000,
            device,
        )
        for method in METHODS
    }
    plain = Training(model(), Masking(), settings, 1000, device)
    batch = labelled(arguments.batch, arguments.image_size)
    batches = {name: [batch] * count for name, count in runs["finite"].batches_per_step.items()}
    steps = {method: (lambda run=run: run.update(batches)) for method, run in runs.items()}
    steps["plain"] = lambda: plain.update([Batch(batch.images)])
    for step in steps.values():
        step()  # also counts the FLOPs
    costs = {method: run.cost() for method, run in runs.items()}
    timed: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            timed[name].append(seconds(step, device))
    unit_flops = runs["finite"].plain_flops(batch.images)
    unit_seconds = statistics.median(timed["plain"])
    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    print(
        f"{machine}, torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.model} at "
        f"{arguments.image_size} px, patch {arguments.patch_size}, batch {arguments.batch}, unroll {unroll}, "
        f"{arguments.masker}, {arguments.path}, {arguments.precision}, median of {arguments.rounds}"
    )
    print(f"plain MAE step: {unit_flops / 1e9:.2f} GFLOP, {unit_seconds * 1e3:.1f} ms")
    for method in METHODS:
        expected = theory(method, unroll)
        for name, cost in costs[method].items():
            found = (cost["forward"], cost["backward"], cost["second_backward"])
            word = "as in theory" if found == expected[name] else f"theory says {expected[name]}"
            print(f"  {method:6} {name:6} forward, backward, second: {found} ({word}), {cost['flops'] / 1e9:.2f} GFLOP")
        flops, median = sum(cost["flops"] for cost in costs[method].values()), statistics.median(timed[method])
        by_flops, by_time = flops / unit_flops, median / unit_seconds
        print(
            f"{method}: {flops / 1e9:.2f} GFLOP, {median * 1e3:.1f} ms an outer step = {by_flops:.1f} plain steps by "
            f"FLOPs, {by_time:.1f} by time: overhead {by_time / by_flops - 1:+.0%}"
        )


if __name__ == "__main__":
    main()
