"""How fast ``inspect --leaks`` matches and hashes: ``python benchmarks/bench_leaks.py [SOURCE] [--count N]``.

Matching is of N random hashes against N others, a thousand of them planted with up to 7 bits turned; hashing is of the
first 500 images of SOURCE.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from pipelines.inspect.leaks import hash_source
from pipelines.sources.open_source import open_source
from pipelines.sources.source import Source
from pipelines.views.duplicates import within


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", default="shapes:500")
    parser.add_argument("--count", type=int, default=1_000_000)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    known, queries = rng.integers(0, 2**64, (2, asked.count), np.uint64)
    for i in range(1000):
        turned = rng.choice(64, i % 8, replace=False).astype(np.uint64)
        queries[i] = known[-1 - i] ^ np.bitwise_or.reduce(np.uint64(1) << turned, initial=np.uint64(0))
    started = time.perf_counter()
    found = within(known, queries)
    seconds = time.perf_counter() - started
    print(f"{asked.count} × {asked.count} hashes: {seconds:.0f} s; {(found[:1000] >= 0).sum()} of 1000 planted found, "
          f"{(found[1000:] >= 0).sum()} others")  # fmt: skip
    source = open_source(asked.source, limit=500)
    assert isinstance(source, Source)
    started = time.perf_counter()
    hashes = hash_source(source)
    print(f"{len(hashes.rows) / (time.perf_counter() - started):.0f} images/s hashed on one core")


if __name__ == "__main__":
    main()
