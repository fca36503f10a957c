"""Bytes that a re-upload of a table of maps moves after 1 % of its rows changed, with and without chunks by content.

    python benchmarks/bench_reupload.py [--rows 100000] [--grid 14] [--shard-size 4096 65536]

A table of synthetic maps is uploaded by ``huggingface_hub`` to a Hub on loopback, changed, and uploaded again. The
client's own chunker (``hf-xet``) settles what it has to send. Counted are the bytes of the chunks that arrive. The
``plain`` files are those of earlier versions: with dictionaries, and pages that end after a number of bytes. The
changes: rows in place, here and there (``scattered``) or in one run (``block``), new rows near the front
(``inserted``), rows taken out of the middle (``deleted``), and new rows in files of their own (``appended``).
"""

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.ndimage import zoom

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from saliency.table.shard import schema, write_rows  # noqa: E402
from tests.hub_server import TOKEN, LoopbackHub  # noqa: E402

WORDS = [f"{a}{b}{c}" for a in "bcdfghlmnprst" for b in ("a", "e", "ou", "i") for c in ("t", "nd", "r", "ck", "ll")]
CLIENT = """
import sys
from huggingface_hub import HfApi
for folder in sys.argv[1:]:
    print("ready", flush=True)
    sys.stdin.readline()
    HfApi().create_repo("me/" + folder[-1], repo_type="dataset")
    HfApi().upload_folder(repo_id="me/" + folder[-1], repo_type="dataset", folder_path=folder)
print("done", flush=True)
"""


class Storage(LoopbackHub):
    """Takes what arrives and puts nothing together again, which would take long for large files."""

    def joined(self, sha256):
        return b""


def rows_of(numbers: np.ndarray, versions: np.ndarray, grid: int) -> pa.Table:
    """Rows of a table by their numbers; another version of a row is that of another image under the same key."""
    text = {name: [] for name in ("key", "url", "caption", "image_sha256")}
    values = {name: np.empty(len(numbers)) for name in ("width", "height", "vmin", "scale", "clip_score")}
    maps = np.empty((len(numbers), grid, grid), np.uint8)
    for place, (number, edition) in enumerate(zip(numbers.tolist(), versions.tolist(), strict=True)):
        own, image = np.random.default_rng(number), np.random.default_rng((number, edition))
        text["key"].append(f"{number:09d}")
        text["url"].append(f"https://images.example.org/{own.integers(1 << 60):x}.jpg")
        text["caption"].append(" ".join(WORDS[i] for i in own.integers(0, len(WORDS), own.integers(5, 15))))
        text["image_sha256"].append(hashlib.sha256(f"{number} {edition}".encode()).hexdigest())
        for name, value in zip(values, (200, 200, 0.001, 0.02, 0.3), strict=True):
            values[name][place] = value * (1 + image.random())
        smooth = zoom(image.random((6, 6)) ** 3, (grid + 0.4) / 6, order=1)[:grid, :grid]
        noisy = smooth * (1 + 0.15 * image.random((grid, grid)))
        maps[place] = np.rint(255 * noisy / noisy.max())
    shape = schema(grid, {"schema_version": 1, "grid": grid, "clip": "none", "method": "none"})
    columns = {name: pa.array(column).cast(shape.field(name).type) for name, column in text.items()}
    columns |= {name: pa.array(column).cast(shape.field(name).type, safe=False) for name, column in values.items()}
    boxes = pa.array(np.tile(np.float32([0, 0, 1, 1]), len(numbers)))
    columns["crop_box"] = pa.FixedSizeListArray.from_arrays(boxes, 4)
    columns["saliency"] = pa.FixedSizeListArray.from_arrays(pa.array(maps.reshape(-1)), grid * grid)
    return pa.Table.from_arrays([columns[name] for name in shape.names], schema=shape)


def changes(rows: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, numbers and versions of the rows of each changed table."""
    numbers, same, count = np.arange(rows), np.zeros(rows, int), rows // 100
    rng = np.random.default_rng(0)
    scattered, block = same.copy(), same.copy()
    scattered[rng.choice(rows, count, replace=False)] = 1
    block[rows // 3 : rows // 3 + count] = 1
    new = rows + np.arange(count)
    yield "scattered", numbers, scattered
    yield "block", numbers, block
    yield "inserted", np.concatenate([numbers[:100], new, numbers[100:]]), np.zeros(rows + count, int)
    yield "deleted", np.delete(numbers, rows // 2 + np.arange(count)), same[count:]


def write_plain(path: Path, table: pa.Table) -> None:
    """As files were written before."""
    pq.write_table(table, path, compression="zstd", row_group_size=4096)


def write_table(
    folder: Path, table: pa.Table, shard_size: int, write: Callable[[Path, pa.Table], None], name: str = "train"
) -> int:
    """Write a table in shards of one size; returns their bytes."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    paths = [folder / "data" / f"{name}-{number:05d}.parquet" for number in range(-(-len(table) // shard_size))]
    for number, path in enumerate(paths):
        write(path, table.slice(number * shard_size, shard_size))
    return sum(path.stat().st_size for path in paths)


def moved(before: Path, after: Path, home: Path) -> int:
    """Upload two folders, one after the other; the bytes of chunks that the second upload sends."""
    with Storage() as hub:
        known = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_TELEMETRY": "1"}
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(before), str(after)],
            env=known | settings | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert client.stdin
        assert client.stdout
        arrived = []
        for expected in ("ready", "ready", "done"):
            assert client.stdout.readline().strip() == expected, "the client stopped"
            arrived.append(sum(map(len, hub.chunks)))
            if expected == "ready":
                client.stdin.write("\n")
                client.stdin.flush()
        client.wait()
    return arrived[2] - arrived[1]


def measure(
    before: pa.Table, after: dict[str, pa.Table], shard_size: int, write: Callable[[Path, pa.Table], None]
) -> tuple[int, dict[str, int]]:
    """The bytes of a table, and those that each change of it sends."""
    sent = {}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        size = write_table(home / "a", before, shard_size, write)
        for number, (change, table) in enumerate(after.items()):
            folder = home / f"{number}b"
            if change == "appended":
                write_table(folder, before, shard_size, write)
            write_table(folder, table, shard_size, write, "more" if change == "appended" else "train")
            sent[change] = moved(home / "a", folder, home / f"home{number}")
    return size, sent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--grid", type=int, default=14)
    parser.add_argument("--shard-size", type=int, nargs="+", default=[4096, 65_536])
    arguments = parser.parse_args()
    rows, grid = arguments.rows, arguments.grid
    libraries = ", ".join(f"{name} {version(name)}" for name in ("pyarrow", "hf-xet", "huggingface_hub"))
    print(f"{platform.processor() or platform.machine()}, {libraries}, {rows} rows, grid {grid}, n = 1")
    before = rows_of(np.arange(rows), np.zeros(rows, int), grid)
    after = {name: rows_of(numbers, versions, grid) for name, numbers, versions in changes(rows)}
    after["appended"] = rows_of(rows + np.arange(rows // 100), np.zeros(rows // 100, int), grid)
    for shard_size in arguments.shard_size:
        for kind, write in (("plain", write_plain), ("by content", write_rows)):
            size, sent = measure(before, after, shard_size, write)
            figures = " · ".join(f"{name} {count / 1e6:.2f} MB ({count / size:.1%})" for name, count in sent.items())
            print(f"shards of {shard_size}, {kind}, {size / 1e6:.2f} MB: {figures}", flush=True)


if __name__ == "__main__":
    main()
