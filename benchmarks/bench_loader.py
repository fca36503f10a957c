"""The loader of pretraining with maps and without, and torchvision's beside it, in turns in one run.

    python benchmarks/bench_loader.py [--images 1024] [--batch 256] [--rounds 5] [--workers 0] [--only 32]
                                      [--cpu-time]

Random resized crops (a fifth to all of the image) and flips of synthetic images, uint8 batches, from: JPEGs of 500×375
in a folder and in Parquet, and JPEGs of 341×256, as `mae-cli prepare` leaves them, all at 224 px; PNGs of 32 px in
Parquet at 32 px. In every round, in turns:

- views: the loader of `pretrain` with --augment-on workers;
- with maps: the same, and the maps of every batch looked up and resampled onto its views (14×14 cells onto a grid of
  16 px patches, of 4 px at 32 px);
- cut: what the workers do with --augment-on device, decoding and cutting, without the resizing that the device does;
- torchvision: ImageFolder, RandomResizedCrop (bicubic), RandomHorizontalFlip and PILToTensor on PIL images in a
  DataLoader with as many workers, always from a folder.

Prints images/s, the median of the rounds after a first one that is not counted, and ratios. The clock of a pass runs
from its first batch to its last, so that starting workers does not count.
"""

import argparse
import io
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms

from pipelines.sources.open_source import open_source
from pipelines.views.device_views import CutViews, assemble_cut
from pipelines.views.image_views import EpochBatches, Views, load_views
from pipelines.views.joined_maps import join_maps
from saliency.maps import FULL
from saliency.table.table import Row, write_shard

CASES = {
    "JPEG 500×375, folder → 224": ((500, 375), "JPEG", "folder", 224, 16),
    "JPEG 500×375, Parquet → 224": ((500, 375), "JPEG", "parquet", 224, 16),
    "JPEG 341×256, Parquet → 224": ((341, 256), "JPEG", "parquet", 224, 16),
    "PNG 32×32, Parquet → 32": ((32, 32), "PNG", "parquet", 32, 4),
}
"""Name: size of the images, format, kind of source, size of the views, patch size."""


def encoded_images(count, size, kind):
    """Photograph-like: smooth structure and some noise."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        noisy = np.asarray(coarse).astype(int) + rng.integers(-12, 12, (size[1], size[0], 3))
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, kind, quality=88)
        yield buffer.getvalue()


def write_images(scratch, count, size, kind, container):
    """A folder of one class, which both loaders read, and a Parquet file with the same images if asked for."""
    folder = scratch / "images" / "class"
    folder.mkdir(parents=True)
    images = list(encoded_images(count, size, kind))
    for i, data in enumerate(images):
        (folder / f"{i:06d}.{kind.lower()}").write_bytes(data)
    if container == "folder":
        return folder.parent
    rows = {"image": [{"bytes": data, "path": f"{i:06d}"} for i, data in enumerate(images)]}
    pq.write_table(pa.table(rows | {"caption": [f"picture {i}" for i in range(count)]}), scratch / "images.parquet")
    return scratch / "images.parquet"


def write_maps(folder, source, grid=14):
    keys = source.keys.to_pylist()
    captions = source.captions.to_pylist() if source.has_captions else [""] * len(keys)
    rows = [Row(key, None, caption, "0" * 64, 1, 1, FULL, 0.3) for key, caption in zip(keys, captions, strict=True)]
    cells = np.random.default_rng(0).integers(0, 256, (len(rows), grid, grid), np.uint8)
    cells[:, 0, 0] = 255  # the peak of a map
    ones = np.ones(len(rows), np.float32)
    metadata = {"schema_version": 1, "grid": grid, "clip": "none", "method": "none", "layer": "none"}
    write_shard(folder / "data" / "train-00000-of-00001.parquet", rows, cells, 0 * ones, ones, metadata)
    return join_maps(folder, source, on_missing="error")


def torchvision_loader(folder, size, batch, workers):
    steps = [
        transforms.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
    ]
    images = torchvision.datasets.ImageFolder(folder, transforms.Compose(steps))
    return DataLoader(
        images, batch, shuffle=True, drop_last=True, num_workers=workers, prefetch_factor=4 if workers else None
    )


def ways(scratch, case, arguments):
    """Name → a function of the round that makes a loader, and one that takes its batches."""
    dimensions, kind, container, size, patch = CASES[case]
    source = open_source(str(write_images(scratch, arguments.images, dimensions, kind, container)))
    maps = write_maps(scratch / "maps", source)
    batches = arguments.images // arguments.batch

    def load(views, number, assemble=None):
        sampler = EpochBatches(len(source), arguments.batch, batches, number + 1, seed=0, start=number * batches)
        return load_views(views, sampler, workers=arguments.workers, assemble=assemble)

    views, cut = (kind(source, (size, size), augment=True) for kind in (Views, CutViews))
    folder, grid = scratch / "images", (size // patch, size // patch)
    return {
        "views": (lambda number: load(views, number), lambda batch: None),
        "with maps": (lambda number: load(views, number), lambda batch: maps.on_views(batch, grid)),
        "cut": (lambda number: load(cut, number, assemble_cut), lambda batch: None),
        "torchvision": (
            lambda _: torchvision_loader(folder, size, arguments.batch, arguments.workers),
            lambda batch: None,
        ),
    }


def passed(loader, use, clock):
    """Batches a second, from the first to the last."""
    started, count = 0.0, -1
    for batch in loader:
        use(batch)
        started = started or clock()
        count += 1
    return count / (clock() - started)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--cpu-time", action="store_true", help="On a busy machine, without workers.")
    parser.add_argument("--only", default="", help="Cases whose name holds this text.")
    arguments = parser.parse_args()
    if arguments.images < 2 * arguments.batch:
        parser.error("--images must be at least two batches")
    if arguments.cpu_time and arguments.workers:
        parser.error("--cpu-time is this process's own: --workers 0")
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{platform.processor() or platform.machine()}, {cores} cores, {arguments.workers} workers, "
        f"{arguments.images} images in batches of {arguments.batch}, Pillow {PIL.__version__}, torch "
        f"{torch.__version__}, torchvision {torchvision.__version__}; "
        f"{'processor' if arguments.cpu_time else 'wall'} time, median of {arguments.rounds} rounds in turns"
    )
    names = ("views", "with maps", "cut", "torchvision")
    print(f"{'images/s':30s}", *(f"{name:>12s}" for name in names), "  maps cost   of torchvision", sep="")
    for case in (name for name in CASES if arguments.only in name):
        with tempfile.TemporaryDirectory() as scratch:
            loaders = ways(Path(scratch), case, arguments)
            rates = {name: [] for name in names}
            for number in range(arguments.rounds + 1):
                for name, (load, use) in loaders.items():
                    rates[name].append(arguments.batch * passed(load(number), use, clock))
        report(case, rates)


def report(case, rates):
    """A line: medians, and the medians of the rounds' ratios, whose parts ran side by side."""
    rates = {name: np.asarray(values[1:]) for name, values in rates.items()}
    cost = statistics.median(rates["views"] / rates["with maps"] - 1)
    ratio = statistics.median(rates["views"] / rates["torchvision"])
    print(f"{case:30s}", *(f"{np.median(values):12.0f}" for values in rates.values()), sep="", end="")
    print(f"{cost:11.1%} {ratio:16.2f}", flush=True)


if __name__ == "__main__":
    main()
