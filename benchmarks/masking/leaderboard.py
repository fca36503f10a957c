"""Write ``docs/results/leaderboard.md`` from the figures in ``results/``.

    python benchmarks/masking/leaderboard.py [--check]

The tables are computed from the accuracies by seed, as ``mae-cli compare`` does. ``--check`` writes nothing, and exits
with 1 if the page is another one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipelines.commandline.yaml_text import parse_yaml
from pipelines.compare.plan import UNTRAINED
from pipelines.compare.report import percent
from pipelines.compare.statistics import mean_interval, paired_differences
from saliency.shown import markdown_table

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "benchmarks" / "masking" / "results", ROOT / "docs" / "results" / "leaderboard.md"

HEAD = """# Leaderboard of masks

`benchmarks/masking/leaderboard.py` writes this page from `benchmarks/masking/results/`. Do not edit it. What the tables
mean is in [Do informed masks help?](masking.md).

All arms of a table have the same model, images, views, number of steps and mask ratio. ± is half of a 95 % t-interval
over seeds. Differences from random masks are paired by seed. `better` and `worse` stand where p, adjusted by Holm's
method for the number of arms, is below 0.05.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    text = page([json.loads(place.read_text()) for place in sorted(RESULTS.glob("*.json")) if place.stem != "quick"])
    if asked.check:
        sys.exit(0 if PAGE.read_text() == text else f"{PAGE.name} is not what the figures say; write it anew")
    PAGE.write_text(text)
    print(PAGE)


def page(sets: list[dict[str, Any]]) -> str:
    """The whole page."""
    return "\n".join([HEAD, *(section(found) for found in sets)])


def section(found: dict[str, Any]) -> str:
    """A set: what it is, its table, how to repeat it."""
    plan, name = parse_yaml(found["plan"], found["set"]), found["set"]
    about = " ".join(line[1:].strip() for line in found["plan"].splitlines() if line.startswith("#"))
    seeds = len(plan["seeds"]) if isinstance(plan["seeds"], list) else plan["seeds"]
    machine = found["machine"]
    return "\n".join(
        [
            f"## {name}",
            "",
            about,
            "",
            *table(found["accuracy"], plan.get("baseline", "random"), list(plan["arms"])),
            "",
            f"{seeds} seeds, {found['date']}, {machine['device']}, torch {machine['torch']}: "
            f"`python benchmarks/masking/run.py {name}`.",
            "",
        ]
    )


def table(accuracy: dict[str, dict[str, dict[str, float]]], baseline: str, arms: list[str]) -> list[str]:
    """An arm a row, three columns a protocol."""
    head, rows = ["arm"], {arm: [arm] for arm in [*arms, UNTRAINED]}
    for protocol, by_arm in accuracy.items():
        head += [f"{protocol} %", f"− {baseline}", "adjusted p"]
        values = {arm: {int(seed): value for seed, value in by_seed.items()} for arm, by_seed in by_arm.items()}
        trained = {arm: values[arm] for arm in arms if arm in values}
        differences = paired_differences(trained, baseline)
        differences |= paired_differences({arm: values[arm] for arm in (baseline, UNTRAINED)}, baseline)
        for arm, row in rows.items():
            row.append(percent(mean_interval(list(values[arm].values()))))
            if arm == baseline:
                row += ["", ""]
                continue
            difference = differences[arm]
            row.append(percent(difference.mean, sign=True))
            told = "" if difference.adjusted_p is None else f"{difference.adjusted_p:.3f}"
            bold = difference.reading in ("better", "worse")
            row.append("reference" if arm == UNTRAINED else f"**{told} {difference.reading}**" if bold else told)
    return markdown_table([head, *rows.values()])


if __name__ == "__main__":
    main()
