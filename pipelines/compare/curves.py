"""Learning curves of a comparison: every arm by the number of pretraining images, and by the share of the labels.

A run on fewer images takes as many steps as the others. A share of the labels changes no run: the same weights are
judged once more. At every point arms are compared as in the main table, seed by seed, with Holm's method over the arms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.compare.plan import UNTRAINED, ComparePlan
from pipelines.compare.statistics import (
    NOT_SHOWN,
    TOO_FEW,
    Difference,
    Mean,
    mean_interval,
    paired_differences,
    percent,
)
from pipelines.compare.unit import UnitOutcome
from pipelines.plots import save_figure

Values = dict[str, dict[str, dict[int, float]]]
"""By protocol {arm: {seed: figure 0..1}}."""

AXES = {"images": "pretraining images", "labels": "share of the labels"}
"""What a curve runs along, by the name that results have for it."""


EXPLANATION = (
    "Means over seeds with their 95 % t-intervals, and differences from the baseline at the same seed. *better*, "
    "*worse* and *equal* are as above, with Holm's method at each place. Runs on fewer images take as many steps as "
    "the others. With a share of the labels the same weights are judged by protocols that learn from fewer labels."
)


@dataclass(frozen=True)
class Point:
    """One place on a curve, of one protocol."""

    place: float
    """A number of images, or a share 0..1 of the labels."""
    means: dict[str, Mean]
    """By arm."""
    differences: dict[str, Difference]
    """Of every other arm from the baseline."""


Curves = dict[str, dict[str, list[Point]]]
"""By axis and protocol the points, ascending; the last one is that of the comparison itself."""


def values_of(judged: Iterable[tuple[str, int, Mapping[str, Any]]], figure: str = "{}") -> Values:
    """The figures in the results of ``evaluate``, each with its arm and seed, and those of the untrained encoders.

    ``figure`` is the name of a figure, where ``{}`` stands for the protocol's; a protocol without it is left out.
    """
    values: Values = {}
    for arm, seed, result in judged:
        rows = result["rows"]
        for protocol in result["protocols"]:
            name = figure.format(protocol)
            if name not in rows[0]:
                continue
            table = values.setdefault(protocol, {})
            table.setdefault(arm, {})[seed] = float(rows[0][name])
            if rows[-1].get(name) is not None and len(rows) > 1:  # no protocol has to judge the untrained one too
                table.setdefault(UNTRAINED, {}).setdefault(seed, float(rows[-1][name]))
    for table in values.values():
        if UNTRAINED in table:
            table[UNTRAINED] = table.pop(UNTRAINED)  # last
    return values


def means_of(table: Mapping[str, Mapping[int, float]]) -> dict[str, Mean]:
    """By arm."""
    return {arm: mean_interval(list(by_seed.values())) for arm, by_seed in table.items()}


def differences_of(plan: ComparePlan, table: Mapping[str, Mapping[int, float]]) -> dict[str, Difference]:
    """Of every arm from the baseline, the untrained encoder left out."""
    trained = {arm: by_seed for arm, by_seed in table.items() if arm != UNTRAINED}
    return paired_differences(trained, plan.baseline, None if plan.margin is None else plan.margin / 100)


def curves_of(plan: ComparePlan, whole: Sequence[UnitOutcome], limited: Sequence[UnitOutcome], images: int) -> Curves:
    """The curves that the plan asks for, as far as they are finished; ``images`` are those of the ``whole`` runs."""
    full = values_of((o.unit.arm, o.unit.seed, (o.record or {})["result"]) for o in whole)
    by_images: dict[float, Values] = {
        limit: values_of(
            (o.unit.arm, o.unit.seed, (o.record or {})["result"]) for o in limited if o.unit.limit == limit
        )
        for limit in plan.limits
    }
    by_labels = {
        share: values_of(
            (o.unit.arm, o.unit.seed, judged["result"])
            for o in whole
            if (judged := (o.record or {}).get("label_fractions", {}).get(f"{share:g}"))
        )
        for share in plan.label_fractions
    }
    share = float(plan.evaluate.get("label_fraction", 1.0))
    curves: dict[str, dict[float, Values]] = {"images": {**by_images}, "labels": {**by_labels}}
    curves["images"][images] = curves["labels"][share] = full
    return {axis: _curve(plan, places) for axis, places in curves.items() if len(places) > 1}


def _curve(plan: ComparePlan, places: Mapping[float, Values]) -> dict[str, list[Point]]:
    protocols = dict.fromkeys(protocol for place in list(places)[:-1] for protocol in places[place])
    return {
        protocol: [
            Point(place, means_of(values[protocol]), differences_of(plan, values[protocol]))
            for place, values in places.items()
            if protocol in values
        ]
        for protocol in protocols
    }


def curve_tables(plan: ComparePlan, curves: Curves) -> list[list[list[str]]]:
    """Headings and rows, two tables for each curve: figures by arm, and differences from the baseline."""
    tables = []
    for axis, by_protocol in curves.items():
        for protocol, points in by_protocol.items():
            places = [place_text(axis, point.place) for point in points]
            figures = [[f"{protocol} % by {AXES[axis]}", *places]]
            figures += [
                [arm, *(percent(point.means[arm]) if arm in point.means else "–" for point in points)]
                for arm in (*plan.arms, UNTRAINED)
            ]
            compared = [[f"{protocol} − {plan.baseline}", *places]]
            compared += [
                [arm, *(_compared(point.differences.get(arm)) for point in points)]
                for arm in plan.arms
                if arm != plan.baseline
            ]
            tables += [figures, compared]
    return tables


def _compared(found: Difference | None) -> str:
    if found is None:
        return "–"
    text = percent(found.mean, sign=True)
    return text if found.reading in (NOT_SHOWN, TOO_FEW) else f"{text}, {found.reading}"


def place_text(axis: str, place: float) -> str:
    """A place on a curve as people write it."""
    return f"{100 * place:.3g} %" if axis == "labels" else f"{place:.0f}"


def draw_curves(path: Path, plan: ComparePlan, curves: Curves) -> None:
    """A panel for each curve and protocol: means against the logarithm of the place, bars are 95 % intervals."""
    from matplotlib.figure import Figure

    panels = [(axis, protocol, points) for axis, found in curves.items() for protocol, points in found.items()]
    columns = min(3, max(len(found) for found in curves.values()))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.6 + 3.6 * columns, 0.6 + 3.0 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, (axis, protocol, points) in zip(axes, panels, strict=False):
        for number, arm in enumerate((*plan.arms, UNTRAINED)):
            seen = [(point.place, point.means[arm]) for point in points if arm in point.means]
            shift = 1 + 0.012 * (number - len(plan.arms) / 2)  # so that bars do not hide each other
            look = {"color": "tab:grey", "linestyle": ":"} if arm == UNTRAINED else {"color": f"C{number % 10}"}
            panel.errorbar(
                [place * shift for place, _ in seen],
                [100 * mean.mean for _, mean in seen],
                yerr=[100 * (mean.half_width or 0) for _, mean in seen],
                label=arm, marker="o", markersize=3, capsize=2, linewidth=1, **look,
            )  # fmt: skip
        panel.set_xscale("log")
        places = [point.place for point in points]
        panel.set_xticks(places, [place_text(axis, place) for place in places], fontsize=8)
        panel.set_xticks([], minor=True)
        panel.set_xlabel(AXES[axis], fontsize=9)
        panel.set_ylabel(f"{protocol} %", fontsize=9)
        panel.grid(alpha=0.3)
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    axes[columns - 1].legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9, frameon=False)
    figure.suptitle("Learning curves: means over seeds, bars are 95 % intervals", fontsize=10)
    save_figure(figure, path)


def plain_curves(curves: Curves) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """As ``results.json`` holds them."""
    return {
        axis: {protocol: [asdict(point) for point in points] for protocol, points in found.items()}
        for axis, found in curves.items()
    }
