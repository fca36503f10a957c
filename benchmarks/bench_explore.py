"""The app of `explore` over many pairs: how long a person waits for a first picture, a search and a sort.

    python benchmarks/bench_explore.py [--pairs 1000000] [--rounds 3]

The table is made first, and opened once, so that its memory-mapped copy is there. Each round starts the command in a
process of its own, with an empty cache of answers, and asks it as the page does. Prints medians of seconds, and the
memory of the process that no other one shares; and what it takes to read the same table whole with pandas and search
it, which is the obvious way.
"""

import argparse
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.scale_data import make_maps
from pipelines.build.merge import merge
from saliency.table.table import SaliencyTable

ASKED = {
    "first page of pairs": "api/pairs",
    "first image or map": "picture/map?row=0&side=96",
    "search for two words": "api/pairs?text=bace+me",
    "its second page": "api/pairs?text=bace+me&start=24",
    "sort by CLIP score": "api/pairs?order=score",
    "sort by hidden mass": "api/pairs?order=mass",
    "only empty maps": "api/pairs?flag=empty",
    "a mask": "api/mask?row=500",
}


def timed_get(address):
    started = time.perf_counter()
    with urllib.request.urlopen(address) as answer:
        answer.read()
    return time.perf_counter() - started


def round_of(maps):
    """Seconds of a start and of every question, and megabytes at the end."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "cli", "explore", str(maps), "--port", "0"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True) as process:
        address = re.search(r"http://\S+", process.stdout.readline())[0]
        found = {"start, until the address is told": time.perf_counter() - started}
        found |= {words: timed_get(f"{address}/{place}") for words, place in ASKED.items()}
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.terminate()
    return found, int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1024


def obvious(maps):
    """Seconds to read the table with pandas, and to search it."""
    started = time.perf_counter()
    table = pq.read_table(maps / "data").to_pandas()
    read = time.perf_counter() - started
    started = time.perf_counter()
    captions = table["caption"].str.lower()
    assert (captions.str.contains("bace") & captions.str.contains("me")).any()
    return read, time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        maps = Path(scratch) / "maps"
        make_maps(maps, Path(scratch) / "source", asked.pairs, 7)
        merge(maps)
        SaliencyTable(maps)
        rounds = [round_of(maps) for _ in range(asked.rounds)]
        for words in rounds[0][0]:
            print(f"{words}: {median(found[words] for found, _ in rounds):.2f} s")
        print(f"memory: {median(megabytes for _, megabytes in rounds):.0f} MB")
        read, search = obvious(maps)
        print(f"pandas: {read:.1f} s to read the table, {search:.2f} s to search it")
    print(f"{asked.pairs} pairs, 7×7 maps, {asked.rounds} rounds, {platform.machine()}")


if __name__ == "__main__":
    main()
