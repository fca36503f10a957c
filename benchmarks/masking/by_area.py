"""Accuracy on the photos of tiny ImageNet by how much of the photo the object's box covers.

    python benchmarks/masking/by_area.py --data FOLDER [--out FOLDER]

judges the finished runs of the set tiny-imagenet again, and writes ``results/by-area.json``: by protocol, arm and seed
the accuracy on small, middle and large boxes. It prints the differences from random masks, paired by seed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[2]))

import saliency_mae as sm
from pipelines.commandline.yaml_text import read_yaml
from pipelines.compare.statistics import mean_interval, paired_differences
from saliency.shown import aligned

HERE = Path(__file__).resolve().parent
PLAN = read_yaml(HERE / "plans" / "tiny-imagenet.yaml")
BOUNDS, SIDE = (0.25, 0.53), 64
"""Shares of the photo's area that divide the boxes, and the side of a photo in pixels."""
NAMES = ("below 25 %", "25 to 53 %", "above 53 %")

Accuracy = dict[str, dict[str, dict[str, list[float]]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(), help="folder with the photos")
    parser.add_argument("--out", type=Path, default=Path("masking-runs"), help="that of run.py")
    asked = parser.parse_args()
    out = asked.out.resolve()
    os.chdir(asked.data)  # the plan names the photos below it
    part = part_of_boxes(Path(PLAN["evaluate"]["test"]))
    accuracy: Accuracy = {}
    for run in sorted(out.glob("tiny-imagenet/runs/*/seed-*")):
        if not (run / "evaluation.json").exists():  # it is not finished
            continue
        arm, seed = run.parent.name, run.name.removeprefix("seed-")
        for protocol, values in accuracies(run, out / "by-area" / f"{arm}-{seed}", part).items():
            accuracy.setdefault(protocol, {}).setdefault(arm, {})[seed] = values
    found = {"boxes": dict(zip(NAMES, part.value_counts(sort=False).tolist(), strict=True)), "accuracy": accuracy}
    place = HERE / "results" / "by-area.json"
    place.write_text(json.dumps(found, indent=1) + "\n")
    for protocol, by_arm in accuracy.items():
        print(f"{protocol}\n{table(by_arm)}\n")
    print(f"figures in {place}")


def part_of_boxes(place: Path) -> pd.Series:
    """By the number of each photo: which third its box belongs to."""
    boxes = pd.DataFrame(pd.read_parquet(place, columns=["box"])["box"].tolist(), columns=["x0", "y0", "x1", "y1"])
    area = (boxes.x1 - boxes.x0) * (boxes.y1 - boxes.y0) / SIDE**2
    return pd.cut(area, [0, *BOUNDS, float("inf")], labels=list(NAMES), include_lowest=True)


def accuracies(run: Path, out: Path, part: pd.Series) -> dict[str, list[float]]:
    """By protocol the accuracy of a run on each third; what is finished is not computed again."""
    found = out.with_suffix(".parquet")
    sm.evaluate(
        str(run), PLAN["source"], **PLAN["evaluate"], untrained=False, leaks="off", quiet=True,
        out=out.with_suffix(".json"), predictions=found,
    )  # fmt: skip
    table = pd.read_parquet(found)
    right = (table["class"] == table["predicted"]).groupby(
        [table["protocol"], table.groupby("protocol", observed=True).cumcount().map(part)], observed=True
    )
    return {name: right.mean()[name].reindex(NAMES).tolist() for name in PLAN["evaluate"]["protocols"]}


def table(by_arm: dict[str, dict[str, list[float]]]) -> str:
    """Accuracy of random masks, and differences of the other arms from it, in percentage points."""
    columns = []
    for place in range(len(NAMES)):
        values = {
            arm: {int(seed): 100 * each[place] for seed, each in by_seed.items()} for arm, by_seed in by_arm.items()
        }
        found = {arm: each.mean for arm, each in paired_differences(values, "random").items()}
        cells = {arm: f"{mean.mean:+.1f} ± {mean.half_width:.1f}" for arm, mean in found.items() if mean.half_width}
        columns.append({"random": f"{mean_interval(list(values['random'].values())).mean:.1f}"} | cells)
    return aligned([["masks", *NAMES], *([arm, *(each.get(arm, "") for each in columns)] for arm in by_arm)])


if __name__ == "__main__":
    main()
