"""Write ``docs/results/leaderboard.md`` and its pictures from the figures in ``results/``.

    python benchmarks/masking/leaderboard.py [--check]

The tables are computed from the accuracies by seed, as ``mae-cli compare`` does. ``--check`` writes nothing, and exits
with 1 if the page is another one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipelines.commandline.yaml_text import parse_yaml
from pipelines.compare.plan import UNTRAINED
from pipelines.compare.plots import forest
from pipelines.compare.statistics import Difference, Mean, mean_interval, paired_differences, percent
from pipelines.plots import save_figure
from saliency.shown import markdown_table

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "benchmarks" / "masking" / "results", ROOT / "docs" / "results" / "leaderboard.md"
PICTURES = ROOT / "docs" / "pictures"

DRAWN = ("scenes-large", "scenes-small", "variants", "learned", "moving", "tiny-imagenet")
"""The sets that have a picture."""

HEAD = """# Leaderboard of masks

`benchmarks/masking/leaderboard.py` writes this page from `benchmarks/masking/results/`. Do not edit it. What the tables
mean is in [Do informed masks help?](masking.md).

All arms of a table have the same model, images, views, number of steps and mask ratio, unless it says otherwise. ± is
half of a 95 % t-interval over seeds. Differences from random masks are paired by seed. `better` and `worse` stand where
p, adjusted by Holm's method for the number of arms, is below 0.05. `equal` stands where two one-sided tests, adjusted
alike, show that the difference lies within the margin. In pictures a dot is a seed, a diamond the mean, and a bar its
interval.
"""

Accuracy = dict[str, dict[str, dict[int, float]]]
"""By figure, arm and seed, 0..1."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    sets = sets_found()
    text = page(sets)
    if asked.check:
        sys.exit(0 if PAGE.read_text() == text else f"{PAGE.name} is not what the figures say; write it anew")
    PAGE.write_text(text)
    for each in sets:
        if each["set"] in DRAWN:
            draw_gains(each)
        if each["set"] == "map-quality":
            draw_map_quality(each, json.loads((RESULTS / "hits.json").read_text()))
    print(PAGE)


def sets_found() -> list[dict[str, Any]]:
    """The figures of every set but the quick one, by name."""
    found = [json.loads(place.read_text()) for place in sorted(RESULTS.glob("*.json"))]
    return [each for each in found if each.get("set", "quick") != "quick"]


def page(sets: list[dict[str, Any]]) -> str:
    """The whole page."""
    return "\n".join([HEAD, *map(section, sets)])


def section(found: dict[str, Any]) -> str:
    """A set: what it is, its tables, how to repeat it."""
    plan, name, machine = parse_yaml(found["plan"], found["set"]), found["set"], found["machine"]
    about = " ".join(line[1:].strip() for line in found["plan"].splitlines() if line.startswith("#"))
    picture = f"![Gain over random masks, {name}](../pictures/masking-{name}.png)"
    figures = list(accuracy_of(found).items())
    pairs = [dict(figures[place : place + 2]) for place in range(0, len(figures), 2)]
    return "\n".join(
        [
            f"## {name}",
            "",
            about,
            "",
            *(line for pair in pairs for line in (*table(pair, plan), "")),
            *([picture, ""] if name in DRAWN else []),
            f"{found['date']}, {machine['device']}, torch {machine['torch']}: "
            f"`python benchmarks/masking/run.py {name}`.{cost(found)}",
            "",
        ]
    )


def cost(found: dict[str, Any]) -> str:
    """What a run and its evaluation took, where it is known."""
    seconds = found.get("seconds", {})
    if None in (seconds.get("pretrain"), seconds.get("evaluate")):
        return ""
    return (
        f" A run took {seconds['pretrain']:.0f} s, and its evaluation {seconds['evaluate']:.0f} s, on a busy machine."
    )


def accuracy_of(found: dict[str, Any]) -> Accuracy:
    """With whole numbers as seeds."""
    return {
        figure: {arm: {int(seed): value for seed, value in by_seed.items()} for arm, by_seed in by_arm.items()}
        for figure, by_arm in found["accuracy"].items()
    }


