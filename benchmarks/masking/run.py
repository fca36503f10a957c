"""Run one set of the masking benchmark, or finish what was stopped, and write down its figures.

    python benchmarks/masking/run.py scenes-small [--data FOLDER] [--out FOLDER] [--arms random,image] [--seeds 0,1,2]
    python benchmarks/masking/run.py quick --check

A set is a plan in ``plans/``. Its maps are made first. The runs are in ``--out``, and the figures, with the machine and
the time they took, in ``results/SET.json``, from which ``leaderboard.py`` writes a page. The photos of CIFAR-10 and
tiny ImageNet have to be in ``--data``, as Parquet files under the names that the plans give. ``--check`` compares the
figures with those of ``results/SET.json`` instead of replacing them, and exits with 1 if any of them is another one.
"""

from __future__ import annotations

import argparse
import hashlib
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
from pipelines.compare.plan import ComparePlan, plan_from
from pipelines.compare.unit import units_of
from pipelines.pretrain.options import FREE_ON_RESUME

HERE = Path(__file__).resolve().parent
PLANS, RESULTS = HERE / "plans", HERE / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=sorted(plan.stem for plan in PLANS.glob("*.yaml")))
    parser.add_argument("--data", type=Path, default=Path(), help="folder with the photos")
    parser.add_argument("--out", type=Path, default=Path("masking-runs"))
    parser.add_argument("--arms", help="as in compare; by default those of the plan")
    parser.add_argument("--seeds", help="as in compare; by default those of the plan")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(asked.data)  # the plans name the photos below it
    compared = run(asked.set, out, jobs=asked.jobs, arms=asked.arms, seeds=asked.seeds)
    found = figures(asked.set, json.loads((compared / "results.json").read_text()))
    place = RESULTS / f"{asked.set}.json"
    if asked.check:
        sys.exit(different(found, json.loads(place.read_text())))
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        found["accuracy"] = joined(json.loads(place.read_text())["accuracy"], found["accuracy"])
    place.write_text(json.dumps(found, indent=1) + "\n")
    print(f"figures in {place}")


def run(name: str, out: Path, *, jobs: int = 1, **some: str | None) -> Path:
    """The folder of the comparison, with what was not finished yet done."""
    plan: dict[str, Any] = read_yaml(PLANS / f"{name}.yaml")
    for part in filter(None, (plan, *plan["arms"].values())):
        if part.get("saliency") in MAPS:
            part["saliency"] = str(make_maps(part["saliency"], out))
        if "masks" in part:
            part["masks"] = str(HERE / part["masks"])
    folder = out / name
    share_runs(plan_from(plan), folder, out / "shared")
    compared = sm.compare(plan, folder, jobs=jobs, **some)
    if compared.comparison is None or compared.comparison.failed:
        sys.exit(f"{name}: some runs failed; see {folder / 'report.md'}")
    return folder


def share_runs(plan: ComparePlan, folder: Path, shared: Path) -> None:
    """Make every run of the plan a link into ``shared``, so that arms with equal options are one run in all sets."""
    for unit in units_of(plan, folder):
        options = {key: value for key, value in unit.pretrain.recorded().items() if key not in FREE_ON_RESUME}
        run = shared / hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()[:16]
        if not unit.pretrain.out.exists():
            run.mkdir(parents=True, exist_ok=True)
            unit.pretrain.out.parent.mkdir(parents=True, exist_ok=True)
            unit.pretrain.out.symlink_to(run)


def figures(name: str, results: dict[str, Any]) -> dict[str, Any]:
    """What is kept of ``results.json``: accuracies by protocol, arm and seed, and where and how they came about."""
    return {
        "set": name,
        "date": date.today().isoformat(),
        "plan": (PLANS / f"{name}.yaml").read_text(),
        "machine": results["machine"],
        "seconds": {
            "pretrain": _mean(results["runs"], "pretrain_seconds"),
            "evaluate": _mean(results["runs"], "evaluate_seconds"),
        },
        "accuracy": results["accuracy"] | further_accuracies(results["runs"]),
    }


def further_accuracies(runs: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """With a share of the labels, and by occluder, where the plan asks for them: by figure, arm and seed."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for run in runs:
        judged = {"": run["result"]} | {
            f", {float(share):.0%} of the labels": part["result"]
            for share, part in run.get("label_fractions", {}).items()
        }
        for words, result in judged.items():
            for arm, row in ((run["arm"], result["rows"][0]), ("untrained", result["rows"][-1])):
                values = {f"{name}{words}": row[name] for name in result["protocols"] if words}
                values |= {f"under {name}": curve["area"] for name, curve in row.get("occlusion_curves", {}).items()}
                for name, value in values.items():
                    found.setdefault(name, {}).setdefault(arm, {})[str(run["seed"])] = value
    return found


def _mean(runs: list[dict[str, Any]], name: str) -> float | None:
    """Over the runs that know this figure."""
    known = [run[name] for run in runs if run.get(name) is not None]
    return round(sum(known) / len(known), 1) if known else None


def joined(kept: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Accuracies by protocol, arm and seed: those found now, and of those kept the arms and seeds that were not run."""
    return {
        protocol: {
            arm: kept.get(protocol, {}).get(arm, {}) | found[protocol].get(arm, {})
            for arm in kept.get(protocol, {}) | found[protocol]
        }
        for protocol in found
    }


def different(found: dict[str, Any], kept: dict[str, Any]) -> int:
    """1, after a line for each, if accuracies that both have are not the same; else 0."""
    wrong = [
        f"{protocol}, {arm}, seed {seed}: {100 * value:.2f}, kept is {100 * kept['accuracy'][protocol][arm][seed]:.2f}"
        for protocol, arms in found["accuracy"].items()
        for arm, by_seed in arms.items()
        for seed, value in by_seed.items()
        if value != kept["accuracy"][protocol].get(arm, {}).get(seed, value)
    ]
    print("\n".join(wrong) or "every figure is the one that is kept")
    return 1 if wrong else 0


if __name__ == "__main__":
    main()
