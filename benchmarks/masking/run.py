"""Run one set of the masking benchmark, or finish what was stopped, and write down its figures.

    python benchmarks/masking/run.py scenes-small [--data FOLDER] [--out FOLDER] [--seeds 0,1,2] [--jobs 2]
    python benchmarks/masking/run.py quick --check

A set is a plan in ``plans/``. Its maps are made first. The runs are in ``--out``, and the figures, with the machine and
the time they took, in ``results/SET.json``, from which ``leaderboard.py`` writes a page. The photos of CIFAR-10 and
tiny ImageNet have to be in ``--data``, as Parquet files under the names that the plans give. ``--check`` compares the
figures with those of ``results/SET.json`` instead of replacing them, and exits with 1 if any of them is another one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import saliency_mae as sm
from benchmarks.masking.maps import MAPS, make_maps
from pipelines.commandline.yaml_text import read_yaml

HERE = Path(__file__).resolve().parent
PLANS, RESULTS = HERE / "plans", HERE / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=sorted(plan.stem for plan in PLANS.glob("*.yaml")))
    parser.add_argument("--data", type=Path, default=Path(), help="folder with the photos")
    parser.add_argument("--out", type=Path, default=Path("masking-runs"))
    parser.add_argument("--seeds", help="as in compare; by default those of the plan")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(asked.data)  # the plans name the photos below it
    compared = run(asked.set, out, seeds=asked.seeds, jobs=asked.jobs)
    found = figures(asked.set, json.loads((compared / "results.json").read_text()))
    place = RESULTS / f"{asked.set}.json"
    if asked.check:
        sys.exit(different(found, json.loads(place.read_text())))
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps(found, indent=1) + "\n")
    print(f"figures in {place}")


def run(name: str, out: Path, *, seeds: str | None = None, jobs: int = 1) -> Path:
    """The folder of the comparison, with what was not finished yet done."""
    plan: dict[str, Any] = read_yaml(PLANS / f"{name}.yaml")
    for part in (plan, *plan["arms"].values()):
        if part.get("saliency") in MAPS:
            part["saliency"] = str(make_maps(part["saliency"], out))
    folder = out / name
    compared = sm.compare(plan, folder, seeds=seeds, jobs=jobs)
    if compared.comparison is None or compared.comparison.failed:
        sys.exit(f"{name}: some runs failed; see {folder / 'report.md'}")
    return folder


def figures(name: str, results: dict[str, Any]) -> dict[str, Any]:
    """What is kept of ``results.json``: accuracies by protocol, arm and seed, and where and how they came about."""
    return {
        "set": name,
        "date": date.today().isoformat(),
        "plan": (PLANS / f"{name}.yaml").read_text(),
        **{key: results[key] for key in ("machine", "accuracy")},
    }


def different(found: dict[str, Any], kept: dict[str, Any]) -> int:
    """1, after a line for each, if accuracies that both have are not the same; else 0."""
    wrong = [
        f"{protocol}, {arm}, seed {seed}: {100 * value:.2f}, kept is {100 * kept['accuracy'][protocol][arm][seed]:.2f}"
        for protocol, arms in found["accuracy"].items()
        for arm, by_seed in arms.items()
        for seed, value in by_seed.items()
        if value != kept["accuracy"][protocol][arm][seed]
    ]
    print("\n".join(wrong) or "every figure is the one that is kept")
    return 1 if wrong else 0


if __name__ == "__main__":
    main()