def differences_of(values: dict[str, dict[int, float]], plan: dict[str, Any]) -> dict[str, Difference]:
    """Of every arm from the baseline, and of the untrained encoder, which is a family of its own."""
    baseline, margin = plan.get("baseline", "random"), plan.get("margin")
    trained = {arm: values[arm] for arm in plan["arms"] if arm in values}
    reference = {arm: values[arm] for arm in (baseline, UNTRAINED)}
    within = None if margin is None else margin / 100
    return paired_differences(trained, baseline, within) | paired_differences(reference, baseline)


def table(accuracy: Accuracy, plan: dict[str, Any]) -> list[str]:
    """An arm a row, three columns a figure."""
    baseline, margin = plan.get("baseline", "random"), plan.get("margin")
    arms = [arm for arm in (*plan["arms"], UNTRAINED) if any(arm in by_arm for by_arm in accuracy.values())]
    head = ["arm", "seeds"]
    rows = {arm: [arm, str(max(len(by_arm.get(arm, {})) for by_arm in accuracy.values()))] for arm in arms}
    for figure, values in accuracy.items():
        head += [f"{figure} %", f"− {baseline}", "adjusted p"]
        differences = differences_of(values, plan)
        for arm, row in rows.items():
            row.append(percent(mean_interval(list(values[arm].values()))))
            if arm == baseline:
                row += ["", ""]
                continue
            row.append(percent(differences[arm].mean, sign=True))
            row.append("reference" if arm == UNTRAINED else reading(differences[arm], margin))
    return markdown_table([head, *rows.values()])


def reading(difference: Difference, margin: float | None) -> str:
    """The adjusted p, with a word where it allows one."""
    if difference.adjusted_p is None:
        return ""
    p = f"{difference.adjusted_p:.3f}" if difference.adjusted_p >= 0.001 else "< 0.001"
    words = difference.reading.replace("equal", f"equal within {margin}")
    return p if words == "no difference shown" else f"{p} **{words}**"


def draw_gains(found: dict[str, Any]) -> None:
    """The differences from random masks of every arm, a panel a figure."""
    plan = parse_yaml(found["plan"], found["set"])
    panels = {}
    for figure, values in itertools.islice(accuracy_of(found).items(), 2):
        differences = differences_of(values, plan)
        panels[figure] = {
            arm: ([100 * value for value in each.by_seed.values()], in_points(each.mean))
            for arm, each in differences.items()
        }
    path = PICTURES / f"masking-{found['set']}.png"
    forest(path, panels, title=f"Gain over random masks, {found['set']}", unit="percentage points", zero="random masks")
    print(path)


def draw_map_quality(found: dict[str, Any], hits: dict[str, float]) -> None:
    """The gain in the logistic probe against how much of the object a map hides."""
    from matplotlib.figure import Figure

    plan = parse_yaml(found["plan"], found["set"])
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis = figure.subplots()
    maps = {arm: "shuffled" if arm == "shuffled" else options.get("saliency") for arm, options in plan["arms"].items()}
    names: dict[int, tuple[list[str], float]] = {}
    for arm, each in differences_of(accuracy_of(found)["logistic"], plan).items():
        if arm not in maps:
            continue
        share, mean = 100 * hits[maps[arm]], in_points(each.mean)
        axis.errorbar(share, mean.mean, yerr=mean.half_width, fmt="D", color="tab:blue", markersize=5, capsize=3)
        together, top = names.get(round(share), ([], -100.0))
        names[round(share)] = ([*together, arm], max(top, mean.mean + (mean.half_width or 0)))
    for share, (together, top) in names.items():
        side, shift = ("left", -10) if share > 97 else ("right", 10)
        place = {"xytext": (shift, 3), "textcoords": "offset points", "ha": side, "fontsize": 8}
        axis.annotate("\n".join(together), (share, top), **place)
    axis.margins(x=0.1, y=0.12)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xlabel("share of the object's area in the 25 % most salient patches, %")
    axis.set_ylabel("gain over random masks, percentage points")
    axis.set_title("Small objects, logistic probe: how good must a map be?", fontsize=10)
    axis.grid(alpha=0.3)
    save_figure(figure, PICTURES / "masking-map-quality.png")
    print(PICTURES / "masking-map-quality.png")


def in_points(mean: Mean) -> Mean:
    """A mean of shares in percentage points."""
    return Mean(mean.count, 100 * mean.mean, None if mean.half_width is None else 100 * mean.half_width)


if __name__ == "__main__":
    main()
