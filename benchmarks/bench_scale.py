"""Commands over large inputs: seconds and peak memory, beside the time to read the same bytes.

    python benchmarks/bench_scale.py [--rows 3000000] [--files 1000000] [--minutes 600] [--grid 14] [--folder DIR]
                                     [--steps verify merge …]

The inputs are made once in ``--folder`` and stay there; without it they are made in a temporary folder. They are
synthetic: maps of ``--rows`` pairs in files of 4096 as eight parts of a job array leave them, the table of these pairs
in another order, a folder of ``--files`` tiny JPEGs, a video of ``--minutes``.

Each step runs in a process of its own. The clock runs from its start to its end, imports included. The peak is that of
its resident memory, with the pages of mapped files that it has touched; GB are 10⁹ bytes. The page cache is warm.
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

_PIECE = 1 << 20
_SHARDS = "maps/data/train-*.parquet"


@dataclass(frozen=True)
class Measured:
    """What a step took, and the last line that it printed."""

    seconds: float
    cpu_seconds: float
    gigabytes: float
    said: str


def measured(words, folder="."):
    """Runs a command in a process of its own; CalledProcessError if it fails. Needs a small parent: Linux counts the
    memory of the process that a new one is forked from."""
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(words, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read().strip()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words, said)
    last = said.splitlines()[-1] if said else ""
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9, last)


def make(place, rows, grid, files, minutes):
    """The inputs that are not there yet."""
    from benchmarks import scale_data

    for name, work in (
        ("maps", lambda new: scale_data.make_maps(new / "maps", new / "source", rows, grid)),
        ("files", lambda new: scale_data.make_files(new / "files", files)),
        ("video", lambda new: scale_data.make_video(new / "video" / "long.mp4", minutes * 60 * scale_data.RATE)),
    ):
        if (place / name).exists():
            continue
        new = place / f"new-{name}"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        work(new)
        for made in new.iterdir():
            made.rename(place / made.name)
        new.rmdir()


def read(place, pattern, times=1):
    """The bytes of files, read so many times."""
    buffer, total = bytearray(_PIECE), 0
    for path in sorted(place.glob(pattern)):
        with path.open("rb", buffering=0) as file:
            for _ in range(times):
                file.seek(0)
                while count := file.readinto(buffer):
                    total += count
    return f"{total / 1e9:.3f} GB"


def hashed(place):
    """The sha256 of every shard."""
    for path in sorted(place.glob(_SHARDS)):
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


def decoded(place):
    """All columns of every shard, a row group at a time, as pyarrow reads them."""
    import pyarrow.parquet as pq

    return sum(len(batch) for path in sorted(place.glob(_SHARDS)) for batch in pq.ParquetFile(path).iter_batches(4096))


def join(place):
    """What ``pretrain`` does with source and maps before its model: open, join, hash the keys."""
    from pipelines.pretrain.options import PretrainOptions
    from pipelines.pretrain.plain import open_data
    from pipelines.pretrain.settings import settings_of
    from pipelines.sources.source import hash_pairs

    options = PretrainOptions(str(place / "source"), place / "run", saliency=str(place / "maps"), on_missing="random")
    source, maps = open_data(options, settings_of(options))
    return f"{len(source)} pairs, {maps.missing} without a map, keys {hash_pairs(source, captions=False)[:12]}"


def walk(place):
    """The names of all files, as ``os.walk`` lists them, sorted."""
    return len(sorted(f"{folder}/{name}" for folder, _, names in os.walk(place / "files") for name in names))


def listing(place):
    """The source of a folder of images, with keys, classes and captions."""
    from pipelines.sources.open_source import open_source

    source = open_source(str(place / "files"))
    return f"{len(source)} images, {len(source.label_names or [])} classes"


def demux(place):
    """The packets of the video, as PyAV reads them."""
    import av

    with av.open(str(place / "video" / "long.mp4")) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def video(place):
    """The source of a video, and the video opened: every frame's time is known then."""
    from pipelines.sources.open_source import open_clips

    source = open_clips(str(place / "video"))
    opened = source.open_video(0)
    return f"{len(source)} video, {len(opened.times)} frames, {opened.times[-1]:.2f} s"


