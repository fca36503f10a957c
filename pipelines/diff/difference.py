"""What two tables of maps differ in, as plain numbers and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.diff.agreement import QUANTILES, Spread
from saliency.shown import aligned

CHANGES = {"image": "other image", "map": "other map", "clip_score": "other score"}
"""What can have changed about a pair, and how it is shown."""
FIGURES = {"correlation": "correlation", "iou": "IoU", "clip_score": "change of the score"}
_EDGES = {0: "least", 50: "median", 100: "most"}


@dataclass(frozen=True)
class WorstPair:
    """A pair whose maps agree less than those of most others."""

    key: str
    caption: str
    correlation: float
    iou: float


@dataclass(frozen=True)
class MapDifference:
    """What ``diff`` found.

    Counts of pairs: ``came`` are in the second table alone, ``went`` in the first alone, ``common`` in both. Of those,
    ``same`` have the same image, map and score; ``changed`` counts the others by what changed, where a pair may count
    more than once. ``agreement`` has, by name, how far the maps of a pair agree: ``correlation`` (Pearson, −1..1) and
    ``iou`` of the most salient cells (0..1), and how the ``clip_score`` changed. Pairs that have no correlation
    (``flat``: a map without any differences) or whose maps cover ``other_parts`` of the image are left out of the first
    two. ``settings`` has those that differ, as (before, after). ``files`` are those that were written.
    """

    before: str
    after: str
    grid: int
    area: float
    came: int
    went: int
    common: int
    same: int
    changed: Mapping[str, int]
    flat: int
    other_parts: int
    settings: Mapping[str, tuple[Any, Any]]
    agreement: Mapping[str, Spread]
    worst: tuple[WorstPair, ...] = ()
    files: tuple[Path, ...] = field(default=(), compare=False)

    def to_json(self) -> dict[str, Any]:
        """Everything but the files, as plain values that ``json`` writes."""
        plain = asdict(self)
        del plain["files"]
        return plain | {"quantiles_percent": list(QUANTILES)}

    def facts(self) -> dict[str, str]:
        """The counts and settings as lines of text by title."""
        facts = {
            "pairs": f"{self.went + self.common} before, {self.came + self.common} after",
            "came": str(self.came),
            "went": str(self.went),
            "in both": f"{self.common}, of which {self.same} are the same",
        }
        facts |= {CHANGES[name]: str(count) for name, count in self.changed.items() if count}
        if self.flat:
            facts["empty"] = f"{self.flat} pairs have an empty map, which agrees with none"
        if self.other_parts:
            facts["other parts"] = f"{self.other_parts} pairs have maps of other parts of the image: not compared"
        made = (f"{name} {before} → {after}" for name, (before, after) in self.settings.items())
        facts["made with"] = "; ".join(made) or "the same settings"
        return facts

    def table(self) -> str:
        """The agreement as a table; empty if no maps were compared."""
        if not self.agreement:
            return ""
        heads = (_EDGES.get(quantile, f"{quantile} %") for quantile in QUANTILES)
        rows = [["figure", "pairs", "mean", *heads]]
        for name, spread in self.agreement.items():
            title = f"{FIGURES[name]} at {self.area:.0%}" if name == "iou" else FIGURES[name]
            values = (f"{round(value, 3) + 0.0:.3f}" for value in (spread.mean, *spread.quantiles))  # 0.0, not −0.0
            rows.append([title, str(spread.count), *values])
        return aligned(rows)

    def __str__(self) -> str:
        facts = aligned([[name, value] for name, value in self.facts().items()])
        return f"{facts}\n\n{self.table()}".rstrip()
