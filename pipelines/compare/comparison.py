"""What came out of a comparison: its figures, and the tables of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.compare.curves import Curves, curves_of, differences_of, means_of, values_of
from pipelines.compare.plan import UNTRAINED, ComparePlan
from pipelines.compare.power import SeedsNeeded
from pipelines.compare.power_report import needs_of, power_tables
from pipelines.compare.statistics import Difference, Mean, paired_differences, percent
from pipelines.compare.unit import UnitOutcome
from pipelines.run_folder import RunFolder


@dataclass(frozen=True)
class Comparison:
    """What is known of a comparison: per protocol, {arm: {seed: accuracy}} and what follows from it."""

    plan: ComparePlan
    finished: list[UnitOutcome]
    failed: list[UnitOutcome]
    values: dict[str, dict[str, dict[int, float]]]
    means: dict[str, dict[str, Mean]]
    differences: dict[str, dict[str, Difference]]
    """Of every arm from the baseline; its p-values are adjusted over the arms, among which the untrained is not."""
    untrained: dict[str, Difference]
    """Of the untrained encoder, by protocol; a reference, on its own."""
    needs: dict[str, dict[str, SeedsNeeded]]
    """The seeds that each arm needs, by protocol; empty where the plan does not ask for it."""
    limited: list[UnitOutcome]
    """Finished runs on fewer images, which are in none of the above."""
    curves: Curves


def summarise(plan: ComparePlan, outcomes: Iterable[UnitOutcome]) -> Comparison:
    """The statistics of every protocol over what is finished."""
    outcomes = sorted(outcomes, key=lambda o: (list(plan.arms).index(o.unit.arm), o.unit.seed))
    every, failed = [o for o in outcomes if o.record], [o for o in outcomes if o.failed]
    finished, limited = ([o for o in every if (o.unit.limit is None) == whole] for whole in (True, False))
    values = values_of((o.unit.arm, o.unit.seed, (o.record or {})["result"]) for o in finished)
    means = {protocol: means_of(table) for protocol, table in values.items()}
    differences = {protocol: differences_of(plan, table) for protocol, table in values.items()}
    untrained: dict[str, Difference] = {}
    for protocol, table in values.items():
        reference = {arm: table[arm] for arm in (plan.baseline, UNTRAINED) if arm in table}
        if found := paired_differences(reference, plan.baseline):
            untrained[protocol] = found[UNTRAINED]
    curves: Curves = {}
    if finished and (plan.limits or plan.label_fractions):
        images = RunFolder(finished[0].unit.pretrain.out).config()["images"]
        curves = curves_of(plan, finished, limited, images)
    needs = needs_of(plan, finished, differences)
    return Comparison(plan, finished, failed, values, means, differences, untrained, needs, limited, curves)


def tables_of(comparison: Comparison) -> dict[str, list[list[str]]]:
    """By protocol a heading and a row an arm: name, seeds, mean, difference, adjusted p and reading.

    With a margin the adjusted p of equality stands before the reading.
    """
    tables = {}
    for protocol, by_arm in comparison.values.items():
        margin = comparison.plan.margin
        equality = [] if margin is None else [f"p of equality within {margin:g}"]
        rows = [["arm", "seeds", f"{protocol} %", f"− {comparison.plan.baseline}", "adjusted p", *equality, "reading"]]
        for arm in (*comparison.plan.arms, UNTRAINED):
            mean = comparison.means[protocol].get(arm)
            cells = _difference_cells(comparison, protocol, arm)
            if equality:
                found = comparison.differences[protocol].get(arm)
                cells.insert(2, _p_cell(found.adjusted_equivalence_p) if found else "")
            rows.append([arm, str(len(by_arm.get(arm, {}))), percent(mean) if mean else "–", *cells])
        tables[protocol] = rows
    return tables


def _difference_cells(comparison: Comparison, protocol: str, arm: str) -> list[str]:
    if arm == comparison.plan.baseline:
        return ["", "", "baseline"]
    if arm == UNTRAINED:
        found = comparison.untrained.get(protocol)
        return [percent(found.mean, sign=True) if found else "–", "", "reference"]
    found = comparison.differences[protocol].get(arm)
    if found is None:
        return ["–", "–", "no seed in common"]
    return [percent(found.mean, sign=True), _p_cell(found.adjusted_p), found.reading]


def _p_cell(p: float | None) -> str:
    return "–" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def print_comparison(comparison: Comparison) -> None:
    """Every arm's accuracy and its difference from the baseline, by protocol."""
    shown = [
        (f"{protocol}: means over seeds and paired differences, 95 % intervals", table)
        for protocol, table in tables_of(comparison).items()
    ]
    needed = power_tables(comparison.plan, comparison.needs).values()
    shown += [("seeds needed for a chance of 80 % (in brackets: cautiously)", table) for table in needed]
    for title, (heading, *rows) in shown:
        look: dict[str, Any] = {"title_justify": "left", "box": None, "padding": (0, 2, 0, 0), "pad_edge": False}
        table = Table(*heading, title=f"\n{title}", **look)
        for cells in rows:
            table.add_row(*cells)
        Console().print(table)
