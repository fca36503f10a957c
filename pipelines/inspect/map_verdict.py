"""What was found of a set of maps, as plain numbers: figures beside their controls, with intervals, and the verdict.

``maps beat a control`` in a figure when the lower end of the paired bootstrap interval of (map − control) is above
zero, and fall behind it when the upper end is below; anything else is undecided. docs/guide/map-quality.md explains
the figures.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pipelines.commandline.terminal import plain
from saliency.names import FIGURES

MAPS, CENTRE, SHUFFLED, UNIFORM = "maps", "centre_prior", "shuffled_caption", "uniform"
ROWS = (MAPS, CENTRE, SHUFFLED, UNIFORM)
NAMES = {"pointing": "pointing", "energy": "energy", "iou": "IoU", "auc": "AUC"}
"""How the figures that need masks are shown."""
STATISTICS = {
    "degenerate": "degenerate maps",
    "entropy": "entropy (uniform: 1)",
    "area": "area above half the peak",
    "centre_correlation": "correlation with the centre",
    "caption_sensitivity": "caption sensitivity (none: 0)",
}
"""The figures that need no masks, and how they are shown."""


@dataclass(frozen=True)
class Estimate:
    """A mean and the ends of its 95 % bootstrap interval; the ends are NaN where fewer than two images were seen."""

    mean: float
    low: float
    high: float

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.low > 0

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.high < 0

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if math.isnan(self.low) else f" ± {(self.high - self.low) / 2:.3f}")

    def signed(self) -> str:
        """As a difference."""
        return ("+" if self.mean >= 0 else "") + str(self)


@dataclass(frozen=True)
class PairScores:
    """The scores of single pairs: ``pairs`` int [n], rows of the source; ``pointing`` and ``energy`` float [n]."""

    pairs: NDArray[np.int64]
    pointing: NDArray[np.float64]
    energy: NDArray[np.float64]


@dataclass(frozen=True)
class MapScores:
    """How good a set of maps is.

    ``seen``: maps looked at; ``judged``: those with a true mask, of ``images`` images; ``skipped``: pairs whose image
    or mask can't be read, as (key, reason). ``figures``, by row (``ROWS``) and figure, is empty without masks, and has
    no row for the shuffled caption where ``no_shuffle`` says why. ``thresholds``: the share of the peak at which each
    row has its highest IoU. ``differences``: maps − control, by control. ``statistics`` need no masks.
    """

    seen: int
    judged: int
    images: int
    statistics: dict[str, Estimate]
    kinds: dict[str, float] = field(default_factory=dict)
    """The share of degenerate maps of each kind."""
    figures: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    differences: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    no_shuffle: str | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    per_pair: PairScores | None = field(default=None, repr=False, compare=False)
    """For pictures; not a part of the numbers."""

    def beats(self, figure: str, control: str = CENTRE) -> bool:
        """Whether the maps are better than a control in one of ``FIGURES``; False where that was not measured."""
        return control in self.differences and self.differences[control][figure].above_zero

    def to_json(self) -> dict[str, Any]:
        """Plain numbers that ``json`` writes; a number that is not known is null."""
        numbers = {
            name: value for name, value in asdict(self).items() if name not in ("per_pair", "skipped", "statistics")
        }
        numbers["statistics"] = {name: asdict(value) for name, value in self.statistics.items()}
        numbers["skipped"] = {"pairs": len(self.skipped), "first": self.skipped[0] if self.skipped else None}
        numbers["beats_centre_prior"] = {name: self.beats(name) for name in FIGURES} if self.differences else None
        plain: dict[str, Any] = without_nan(numbers)
        return plain

    def table(self) -> list[list[str]]:
        """The figures with masks as rows of text under a heading; empty where there are none."""
        if not self.figures:
            return []
        rows = [["", *(NAMES[name] for name in FIGURES)]]
        for row in ROWS:
            cells = [str(self.figures[row][name]) for name in FIGURES] if row in self.figures else ["—"] * len(FIGURES)
            rows.append([shown(row), *cells])
        for control, differences in self.differences.items():
            if control != UNIFORM:
                rows.append([f"maps − {shown(control).split()[0]}", *(differences[name].signed() for name in FIGURES)])
        return rows

    def facts(self) -> dict[str, str]:
        """What stands beside the table, as lines of text."""
        facts = {STATISTICS[name]: str(value) for name, value in self.statistics.items()}
        kinds = ", ".join(f"{name} {share:.1%}" for name, share in self.kinds.items() if share > 0)
        if kinds:
            facts[STATISTICS["degenerate"]] += f" ({kinds})"
        if self.no_shuffle:
            facts[STATISTICS["caption_sensitivity"]] = f"not judged: {self.no_shuffle}"
        if self.skipped:
            facts["passed over"] = f"{len(self.skipped)} pairs, first: {': '.join(self.skipped[0])}"
        if self.figures:
            others = ", ".join(f"{shown(row)} {t:.2f}" for row, t in self.thresholds.items() if row != UNIFORM)
            facts["best IoU at"] = f"share of the peak: {others}"
        return facts

    def verdict(self) -> str:
        """In plain words: whether the maps beat the centre prior, and whether they follow the caption."""
        if not self.figures:
            return "There are no true masks, so it is not known whether these maps find what their captions name."
        first = _compare(self.differences[CENTRE], "beat the centre prior", "the centre prior")
        if self.no_shuffle:
            return f"{first} Whether they follow the caption is unknown: {self.no_shuffle}."
        if SHUFFLED not in self.differences:
            return first  # no captions played a part
        return f"{first} {_compare(self.differences[SHUFFLED], 'follow the caption', 'a shuffled caption', 'They')}"


def shown(row: str) -> str:
    """A row's name as text."""
    return row.replace("_", " ")


def _compare(differences: dict[str, Estimate], claim: str, control: str, subject: str = "The maps") -> str:
    better = [name for name in FIGURES if differences[name].above_zero]
    worse = [name for name in FIGURES if differences[name].below_zero]
    undecided = [name for name in FIGURES if name not in (*better, *worse)]
    if len(better) == len(FIGURES):
        return f"{subject} {claim} in every figure."
    if len(undecided) == len(FIGURES):
        return f"Whether {subject.lower()} {claim} is undecided in every figure."
    head = f"{subject} {claim} in {_listed(better)}" if better else f"{subject} do not {claim}"
    rest = [f"worse than {control} in {_listed(worse)}"] if worse else []
    rest += [f"undecided in {_listed(undecided)}"] if undecided else []
    return f"{head}{'; ' if better else ': '}{'; '.join(rest)}."


def _listed(names: list[str]) -> str:
    words = [NAMES[name] for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def without_nan(value: Any) -> Any:
    """Plain values that ``json`` writes, null for what is not a number."""
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def print_map_scores(map_scores: MapScores) -> None:
    """The maps beside their controls, figure by figure, and what follows in words."""
    heading, *rows = map_scores.table() or [[]]
    console = Console()
    if rows:
        title = f"\n{map_scores.judged} maps with true masks, 95 % intervals"
        table = Table(*heading, box=None, padding=(0, 2, 0, 0), pad_edge=False, title=title, title_justify="left")
        for cells in rows:
            table.add_row(*map(plain, cells))
        console.print(table)
    console.print(plain(f"\n{map_scores.verdict()}"))