def unmerged(place):
    """Maps as the parts of a job array leave them."""
    kept, maps = place / "parts", place / "maps"
    if not kept.exists():
        kept.mkdir()
        for path in maps.glob("manifest-*.json"):
            shutil.copy(path, kept)
    for path in kept.iterdir():
        shutil.copy(path, maps)
    (maps / "manifest.json").unlink(missing_ok=True)


def without(name):
    return lambda place: shutil.rmtree(place / name, ignore_errors=True)


YARDSTICKS = {
    "read the maps once": lambda place: read(place, _SHARDS),
    "read the maps twice": lambda place: read(place, _SHARDS, 2),
    "sha256 of the maps": hashed,
    "decode the maps": decoded,
}
FUNCTIONS = YARDSTICKS | {
    "join": join,
    "list the names": walk,
    "files": listing,
    "read the video twice": lambda place: read(place, "video/long.mp4", 2),
    "read the packets": demux,
    "video": video,
}
COMMANDS = {
    "merge": ("merge", "maps", "--quiet"),
    "verify": ("verify", "maps", "--quiet"),
    "verify with a source": ("verify", "maps", "source", "--sample", "0", "--quiet"),
    "inspect": ("inspect", "maps", "--quiet"),
    "inspect again": ("inspect", "maps", "--quiet"),
    "publish": ("publish", "maps", "me/maps", "--dry-run", "published", "--quiet"),
}
BEFORE = {"merge": unmerged, "inspect": without("maps/.cache"), "publish": without("published")}
"""What is done before a step, off the clock."""
STEPS = (*YARDSTICKS, *COMMANDS, *[name for name in FUNCTIONS if name not in YARDSTICKS])


def words_of(name, place):
    """The command line of a step."""
    if name in COMMANDS:
        return [sys.executable, "-m", "cli", *[str(place / w) if w in PLACES else w for w in COMMANDS[name]]]
    return [sys.executable, __file__, "--run", name, "--folder", str(place)]


PLACES = ("maps", "source", "published")


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=int, default=600)
    parser.add_argument("--grid", type=int, default=14)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=STEPS, metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--run", choices=(*FUNCTIONS, "make"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.run == "make":
        make(arguments.folder, arguments.rows, arguments.grid, arguments.files, arguments.minutes)
    elif arguments.run:
        print(FUNCTIONS[arguments.run](arguments.folder))
    elif arguments.folder:
        return report(arguments.folder, arguments)
    else:
        with tempfile.TemporaryDirectory() as folder:
            return report(Path(folder), arguments)


def report(place, arguments):
    """Measures the steps and prints them as a table; returns {step: Measured}."""
    place = place.resolve()
    place.mkdir(parents=True, exist_ok=True)
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("rows", "grid", "files", "minutes")]
    making = measured([sys.executable, __file__, "--run", "make", "--folder", str(place), *sizes])
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "pyarrow", "av"))
    print(f"{os.cpu_count()} cores, {platform.machine()}, {packages}; inputs made in {making.seconds:.0f} s")
    print("\n| step | seconds | CPU seconds | peak memory, GB | |\n|---|---|---|---|---|", flush=True)
    found, root = {}, str(Path(__file__).parents[1])
    for name in arguments.steps:
        BEFORE.get(name, lambda _: None)(place)
        each = found[name] = measured(words_of(name, place), root)
        print(
            f"| {name} | {each.seconds:.1f} | {each.cpu_seconds:.1f} | {each.gigabytes:.2f} | {each.said} |", flush=True
        )
    return found


if __name__ == "__main__":
    main()
