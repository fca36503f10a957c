"""Opening a table of 3 M maps and looking them up, beside the obvious way: a dict of keys over a pyarrow column.

    python benchmarks/bench_join.py [--rows 3000000] [--grid 14]

Prints seconds to open (first time and again), to join all keys and captions, and microseconds a look-up of maps in
random batches of 256, join included; then the same join through a Python dict, and the ratio.
"""

import argparse
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from saliency.maps import FULL
from saliency.table.table import Row, SaliencyTable, write_shard

SHARD = 100_000


def write_table(folder: Path, rows: int, grid: int) -> None:
    rng = np.random.default_rng(0)
    metadata = {
        "schema_version": 1,
        "grid": grid,
        "clip": "none",
        "pretrained": None,
        "method": "none",
        "layer": "none",
    }
    shards = -(-rows // SHARD)
    for index in range(shards):
        first, last = index * SHARD, min(rows, (index + 1) * SHARD)
        lines = [Row(f"{i:09d}", None, caption(i), "0" * 64, 224, 224, FULL, 0.3) for i in range(first, last)]
        maps = rng.integers(0, 256, (last - first, grid, grid), np.uint8)
        maps[:, 0, 0] = 255
        ones = np.ones(last - first, np.float32)
        write_shard(folder / "data" / f"train-{index:05d}-of-{shards:05d}.parquet", lines, maps, ones, ones, metadata)


def caption(i: int) -> str:
    return f"a photo of thing number {i * 7919 % 1_000_003} next to a house"


def timed(function):
    started = time.perf_counter()
    return function(), time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--grid", type=int, default=14)
    arguments = parser.parse_args()
    rows, rng = arguments.rows, np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        _, writing = timed(lambda: write_table(Path(name), rows, arguments.grid))
        _, first = timed(lambda: SaliencyTable(name))
        table, again = timed(lambda: SaliencyTable(name))
        order = rng.permutation(rows)
        keys, captions = pa.array([f"{i:09d}" for i in order]), pa.array([caption(int(i)) for i in order])
        found, joining = timed(lambda: table.join(keys, captions))
        assert (found == order).all()
        batches = rng.permutation(rows)[: 256 * 2000].reshape(-1, 256)
        _, looking = timed(lambda: [table.maps(found[batch]) for batch in batches])
        lookup = 1e6 * (joining / rows + looking / batches.size)
        known, building = timed(lambda: {key: i for i, key in enumerate(table.keys.to_pylist())})
        _, asking = timed(lambda: [known[key] for key in keys.to_pylist()])
    machine = platform.processor() or platform.machine()
    print(f"{machine}, pyarrow {pa.__version__}, {rows} rows, grid {arguments.grid}, n = 1")
    print(f"write {writing:.1f} s · open the first time {first:.1f} s, again {again:.2f} s")
    print(f"join of all keys and captions {joining:.2f} s · a look-up {lookup:.2f} µs (join included)")
    print(f"a dict of keys alone: {building + asking:.2f} s, ratio {(building + asking) / joining:.1f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
