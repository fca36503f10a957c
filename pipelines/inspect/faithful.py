"""Maps judged without masks: what the model's score does when the pixels they rank, or the words they follow, change.

For a sample of pairs the CLIP that made the maps looks at changed images (:mod:`saliency.faithfulness`), under the map
and under five controls: the true mask where there is one, the inverted map, a centre prior, a random map and the
uniform map. Then it makes the same image's map under captions that name another object. One pair is held at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UserError
from pipelines.inspect.faithful_verdict import (
    ABSENT,
    FIGURES,
    INVERTED,
    ORACLE,
    OWN,
    PRESENT,
    RANDOM,
    ROWS,
    SWAP_FIGURES,
    SWAP_ROWS,
    FaithScores,
    SwapScores,
)
from pipelines.inspect.map_scores import estimates, evenly_spaced, joined_pairs
from pipelines.inspect.map_verdict import CENTRE, MAPS, UNIFORM, Estimate
from pipelines.progress import progress_bar
from pipelines.sources.images import BadImage
from pipelines.sources.source import Source, Swap
from saliency.faithfulness import BASELINES, Faithfulness, Perturbed, Score, curve_area
from saliency.maps import Box
from saliency.quality import as_box, centre_prior, energy_inside, lay_on_image, other_captions
from saliency.table.table import SaliencyTable

Mask = NDArray[np.bool_]
Map = NDArray[np.float32]


def score_faithfulness(
    table: SaliencyTable, source: Source, *, limit: int = 100, device: str = "cpu", seed: int = 0, quiet: bool = True
) -> FaithScores:
    """Judge at most ``limit`` of a table's pairs, evenly spaced, by what its CLIP does.

    ``seed`` draws the random maps and the bootstrap. A pair whose image can't be read is passed over and counted.
    Raises UserError if the CLIP that made the maps can't be had.
    """
    from pipelines.build.remade_maps import Remaker  # with torch and a CLIP, which nothing else here needs

    try:
        remaker = Remaker(table, device=device)
    except ValueError as error:
        raise UserError(f"--faithful needs the CLIP that made the maps: {error}") from error
    pairs, rows = joined_pairs(table, source)
    pairs = evenly_spaced(pairs, limit)
    captions = [str(caption) for caption in table.captions.take(rows[pairs]).to_pylist()]
    tally, swaps, skipped = FaithTally(), SwapTally(), list[tuple[str, str]]()
    with progress_bar(total=len(pairs), unit="maps", name="faithful", part=True, quiet=quiet) as bar:
        for pair, caption, other in zip(pairs.tolist(), captions, other_captions(captions), strict=True):
            try:
                look, mask = remaker.look(source.read_image(pair)), source.read_mask(pair)
            except (BadImage, OSError) as error:
                skipped.append((source.keys[pair].as_py(), str(error)))
                continue
            finally:
                bar.update(1)
            values, box = table.raw_maps(rows[[pair]])[0], as_box(table.boxes(rows[[pair]])[0])
            image, score, number = look[0].astype(np.float32), remaker.score(caption), source.row(pair)
            tally.measure(number, measure_rows(image, score, {MAPS: values}, box, mask, seed=(seed, number)))
            swap = source.swap(pair) or (Swap(other) if other != caption else None)
            if swap is not None:
                named = named_captions(caption, swap)
                made = remaker.maps([look] * len(named), list(named.values()))
                cosines = {row: float(remaker.score(text)(image[None])[0]) for row, text in named.items()}
                maps = dict(zip(named, made, strict=True))
                swaps.add(number, swap_figures(maps, cosines, box, mask, swap.mask))
    return tally.scores(swaps.scores(known=source.swaps is not None, seed=seed), skipped, seed)


def measure_rows(
    image: Map, score: Score, maps: Mapping[str, Map], box: Box, mask: Mask | None, *, seed: int | tuple[int, ...] = 0
) -> dict[str, Faithfulness]:
    """Maps of one image by name, all float32 [G, G], and the controls; ``INVERTED`` is the first map's.

    ``image``: what the model sees, float32 [3, S, S] in 0..255; ``box``: the part of the whole image that it covers.
    ``mask`` of the whole image, bool [H, W], gives the oracle.
    """
    perturbed = Perturbed(image, score, seed=seed)
    rows = {name: perturbed.measure(values) for name, values in maps.items()}
    first = next(iter(maps))
    grid = (maps[first].shape[0], maps[first].shape[1])
    rows[INVERTED] = rows[first].inverted()
    rows[CENTRE] = perturbed.measure(centre_prior(grid, box=box))
    rows[RANDOM] = perturbed.measure(perturbed.random_map(grid))
    rows[UNIFORM] = replace(rows[RANDOM], salience=np.zeros_like(rows[RANDOM].salience))
    oracle = None if mask is None else mask_on_grid(mask, grid, box)
    if oracle is not None and oracle.any():
        rows[ORACLE] = perturbed.measure(oracle)
    return rows


def mask_on_grid(mask: Mask, grid: tuple[int, int], box: Box) -> Map:
    """The share of each cell that a mask bool [H, W] covers, float32 [G, G]; the grid lies on ``box`` of the image."""
    import torch

    from saliency.resample import area_resample

    shares = area_resample(torch.from_numpy(mask)[None].float(), grid, boxes=torch.tensor([box]))
    return np.asarray(shares[0].numpy(), np.float32)


def named_captions(caption: str, swap: Swap) -> dict[str, str]:
    """The captions by their row of the table."""
    named = {OWN: caption, ABSENT: swap.absent}
    return named if swap.present is None else named | {PRESENT: swap.present}


def swap_figures(
    maps: Mapping[str, Map], cosines: Mapping[str, float], box: Box, named: Mask | None, other: Mask | None
) -> dict[tuple[str, str], float]:
    """The figures of one image's raw maps [G, G] under its own caption and others, by (row, figure).

    ``named`` and ``other``: the masks of the objects that ``OWN`` and ``PRESENT`` name, bool [H, W].
    """
    found = {}
    for row, values in maps.items():
        found[row, "peak"], found[row, "cosine"] = float(values.max()), cosines[row]
        for figure, mask in (("on_named", named), ("on_other", other)):
            if mask is not None and mask.any():
                laid = lay_on_image(values, (mask.shape[0], mask.shape[1]), box)
                found[row, figure] = energy_inside(laid, mask)
    return found


@dataclass
class Records:
    """Figures of pairs, some of which lack some figures."""

    images: list[int] = field(default_factory=list)
    values: list[dict[Any, float]] = field(default_factory=list)

    def add(self, image: int, values: dict[Any, float]) -> None:
        """Take in one pair under the number of its image."""
        self.images.append(image)
        self.values.append(values)

    def column(self, key: Any) -> NDArray[np.float64]:
        """A figure of every pair, [n], NaN where a pair lacks it."""
        return np.asarray([values.get(key, np.nan) for values in self.values], np.float64)

    def estimates(self, columns: Mapping[str, NDArray[np.float64]], seed: int = 0) -> dict[str, Estimate]:
        """The means of columns [n] with their intervals, each over the pairs that have it; none without any pair."""
        found: dict[str, Estimate] = {}
        images = np.asarray(self.images, np.int64)
        for name, column in columns.items():
            known = ~np.isnan(column)
            if known.any():
                found |= estimates({name: column[known]}, images[known], seed)
        return found


@dataclass
class FaithTally(Records):
    """Curves and coefficients as they come in, pair by pair; any rows."""

    curves: dict[tuple[str, str], list[NDArray[np.float64]]] = field(default_factory=lambda: defaultdict(list))

    def measure(self, image: int, found: Mapping[str, Faithfulness]) -> None:
        """Take in the rows of one pair under the number of its image."""
        first = next(iter(found.values()))
        values: dict[Any, float] = {("image", name): curve[0] - curve[-1] for name, curve in first.deletion.items()}
        for row, one in found.items():
            values[row, "saco"] = one.saco
            for name in BASELINES:
                for figure, curve in ((f"insertion_{name}", one.insertion), (f"deletion_{name}", one.deletion)):
                    values[row, figure] = curve_area(curve[name])
                    self.curves[row, figure].append(curve[name])
        self.add(image, values)

    def figures(self, row: str, seed: int = 0) -> dict[str, Estimate]:
        """The means of a row; empty if no pair has it."""
        return self.estimates({name: self.column((row, name)) for name in FIGURES}, seed)

    def differences(self, row: str, control: str, seed: int = 0) -> dict[str, Estimate]:
        """Row − control, pair by pair over the pairs that have both."""
        return self.estimates({name: self.column((row, name)) - self.column((control, name)) for name in FIGURES}, seed)

    def scores(self, swaps: SwapScores | None, skipped: Sequence[tuple[str, str]], seed: int) -> FaithScores:
        """Everything in sum."""
        figures = {row: self.figures(row, seed) for row in ROWS}
        present = [row for row in ROWS if figures[row]]
        return FaithScores(
            pairs=len(self.values),
            images=len(set(self.images)),
            figures={row: figures[row] for row in present},
            differences={row: self.differences(MAPS, row, seed) for row in present if row != MAPS},
            curves={(row, name): np.mean(curves, axis=0).tolist() for (row, name), curves in self.curves.items()},
            evidence=self.estimates({name: self.column(("image", name)) for name in BASELINES}, seed),
            swaps=swaps,
            skipped=tuple(skipped),
        )


class SwapTally(Records):
    """Figures of maps under other captions as they come in; see :func:`swap_figures`."""

    def scores(self, *, known: bool, seed: int = 0) -> SwapScores | None:
        """Everything in sum, None without any pair; ``known``: the source knows that the absent object is absent."""
        if not self.values:
            return None
        own, absent = self.column((OWN, "peak")), self.column((ABSENT, "peak"))
        scale = own.mean()
        figures = {}
        for row in SWAP_ROWS:
            columns = {name: self.column((row, name)) for name in SWAP_FIGURES}
            figures[row] = self.estimates(columns | {"peak": columns["peak"] / (scale if scale > 0 else np.nan)}, seed)
        total = own + absent
        effects = {
            "moved": self.column((PRESENT, "on_other")) - self.column((OWN, "on_other")),
            "left": self.column((PRESENT, "on_named")) - self.column((OWN, "on_named")),
            "fading": (own - absent) / np.where(total > 0, total, np.nan),
            "weaker": (absent < own) + 0.5 * (absent == own),
        }
        return SwapScores(
            pairs=len(self.values),
            with_present=int((~np.isnan(self.column((PRESENT, "peak")))).sum()),
            known=known,
            figures={row: found for row, found in figures.items() if found},
            effects=self.estimates(effects, seed),
        )
