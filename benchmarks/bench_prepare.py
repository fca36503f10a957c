"""Images a second out of the training loader: full-size photographs beside the same ones after ``prepare``.

    python benchmarks/bench_prepare.py [--images 200] [--size 256] [--view 224] [--batch 16] [--workers 2] [--rounds 5]

Synthetic JPEGs of about 1500×1000 pixels with the detail of a photograph, in a folder with captions. They are prepared
once as Parquet and once as tars; then in every round, in turns, an epoch of random views is loaded from the folder,
from the Parquet and from the tars, by fresh workers each time; the batches that they begin and end with are not
counted. Prints images/s (the median of the rounds), the ratios to the folder, the bytes, and what preparing cost.
Everything lies in the page cache: what a disk or a network adds is not measured.
"""

import argparse
import json
import math
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image

from pipelines.prepare.prepare import PrepareOptions, prepare
from pipelines.sources.open_source import open_source
from pipelines.sources.prepared_folder import totals
from pipelines.views.image_views import EpochBatches, Views, load_views

FULL = (1500, 1000)


def write_photographs(folder, count):
    """JPEGs whose spectrum falls about as a photograph's does, in three correlated colours."""
    folder.mkdir()
    rng, lines = np.random.default_rng(0), []
    for i in range(count):
        width, height = FULL[0] + 4 * (i % 25), FULL[1] + 3 * (i % 7)
        fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
        falling = np.maximum(np.hypot(fx, fy), 1 / width) ** -1.25
        shared = rng.normal(size=(height, fx.shape[1], 1)) + 1j * rng.normal(size=(height, fx.shape[1], 1))
        own = rng.normal(size=(height, fx.shape[1], 3)) * 0.3
        pixels = np.fft.irfft2((shared + own) * falling[..., None], s=(height, width), axes=(0, 1))
        pixels = 127 + 55 * pixels / pixels.std(axis=(0, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05d}.jpg", quality=92)
        lines.append(json.dumps({"file_name": f"{i:05d}.jpg", "caption": f"photograph {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def images_per_second(source, arguments):
    """Of as many random views as there are images, while the workers neither begin nor come to an end."""
    steps = len(source) // arguments.batch
    ahead = 4 * max(arguments.workers, 1)  # batches that the loader has under way
    epochs = math.ceil(2 * ahead / steps) + 1
    batches = EpochBatches(len(source), arguments.batch, steps, epochs, seed=0)
    views = Views(source, (arguments.view, arguments.view), augment=True)
    loader = iter(load_views(views, batches, workers=arguments.workers))
    for _ in range(ahead):
        next(loader)
    started = time.perf_counter()
    count = sum(len(next(loader).images) for _ in range(steps))
    return count / (time.perf_counter() - started)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 200), ("size", 256), ("view", 224), ("batch", 16), ("workers", 2), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        import datasets

        scratch = Path(name)
        datasets.config.HF_DATASETS_CACHE = scratch / "cache"
        write_photographs(scratch / "folder", arguments.images)
        sources = {"folder": open_source(str(scratch / "folder"))}
        for kind in ("parquet", "webdataset"):
            started = time.perf_counter()
            options = PrepareOptions(
                str(scratch / "folder"), scratch / kind, arguments.size, kind, workers=arguments.workers
            )
            made = totals(prepare(options, quiet=True))
            seconds = time.perf_counter() - started
            print(
                f"prepare as {kind}: {arguments.images / seconds:.0f} images/s, {made.bytes_in / 1e6:.1f} MB became "
                f"{made.bytes_out / 1e6:.1f} MB"
            )
            sources[kind] = open_source(str(scratch / kind))
        rates = {kind: [] for kind in sources}
        for _ in range(arguments.rounds):
            for kind, source in sources.items():
                rates[kind].append(images_per_second(source, arguments))
    median = {kind: statistics.median(values) for kind, values in rates.items()}
    for kind, values in rates.items():
        print(
            f"{kind:<11}{median[kind]:8.0f} images/s ({min(values):.0f} to {max(values):.0f}), "
            f"{median[kind] / median['folder']:.1f} of the folder"
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{arguments.images} images of about {FULL[0]}×{FULL[1]}, views of {arguments.view}, shorter side "
        f"{arguments.size}, {arguments.workers} workers on {cores} cores, {arguments.rounds} rounds, Pillow "
        f"{PIL.__version__}, torch {torch.__version__}, {platform.processor() or platform.machine()}"
    )


if __name__ == "__main__":
    main()
