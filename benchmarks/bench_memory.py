"""Memory of build-saliency over many pairs: resident megabytes at every tenth of the way.

    python benchmarks/bench_memory.py [--pairs 50000] [--clip local-dir:…]

Built-in scenes, drawn as they are read, through the shipped CLIP (or another). Prints the resident memory, the greatest
seen in each tenth of the run, and how much the second half's peak is above the first's: the first still warms up.
"""

import argparse
import platform
import resource
import tempfile
import threading
import time
from pathlib import Path

import torch

from pipelines.build.build_saliency import build_saliency
from pipelines.build.job import BuildOptions
from pipelines.build.stages import Stages

TENTHS = 10


def resident():
    """Megabytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=50_000)
    parser.add_argument("--clip")
    arguments = parser.parse_args()
    stages, peaks, over = Stages(), [0.0] * TENTHS, threading.Event()

    def watch():
        while not over.wait(0.2):
            tenth = min(stages.pairs * TENTHS // arguments.pairs, TENTHS - 1)
            peaks[tenth] = max(peaks[tenth], resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        options = BuildOptions(f"shapes:{arguments.pairs}", Path(scratch) / "maps", clip=arguments.clip)
        manifest = build_saliency(options, stages=stages)
    over.set()
    watcher.join()
    seconds = time.perf_counter() - started
    print(f"{manifest.written} maps in {seconds:.0f} s, {platform.machine()}, torch {torch.__version__}")
    print("peak of each tenth, MB:", " ".join(f"{peak:.0f}" for peak in peaks))
    half = TENTHS // 2
    print(f"the second half's peak is {max(peaks[half:]) - max(peaks[:half]):+.0f} MB from the first's")


if __name__ == "__main__":
    main()
