"""What was found of maps without masks, as plain numbers: curves, coefficients, swapped captions, and the verdict.

docs/guide/faithfulness.md explains the figures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.commandline.terminal import plain
from pipelines.inspect.map_verdict import (
    CENTRE,
    MAPS,
    UNIFORM,
    Estimate,
    compare_in_words,
    print_table,
    shown,
    without_nan,
)
from pipelines.plots import line_panels

ORACLE, INVERTED, RANDOM = "oracle", "inverted", "random"
ROWS = (MAPS, ORACLE, CENTRE, RANDOM, UNIFORM, INVERTED)
FIGURES = {
    "insertion_blurred": "insertion, blurred",
    "deletion_blurred": "deletion, blurred",
    "insertion_mean": "insertion, mean",
    "deletion_mean": "deletion, mean",
    "saco": "SaCo",
}
"""The figures and how they are shown; the deletions are better when they are lower."""
_IN_WORDS = {name: " (".join(shown.split(", ")) + ")" * (", " in shown) for name, shown in FIGURES.items()}
"""The same, within a sentence."""

OWN, PRESENT, ABSENT = "own_caption", "another_object", "absent_object"
SWAP_ROWS = (OWN, PRESENT, ABSENT)
SWAP_FIGURES = {"on_named": "on own object", "on_other": "on other object", "peak": "peak", "cosine": "cos"}
"""The figures of maps under swapped captions, and how they are shown."""


@dataclass(frozen=True)
class SwapScores:
    """Maps of the same images under captions that name another object.

    ``pairs`` were swapped, ``with_present`` of them for an object that is in the image too. ``known``: the source knows
    that the absent object is absent; if not, it is what another pair's caption names. ``figures``, by row and figure:
    the share of the map on the object of the own caption and on the other one, 0..1; the peak of the raw map as a
    multiple of the mean peak under the own captions; cos(image, caption). ``effects``: ``moved`` and ``left``, −1..1,
    how much more of the map lies on the other object, and on the own one, once the other one is named; ``fading``,
    −1..1, (own − absent) / (own + absent) of the raw peaks; ``weaker``, 0..1, the share of pairs with a lower peak
    for the absent object, equal ones counting half.
    """

    pairs: int
    with_present: int
    known: bool
    figures: dict[str, dict[str, Estimate]]
    effects: dict[str, Estimate]

    def table(self) -> list[list[str]]:
        """The figures as rows of text under a heading."""
        names = [name for name in SWAP_FIGURES if any(name in row for row in self.figures.values())]
        rows = [["", *(SWAP_FIGURES[name] for name in names)]]
        for row, found in self.figures.items():
            rows.append([shown(row), *(str(found[name]) if name in found else "—" for name in names)])
        return rows

    def verdict(self) -> str:
        """In plain words: whether the mass moves to the object that is named, and fades for one that is not there."""
        told = []
        if "moved" in self.effects:
            moved = self.effects["moved"]
            claim = _decided(moved, "moves to it", "moves away from it", "may or may not move to it")
            told.append(f"When the caption names another object of the image, the map {claim} ({moved.signed()}).")
        absent = "one that is not there" if self.known else "what another image shows"
        if "fading" not in self.effects:  # all maps are empty
            return " ".join(told)
        fading, weaker = self.effects["fading"], self.effects["weaker"]
        claim = _decided(fading, "fades", "grows stronger", "neither fades nor grows for certain")
        share = f"its peak is lower for {weaker.mean:.0%} of the pairs"
        subject = "it" if told else "the caption"
        return " ".join([*told, f"When {subject} names {absent}, the map {claim} ({fading.signed()}; {share})."])


@dataclass(frozen=True)
class FaithScores:
    """How true maps are to the model that made them.

    ``pairs`` measured, of ``images`` images. ``figures``, by row (``ROWS``, the oracle only over pairs with a mask) and
    figure (``FIGURES``): the areas under insertion and deletion curves of cos(image, caption), −1..1, and SaCo, −1..1.
    ``differences``: maps − control, by control. ``curves``: means by (row, figure), at equally spaced shares of pixels
    from 0 to 1. ``evidence``, by baseline: cos(image, caption) − cos(baseline, caption), which the curves divide among
    the pixels. ``swaps``: None where no caption could be swapped. ``skipped``: pairs that can't be read.
    """

    pairs: int
    images: int
    figures: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    curves: dict[tuple[str, str], list[float]]
    evidence: dict[str, Estimate] = field(default_factory=dict)
    swaps: SwapScores | None = None
    skipped: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain numbers that ``json`` writes; a number that is not known is null."""
        curves = {row: {name: self.curves[row, name] for name in FIGURES if (row, name) in self.curves} for row in ROWS}
        numbers = asdict(self) | {
            "curves": {row: found for row, found in curves.items() if found},
            "skipped": {"pairs": len(self.skipped), "first": self.skipped[0] if self.skipped else None},
        }
        plain_numbers: dict[str, Any] = without_nan(numbers)
        return plain_numbers

    def table(self) -> list[list[str]]:
        """The figures as rows of text under a heading; empty without any pair."""
        if not self.figures:
            return []
        rows = [["", *(name.replace(", ", "\n") for name in FIGURES.values())]]
        rows += [[shown(row), *(str(found[name]) for name in FIGURES)] for row, found in self.figures.items()]
        for control in (CENTRE, RANDOM):
            found = self.differences[control]
            rows.append([f"maps − {shown(control).split()[0]}", *(found[name].signed() for name in FIGURES)])
        return rows

    def verdict(self) -> str:
        """In plain words: whether the maps are truer to the model than a random map and a centre prior."""
        if not self.figures:
            return "No pair could be measured."
        first = compare_in_words(self._gains(RANDOM), "beat a random map", "a random map", names=_IN_WORDS)
        second = compare_in_words(self._gains(CENTRE), "beat the centre prior", "the centre prior", "They", _IN_WORDS)
        return " ".join([first, second, *self._doubts()])

    def _doubts(self) -> list[str]:
        """That curves mean little where there is nothing to explain."""
        none = {name: each for name, each in self.evidence.items() if not each.above_zero}
        return [
            f"With the {name} baseline the curves mean little: cos(image, caption) is not above that of the baseline "
            f"({each.signed()})."
            for name, each in none.items()
        ]

    def _gains(self, control: str) -> dict[str, Estimate]:
        """The differences from a control, turned so that more is better."""
        return {
            name: Estimate(-each.mean, -each.high, -each.low) if name.startswith("deletion") else each
            for name, each in self.differences[control].items()
        }


