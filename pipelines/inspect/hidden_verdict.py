"""What masks hide of maps and of true objects, as plain numbers, as a table and in words; docs/guide/which-patches.md.

A row is a reading of ``--salient-of``, or a mask that sees no map. Every figure is a mean over views, and its interval
is a bootstrap over images. Differences are of the same views.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mae.masks.strategies import SALIENT_OF
from pipelines.commandline.terminal import plain
from pipelines.inspect.map_verdict import Estimate, without_nan

RANDOM = "random"
WHOLE = 0.99
"""An object is hidden whole if the hidden patches hold this share of what the view shows of its area."""
MAP_FIGURES = ("map", "map_forced")
"""The share of a view's saliency in the hidden patches, and in those that are hidden because they are salient."""
OBJECT_FIGURES = ("object", "whole_object")
"""The share of the object's area in the hidden patches, and the share of views in which it is hidden whole."""

_SHOWN = {"map_forced": "map forced", "map": "map hidden", "object": "object hidden", "whole_object": "whole object"}


@dataclass(frozen=True)
class Spread:
    """How a number is spread over views: its mean, its median, and the ends between which 90 % of the views lie."""

    mean: float
    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Spread:
        """The spread of all values that are not NaN; NaN where there are none."""
        known = values[~np.isnan(values)]
        if not len(known):
            return cls(*[math.nan] * 4)
        low, median, high = np.quantile(known, [0.05, 0.5, 0.95]).tolist()
        return cls(float(known.mean()), low, median, high)


@dataclass(frozen=True)
class HiddenPatches:
    """What the masks of ``views`` views of each of ``pairs`` pairs hide, ``hidden`` patches of a ``grid`` each.

    ``figures`` by row, then by MAP_FIGURES and OBJECT_FIGURES as far as they are known; ``differences`` from random
    masks. ``spread`` of ``map`` over the views, and of the number of patches that are hidden because they are
    salient, ``forced``, by row. ``salient_set``: the share of patches that hold ``salient_mass`` of a view's map. Views
    of all pairs: ``views_without_map`` show a part where the map is zero; of ``views_judged`` there is a true mask,
    and ``views_without_object`` of these show nothing of the object. ``skipped``: masks that can't be read.
    """

    pairs: int
    images: int
    views: int
    grid: tuple[int, int]
    hidden: int
    asked: dict[str, Any]
    figures: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    spread: dict[str, Spread]
    salient_set: Spread
    forced: dict[str, Spread]
    views_without_map: int
    views_judged: int
    views_without_object: int
    skipped: tuple[tuple[str, str], ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain numbers that ``json`` writes; a number that is not known is null."""
        numbers = asdict(self) | {"whole_object_from": WHOLE}
        numbers["skipped"] = {"pairs": len(self.skipped), "first": self.skipped[0] if self.skipped else None}
        plain_numbers: dict[str, Any] = without_nan(numbers)
        return plain_numbers

    def facts(self) -> dict[str, str]:
        """What stands beside the table, as lines of text."""
        total, patches = self.pairs * self.views, math.prod(self.grid)
        facts = {"views": f"{total}, {self.views} of each of {self.pairs} pairs"}
        rows, columns = self.grid
        facts["hidden patches"] = f"{self.hidden} of {patches} ({rows}×{columns})"
        counts = ", ".join(f"{count.mean:.1f} (of {row})" for row, count in self.forced.items())
        facts["hidden as salient"] = f"{counts} patches of a view, on average"
        if not math.isnan(self.salient_set.mean):
            spread = self.salient_set
            facts[f"patches with {self.asked['salient_mass']:.0%} of a map"] = (
                f"{spread.mean:.1%} of all, {spread.low:.1%} to {spread.high:.1%} in 90 % of the views"
            )
        if self.views_without_map:
            facts["views without map"] = f"{self.views_without_map / total:.1%} show a part where the map is zero"
        if self.views_judged:
            share = self.views_without_object / self.views_judged
            facts["views without object"] = f"{share:.1%} of {self.views_judged} with a true mask show nothing of it"
        if self.skipped:
            facts["passed over"] = f"{len(self.skipped)} pairs, first: {': '.join(self.skipped[0])}"
        return facts

    def table(self) -> list[list[str]]:
        """The figures as rows of text under a heading: each mask, and what the readings have more than random ones."""
        names = [name for name in _SHOWN if name in self.figures[RANDOM] or name == "map_forced"]
        rows = [["", *(_SHOWN[name] for name in names)]]
        for row, found in self.figures.items():
            rows.append([_named(row), *(str(found[name]) if name in found else "" for name in names)])
        rows.append(["minus random:", *("" for _ in names)])
        for row in self.readings:
            found = self.differences[row]
            rows.append([f"  {row}", *(found[name].signed() if name in found else "" for name in names)])
        return rows

    @property
    def readings(self) -> list[str]:
        """The values of ``--salient-of`` among the rows."""
        return [row for row in self.figures if row in SALIENT_OF]

    def verdict(self) -> str:
        """In plain words: whether each reading hides more or less than random masks of as many patches."""
        name = "object" if "object" in self.figures[RANDOM] else "map"
        if name not in self.figures[RANDOM]:
            return "No view shows any saliency."
        found = {row: self.differences[row][name] for row in self.readings}
        groups = {
            "more": [row for row, value in found.items() if value.above_zero],
            "less": [row for row, value in found.items() if value.below_zero],
        }
        undecided = [row for row in found if row not in groups["more"] + groups["less"]]
        told = [f"--salient-of {_either(rows)} hides {word} of the {name}" for word, rows in groups.items() if rows]
        told += [f"--salient-of {_either(undecided)} is undecided"] if undecided else []
        return f"Against random masks: {'; '.join(told)}."


def _named(row: str) -> str:
    return f"of {row}" if row in SALIENT_OF else row


def _either(rows: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(rows[:-1]), rows[-1]]))


def print_hidden(found: HiddenPatches) -> None:
    """The masks next to each other, figure by figure, and what follows in words."""
    heading, *rows = found.table()
    title = f"\nShare hidden at salient ratio {found.asked['salient_ratio']:g}, 95 % intervals"
    table = Table(*heading, box=None, padding=(0, 2, 0, 0), pad_edge=False, title=title, title_justify="left")
    for cells in rows:
        table.add_row(*map(plain, cells))
    console = Console()
    console.print(table)
    console.print(plain(f"\n{found.verdict()}"))
