"""What the gate costs beside the step it joins: the same step with random masks, in turns.

    python benchmarks/bench_gate.py [--models tiny:48:8:32 base:224:16:16] [--rounds 7] [--device cpu]

``NAME:SIDE:PATCH:BATCH``. Prints the parameters, the operations (matrix products as torch's FlopCounter counts them,
forward and backward) and the median seconds of the autoencoder's step and of all that the gate adds to it (second view,
patch embeddings, its own forward and backward pass, optimiser, masks), and their ratio.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from mae.gate import Gate
from mae.gate_training import GateSettings, GateTraining
from mae.masking import Masking
from mae.training import Batch, Training, TrainingSettings, normalise
from mae.vit import MaskedAutoencoder


def seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def operations(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def measure(name: str, side: int, patch: int, batch: int, rounds: int, device: torch.device) -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder.from_size(name, side, patch)
    training = Training(model, Masking(), TrainingSettings(batch_size=batch, blr=1e-3), 1000, device)
    width = model.pos_embed.shape[-1]
    gate = GateTraining(Gate(width), model.patch_embed, GateSettings(), model.grid, device)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)

    def step() -> None:
        training.update([Batch(images)])

    def added() -> None:
        generator = torch.Generator().manual_seed(0)
        logits, _ = gate.look(normalise(images), generator)
        gate.masks(logits, 0.75, generator)
        gate.apply(1.0)

    for work in (step, added):
        work()
    counted = [operations(work) for work in (step, added)]
    times = [(seconds(step, device), seconds(added, device)) for _ in range(rounds)]
    usual, extra = (statistics.median(column) for column in zip(*times, strict=True))
    parameters = sum(p.numel() for p in gate.gate.parameters())
    print(
        f"{name} {side}/{patch}, batch {batch}: gate {parameters / 1e6:.2f} M parameters; "
        f"{counted[0]:.1f} + {counted[1]:.1f} GFLOP ({counted[1] / counted[0]:.1%}); "
        f"{usual * 1e3:.0f} + {extra * 1e3:.0f} ms ({extra / usual:.1%})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["tiny:48:8:32", "small:224:16:8", "base:224:16:8"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, n {arguments.rounds}")
    for model in arguments.models:
        name, *numbers = model.split(":")
        measure(name, *map(int, numbers), arguments.rounds, torch.device(arguments.device))


if __name__ == "__main__":
    main()
