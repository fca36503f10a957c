"""Do learned masks make better features than random ones? Arms over seeds: pretrain, then k-NN and a logistic probe.

    python benchmarks/bench_mlo_photos.py TRAIN TEST FOLDER --arm random masking=random epochs=5
        --arm mlo masking=mlo epochs=7 [--seeds 0 1 2 3 4] [--limit 5000] [--common blr=0.003 …] [--table BASELINE]

``TRAIN`` and ``TEST`` are labelled sources, such as the two Parquet files of CIFAR-10. An arm is a name and options of
``pretrain``, ``--common`` those of all arms. Every finished cell is a line of ``FOLDER/cells.jsonl``, and a cell that
is there is not made again. ``--table`` prints means with 95 % t-intervals over the seeds, and the differences from an
arm taken seed by seed.
"""

import argparse
import json
import math
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).parent.parent))

from pipelines.evaluate.evaluate import evaluate
from pipelines.evaluate.options import EvaluateOptions
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.pretrain import pretrain

COMMON = {"model": "mini", "image_size": [32], "patch_size": 4, "batch_size": 64, "blr": 0.003, "workers": 0}
PROTOCOLS = ("knn", "logistic")


def parsed(words: list[str]) -> dict[str, Any]:
    """``key=value`` as options; a value is JSON where it can be."""
    found: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def cell(train: str, test: str, folder: Path, options: dict[str, Any], seed: int, limit: int) -> dict[str, Any]:
    """One pretraining and what its encoder is worth."""
    shutil.rmtree(folder, ignore_errors=True)
    begin = time.process_time()
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    run = pretrain(PretrainOptions(train, folder, limit=limit, seed=seed, **given), quiet=True)
    seconds = time.process_time() - begin
    judged = EvaluateOptions(
        str(folder), train, test=test, limit=limit, test_limit=5000, pool="mean", untrained=False, workers=0
    )
    row = evaluate(judged, quiet=True)["rows"][0]
    metrics = run.metrics()
    cost = json.loads((folder / "cost.json").read_text()) if (folder / "cost.json").exists() else {}
    return {
        **{name: 100 * row[name] for name in PROTOCOLS},
        "steps": run.config()["steps"],
        "plain_steps": cost.get("plain_steps"),
        "seconds": round(seconds, 1),
        "last": {name: value for name, value in metrics[-1].items() if isinstance(value, float)},
    }


def interval(values: list[float]) -> float:
    """Half of the 95 % t-interval of the mean."""
    if len(values) < 2:
        return math.nan
    return float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def table(cells: list[dict[str, Any]], baseline: str) -> None:
    """Print the arms."""
    by_arm: dict[str, dict[int, dict[str, Any]]] = {}
    for each in cells:
        by_arm.setdefault(each["arm"], {})[each["seed"]] = each
    for arm, seeds in by_arm.items():
        said = [f"{arm:24} n={len(seeds)}"]
        for name in PROTOCOLS:
            values = [each[name] for each in seeds.values()]
            said.append(f"{name} {statistics.mean(values):.1f} ± {interval(values):.1f}")
            both = sorted(set(seeds) & set(by_arm.get(baseline, {})))
            gaps = [seeds[seed][name] - by_arm[baseline][seed][name] for seed in both]
            if gaps and arm != baseline:
                said.append(f"({statistics.mean(gaps):+.1f} ± {interval(gaps):.1f})")
        costs = [each["plain_steps"] or each["steps"] for each in seeds.values()]
        print(" ".join(said), f"plain steps {statistics.mean(costs):.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arm", nargs="+", action="append", default=[])
    parser.add_argument("--common", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--limit", type=int, default=5000)
    parser.add_argument("--table")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    log = asked.folder / "cells.jsonl"

    def done() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    for seed in asked.seeds:
        for name, *words in asked.arm:
            if any((each["arm"], each["seed"]) == (name, seed) for each in done()):
                continue
            options = COMMON | parsed(asked.common) | parsed(words)
            found = cell(asked.train, asked.test, asked.folder / f"{name}-{seed}", options, seed, asked.limit)
            with log.open("a") as file:
                file.write(json.dumps({"arm": name, "seed": seed, **found, "options": options}) + "\n")
    if asked.table:
        table(done(), asked.table)


if __name__ == "__main__":
    main()
