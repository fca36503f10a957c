"""What a report says of the seeds that a comparison needs: a table for each protocol, and what its columns mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.compare.plan import ComparePlan
from pipelines.compare.power import CAUTION, MOST, POWER, Need, SeedsNeeded, seeds_needed
from pipelines.compare.statistics import Difference
from pipelines.compare.unit import UnitOutcome


def needs_of(
    plan: ComparePlan, finished: Sequence[UnitOutcome], differences: Mapping[str, Mapping[str, Difference]]
) -> dict[str, dict[str, SeedsNeeded]]:
    """By protocol and arm, of the arms that have two seeds or more; empty if the plan asks for neither figure."""
    if plan.power is None and plan.margin is None:
        return {}
    points, margin = (None if value is None else value / 100 for value in (plan.power, plan.margin))
    needs: dict[str, dict[str, SeedsNeeded]] = {}
    for protocol, table in differences.items():
        needs[protocol] = {}
        for arm, found in table.items():
            shared = _test_deviation(finished, protocol, (arm, plan.baseline))
            if need := seeds_needed(found, shared, arms=len(table), points=points, margin=margin):
                needs[protocol][arm] = need
    return needs


def _test_deviation(finished: Sequence[UnitOutcome], protocol: str, arms: tuple[str, str]) -> float:
    """The deviation of a difference over test sets, at most; 0 where each seed holds out test images of its own.

    Right and wrong of two arms on the same images go together, which makes the difference surer than this.
    """
    results: list[dict[str, Any]] = [(outcome.record or {})["result"] for outcome in finished]
    if len({result["test"] for result in results}) > 1:
        return 0.0
    squares = 0.0
    for arm in arms:
        rows = [result["rows"][0] for outcome, result in zip(finished, results, strict=True) if outcome.unit.arm == arm]
        halves = [half for row in rows if (half := row.get(f"{protocol}_interval")) is not None]
        squares += sum((half / 1.96) ** 2 for half in halves) / max(1, len(halves))
    return math.sqrt(squares)


def power_tables(plan: ComparePlan, needs: Mapping[str, Mapping[str, SeedsNeeded]]) -> dict[str, list[list[str]]]:
    """By protocol a heading and a row an arm; deviations in percentage points."""
    tables = {}
    for protocol, table in needs.items():
        many = len(plan.arms) > 2
        heading = [f"{protocol}: arm", "deviation"]
        if plan.power is not None:
            heading += [f"to see {plan.power:g}", *([f"one of {len(plan.arms) - 1} arms"] if many else [])]
            heading.append("for other images")
        heading += [] if plan.margin is None else [f"equal within {plan.margin:g}"]
        rows = [heading]
        for arm, need in table.items():
            cells = [need.alone, *([need.among] if many else []), need.other_images] if plan.power is not None else []
            cells += [] if plan.margin is None else [need.equivalence]
            deviation = f"{100 * need.deviation:.2f} (at most {100 * need.bound:.2f})"
            rows.append([arm, deviation, *map(_seeds, cells)])
        if table:
            tables[protocol] = rows
    return tables


def power_lines(plan: ComparePlan, needs: Mapping[str, Mapping[str, SeedsNeeded]]) -> list[str]:
    """What the tables say, in sentences."""
    if not any(needs.values()):
        return ["No arm has two seeds yet. The spread over the seeds, and so the number of seeds, is unknown."]
    lines = [
        "*deviation* is the standard deviation of the paired differences over the seeds, in percentage points, with "
        f"its upper {CAUTION:.0%} bound. The other columns are numbers of seeds, from that deviation and, in brackets, "
        f"from its bound. Each gives a chance of {POWER:.0%}, at level 0.05.",
    ]
    if plan.power is not None:
        lines.append(
            f"*to see {plan.power:g}* is for a true difference of {plan.power:g} percentage points and the two-sided "
            "paired t-test of one arm. *one of … arms* is for the strictest level of Holm's method. *for other images* "
            "adds the sampling error of the test set, taken as if two arms erred independently, which overstates it. "
            "Where every seed holds out test images of its own, the deviation has it already."
        )
        lines += [line for protocol, table in needs.items() if (line := _test_set_line(protocol, table, plan.power))]
    if plan.margin is not None:
        lines.append(
            f"*equal within {plan.margin:g}* is for arms that do not differ, and two one-sided tests with that margin."
        )
    return lines


def _test_set_line(protocol: str, table: Mapping[str, SeedsNeeded], points: float) -> str | None:
    """A sentence if the test set is too small for any number of seeds."""
    short = [arm for arm, need in table.items() if need.other_images and need.other_images.seeds is None]
    if not short:
        return None
    largest = max(need.test_deviation for need in table.values())
    # Two-sided at 0.05 with a chance of 0.8: the difference has to be 1.96 + 0.84 deviations.
    factor = (2.8016 * largest / (points / 100)) ** 2
    return (
        f"*{protocol}*: with this test set no number of seeds shows {points:g} points for other images "
        f"({', '.join(short)}). About {factor:.1f} times as many test images would be needed."
    )


def _seeds(need: Need | None) -> str:
    if need is None:
        return "–"
    seeds, cautious = (f"over {MOST}" if value is None else str(value) for value in (need.seeds, need.cautious))
    return seeds if seeds == cautious else f"{seeds} ({cautious})"
