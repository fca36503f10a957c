"""Features from a share of the patches: images or clips a second against all of them, in turns.

    python benchmarks/bench_keep.py [--models mini:64:8:64 tiny:224:16:16 base:224:16:8] [--keep 0.75 0.5 0.25]

``NAME:SIDE:PATCH:BATCH``, or ``NAME:SIDE:PATCH:BATCH:FRAMES`` of a model of video. Random weights; the gate that
chooses is one of the model's width. Medians of the processor times of the rounds.
"""

import argparse
import platform
import statistics
import time

import torch

from mae.evaluation.kept_encoder import CHOOSERS, KeptEncoder
from mae.mask_learners.gate import Gate
from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder


def seconds(encoder: KeptEncoder, images: torch.Tensor) -> float:
    clock = time.perf_counter if images.is_cuda else time.process_time
    started = clock()
    encoder.features(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return clock() - started


def measure(model_name: str, shares: list[float], rounds: int, device: str) -> None:
    name, *numbers = model_name.split(":")
    side, patch, batch, *frames = map(int, numbers)
    torch.manual_seed(0)
    model = MaskedAutoencoder.from_size(name, side, patch)
    if frames:
        model = VideoMaskedAutoencoder.from_size(name, side, patch, frames=frames[0])
    model = model.to(device).eval()
    gate = Gate(model.pos_embed.shape[-1]).to(device).eval()
    images = torch.randn(batch, 3, *frames, side, side, device=device)
    encoders = {(1.0, "all"): KeptEncoder(model, 1.0, "random")}
    encoders |= {(share, by): KeptEncoder(model, share, by, gate) for share in shares for by in CHOOSERS}
    for encoder in encoders.values():
        encoder.features(images)
    times: dict[tuple[float, str], list[float]] = {key: [] for key in encoders}
    for _ in range(rounds):
        for key, encoder in encoders.items():
            times[key].append(seconds(encoder, images))
    whole = statistics.median(times.pop((1.0, "all")))
    print(f"{model_name}: all patches {1e3 * whole / batch:.1f} ms each")
    for (share, by), found in times.items():
        each = statistics.median(found)
        print(f"  keep {share:g} by {by}: {1e3 * each / batch:.1f} ms, {whole / each:.2f} times as many")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["mini:64:8:64", "tiny:224:16:16", "base:224:16:8"])
    parser.add_argument("--keep", type=float, nargs="*", default=[0.75, 0.5, 0.25])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, n {arguments.rounds}")
    for model in arguments.models:
        measure(model, arguments.keep, arguments.rounds, arguments.device)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