def _decided(value: Estimate, above: str, below: str, undecided: str) -> str:
    return above if value.above_zero else below if value.below_zero else undecided


def draw_curves(path: Path, scores: FaithScores) -> None:
    """The mean curves as a picture of four panels: insertion and deletion, with each baseline."""
    panels = {}
    for name in list(FIGURES)[:-1]:
        way, baseline = name.split("_")
        start, end = ("baseline", "image") if way == "insertion" else ("image", "baseline")
        title = f"{way.capitalize()}, {baseline} baseline: from {start} to {end}"
        named = {row: "random, uniform" if row == RANDOM else shown(row) for row in scores.figures if row != UNIFORM}
        panels[title] = {label: scores.curves[row, name] for row, label in named.items()}
    title = f"Mean over {scores.pairs} pairs. A true map is high in insertion and low in deletion."
    line_panels(path, panels, title=title, axis="share of pixels, most salient first", unit="cos(image, caption)")


def print_faithfulness(scores: FaithScores) -> None:
    """The maps next to their controls, the swapped captions, and what follows in words."""
    if scores.figures:
        heading, *rows = scores.table()
        title = f"{scores.pairs} maps judged by the model that made them, 95 % intervals"
        print_table(title, heading, [[cell.replace(" ± ", "±") for cell in cells] for cells in rows], space=1)
    Console().print(plain(f"\n{scores.verdict()}"))
    if scores.skipped:
        Console().print(plain(f"Passed over: {len(scores.skipped)} pairs, first: {': '.join(scores.skipped[0])}"))
    if scores.swaps:
        heading, *rows = scores.swaps.table()
        present = f", {scores.swaps.with_present} for an object of the image" if scores.swaps.with_present else ""
        print_table(f"{scores.swaps.pairs} captions swapped{present}, 95 % intervals", heading, rows)
        Console().print(plain(f"\n{scores.swaps.verdict()}"))
    elif scores.figures:
        Console().print("\nNo caption could be swapped: there is one caption in all.")
