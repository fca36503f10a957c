"""Features from a share of the patches: images a second against all of them, in turns.

    python benchmarks/bench_keep.py [--models mini:64:8:64 tiny:224:16:16 base:224:16:8] [--keep 0.75 0.5 0.25]

``NAME:SIDE:PATCH:BATCH``. Random weights; the gate that chooses is one of the model's width. Medians of the rounds.
"""

import argparse
import platform
import statistics
import time

import torch

from mae.evaluation.kept_encoder import CHOOSERS, KeptEncoder
from mae.mask_learners.gate import Gate
from mae.models.vit import MaskedAutoencoder


def seconds(encoder: KeptEncoder, images: torch.Tensor) -> float:
    started = time.perf_counter()
    encoder.features(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(name: str, side: int, patch: int, batch: int, shares: list[float], rounds: int, device: str) -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder.from_size(name, side, patch).to(device).eval()
    gate = Gate(model.pos_embed.shape[-1]).to(device).eval()
    images = torch.randn(batch, 3, side, side, device=device)
    encoders = {(1.0, "all"): KeptEncoder(model, 1.0, "random")}
    encoders |= {(share, by): KeptEncoder(model, share, by, gate) for share in shares for by in CHOOSERS}
    for encoder in encoders.values():
        encoder.features(images)
    times: dict[tuple[float, str], list[float]] = {key: [] for key in encoders}
    for _ in range(rounds):
        for key, encoder in encoders.items():
            times[key].append(seconds(encoder, images))
    whole = statistics.median(times.pop((1.0, "all")))
    print(f"{name} {side}/{patch}, batch {batch}: all patches {batch / whole:.1f} images/s")
    for (share, by), found in times.items():
        print(f"  keep {share:g} by {by}: {whole / statistics.median(found):.2f} times as many")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["mini:64:8:64", "tiny:224:16:16", "base:224:16:8"])
    parser.add_argument("--keep", type=float, nargs="*", default=[0.75, 0.5, 0.25])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, n {arguments.rounds}")
    for model in arguments.models:
        name, *numbers = model.split(":")
        measure(name, *map(int, numbers), arguments.keep, arguments.rounds, arguments.device)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
