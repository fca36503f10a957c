"""Maps judged: against the true masks of their source where it has any, beside three controls, and in themselves.

The controls are a centre prior, the maps of the same images under another pair's caption, and the uniform map. Pairs
are taken in batches and masks one at a time: whatever the number of pairs, memory holds one photo with its mask at
full size (about 40 bytes a pixel), one batch of what the model sees, and some thousand bytes of scores a pair.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UserError, user_errors
from pipelines.inspect.map_verdict import CENTRE, MAPS, ROWS, SHUFFLED, UNIFORM, Estimate, MapScores, PairScores
from pipelines.progress import progress_bar
from pipelines.sources.images import BadImage
from pipelines.sources.open_source import StreamSource, open_source
from pipelines.sources.source import Source
from saliency.maps import FULL
from saliency.names import FIGURES
from saliency.quality import (
    THRESHOLDS,
    PixelScores,
    area,
    as_box,
    best_threshold,
    bootstrap_intervals,
    caption_sensitivity,
    centre_correlation,
    centre_prior,
    degenerate_kinds,
    entropy,
    lay_on_image,
    other_captions,
    score_pixels,
    uniform_scores,
)
from saliency.table.imported import is_imported, without_clip
from saliency.table.manifest import read_manifest
from saliency.table.table import SaliencyTable

if TYPE_CHECKING:
    from pipelines.build.remade_maps import Remaker

BATCH = 64

Mask = NDArray[np.bool_]
Skipped = list[tuple[str, str]]


def score_maps(
    maps: Path | str | SaliencyTable,
    source: Source | None = None,
    *,
    limit: int = 500,
    device: str = "cpu",
    seed: int = 0,
    quiet: bool = True,
) -> MapScores:
    """Judge a maps folder on at most ``limit`` of its pairs, evenly spaced.

    ``source`` holds the images; if not given it is the one the maps were made of. Where there is none the maps are
    described by what needs no image. The shuffled captions need the CLIP that made the maps; ``device`` runs it.
    ``seed`` is the bootstrap's. Raises UserError for a folder that holds no maps, or those of another source.
    """
    with user_errors():
        table = maps if isinstance(maps, SaliencyTable) else SaliencyTable(maps)
        source = source_of_maps(table) if source is None else source
    if source is None:
        tally = _Tally()
        for rows in _chunks(evenly_spaced(np.arange(len(table)), limit)):
            tally.add(_Batch(rows, rows, table.raw_maps(rows), table.boxes(rows)))
        return tally.map_scores("the images are not at hand", [], seed)
    pairs, rows = joined_pairs(table, source)
    return _score_pairs(table, source, evenly_spaced(pairs, limit), rows, device, seed, quiet)


def score_arrays(
    maps: NDArray[np.float32],
    masks: Iterable[Mask | None] | None = None,
    *,
    boxes: NDArray[np.float32] | None = None,
    shuffled: NDArray[np.float32] | None = None,
    images: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> MapScores:
    """Judge raw maps ≥ 0, float32 [n, h, w].

    ``masks``: bool [H, W] of any size for each map, or None where it has none; read one at a time. ``boxes`` [n, 4]:
    the part of its image each map covers (default: all). ``shuffled`` [n, h, w]: maps of the same images under other
    captions. ``images`` int [n]: which maps are of one image (default: none), so that the bootstrap draws images.
    """
    count = len(maps)
    numbers = np.arange(count)
    covered = np.tile(np.asarray(FULL, np.float32), (count, 1)) if boxes is None else boxes
    tally = _Tally()
    if count:
        named = numbers if images is None else images
        tally.add(_Batch(numbers, named, maps, covered, shuffled, masks))
    no_shuffle = "no maps under other captions were given" if shuffled is None else None
    return tally.map_scores(no_shuffle, [], seed)


def source_of_maps(table: SaliencyTable, name: str | None = None, *, allow_outside: bool = False) -> Source | None:
    """The pairs that maps were made of, or those of the source ``name``; None if not known or not there any more.

    Raises UserError if ``name`` is given and can't be opened.
    """
    manifest = read_manifest(table.folder)
    origin: dict[str, Any] = manifest.origin if manifest else {}
    if name is None and "source" not in origin:
        return None
    options: dict[str, Any] = {key: origin.get(key) for key in ("split", "image_column", "caption_column", "limit")}
    options |= {"captions": origin.get("captions", "first"), "clips": origin.get("clips", False)}
    options |= {"allow_outside": allow_outside}
    try:
        source = open_source(name or origin["source"], **options)
        if options["captions"] == "first" and isinstance(source, Source) and _has_more(table, source):
            # once, a map was made of every row, also where rows were captions of one image
            source = open_source(name or origin["source"], **options, every_row=True)
    except UserError:
        if name is not None:
            raise
        return None
    return None if isinstance(source, StreamSource) else source


def _has_more(table: SaliencyTable, source: Source) -> bool:
    """Whether there are maps of no pair of the source."""
    rows = table.join(source.keys, source.captions)
    return len(np.unique(rows[rows >= 0])) < len(table)


def joined_pairs(table: SaliencyTable, source: Source) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of a source that have a map, and every pair's row in the table (−1: none); UserError if none has."""
    rows = table.join(source.keys, source.captions)
    pairs = np.flatnonzero(rows >= 0)
    if len(table) and not len(pairs):
        raise UserError(f"not one pair of {source.name} has a map in {table.folder}: these maps are of another source")
    return pairs, rows


def evenly_spaced(items: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most ``count`` of the items, in order and spread over all: a sorted source is more than its first class."""
    if len(items) <= count:
        return items
    return items[np.arange(count) * len(items) // count]


@dataclass
class _Batch:
    """Maps [b, G, G] of some pairs with the boxes [b, 4] they cover, and what else is known of them."""

    pairs: NDArray[np.int64]
    images: NDArray[np.int64]
    maps: NDArray[np.float32]
    boxes: NDArray[np.float32]
    shuffled: NDArray[np.float32] | None = None
    masks: Iterable[Mask | None] | None = None


def _score_pairs(
    table: SaliencyTable,
    source: Source,
    pairs: NDArray[np.int64],
    rows: NDArray[np.int64],
    device: str,
    seed: int,
    quiet: bool,
) -> MapScores:
    captions = [str(caption) for caption in table.captions.take(rows[pairs]).to_pylist()]
    others = other_captions(captions)
    remaker, no_shuffle = _remaker(table, device) if others != captions else (None, "there is one caption in all")
    tally, skipped = _Tally(), Skipped()
    with progress_bar(total=len(pairs), unit="maps", name="scores", part=True, quiet=quiet) as bar:
        for chunk in _chunks(np.arange(len(pairs))):
            tally.add(_read_batch(table, source, pairs[chunk], rows, [others[i] for i in chunk], remaker, skipped))
            bar.update(len(chunk))
    return tally.map_scores(no_shuffle, skipped, seed)


def _remaker(table: SaliencyTable, device: str) -> tuple[Remaker | None, str | None]:
    """What makes maps under other captions, or a line that says why there is nothing."""
    if without_clip(table.metadata):
        what = "are imported" if is_imported(table.metadata) else "show motion"
        return None, f"the maps {what}, and no CLIP makes them anew"
    from pipelines.build.remade_maps import Remaker  # with torch and a CLIP, which nothing else here needs

    try:
        return Remaker(table, device=device), None
    except ValueError as error:
        return None, str(error)


def _read_batch(
    table: SaliencyTable,
    source: Source,
    pairs: NDArray[np.int64],
    rows: NDArray[np.int64],
    captions: Sequence[str],
    remaker: Remaker | None,
    skipped: Skipped,
) -> _Batch:
    """The maps of some pairs; those whose image can't be read go to ``skipped``."""
    shuffled = None
    if remaker:
        good, looks = [], []
        for position, i in enumerate(pairs.tolist()):
            try:
                looks.append(remaker.look(source.read_image(i)))
            except (BadImage, OSError) as error:
                skipped.append((source.keys[i].as_py(), str(error)))
                continue
            good.append(position)
        pairs = pairs[good]
        made = remaker.maps(looks, [captions[position] for position in good]) if good else None
        shuffled = np.zeros((0, table.grid, table.grid), np.float32) if made is None else made
    images = pairs if source.rows is None else source.rows[pairs]
    masks = true_masks(source, pairs, skipped)
    return _Batch(pairs, images, table.raw_maps(rows[pairs]), table.boxes(rows[pairs]), shuffled, masks)


def true_masks(source: Source, pairs: NDArray[np.int64], skipped: Skipped) -> Iterator[Mask | None]:
    """The true masks of some pairs, read one at a time; those that can't be read go to ``skipped``, and are None."""
    for i in pairs.tolist():
        try:
            yield source.read_mask(i)
        except (BadImage, OSError) as error:
            skipped.append((source.keys[i].as_py(), f"its mask: {error}"))
            yield None


def _chunks(numbers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(numbers), BATCH):
        yield numbers[start : start + BATCH]


@dataclass
class _Tally:
    """Scores as they come in, batch by batch; ``map_scores`` sums them up."""

    seen: list[int] = field(default_factory=list)
    judged: list[tuple[int, int]] = field(default_factory=list)  # (pair, image)
    scores: dict[str, list[PixelScores]] = field(default_factory=lambda: collections.defaultdict(list))
    statistics: dict[str, list[NDArray[Any]]] = field(default_factory=lambda: collections.defaultdict(list))
    kinds: dict[str, list[NDArray[np.bool_]]] = field(default_factory=lambda: collections.defaultdict(list))

    def add(self, batch: _Batch) -> None:
        """Take in a batch; its masks are read one after the other, and not kept."""
        if not len(batch.pairs):
            return
        self.seen += batch.images.tolist()
        kinds = degenerate_kinds(batch.maps)
        found = {"degenerate": np.any(list(kinds.values()), axis=0), "entropy": entropy(batch.maps)}
        found |= {"area": area(batch.maps), "centre_correlation": centre_correlation(batch.maps, batch.boxes)}
        if batch.shuffled is not None:
            found["caption_sensitivity"] = caption_sensitivity(batch.maps, batch.shuffled)
        for into, values in ((self.statistics, found), (self.kinds, kinds)):
            for name, column in values.items():
                into[name].append(column)
        masks = [None] * len(batch.pairs) if batch.masks is None else batch.masks
        for position, mask in zip(range(len(batch.pairs)), masks, strict=True):
            if mask is not None and mask.any():
                self._score(batch, position, mask)

    def _score(self, batch: _Batch, position: int, mask: Mask) -> None:
        shape, box = (mask.shape[0], mask.shape[1]), as_box(batch.boxes[position])
        self.judged.append((int(batch.pairs[position]), int(batch.images[position])))
        self.scores[MAPS].append(score_pixels(lay_on_image(batch.maps[position], shape, box), mask))
        self.scores[CENTRE].append(score_pixels(centre_prior(shape), mask))
        self.scores[UNIFORM].append(uniform_scores(mask))
        if batch.shuffled is not None:
            self.scores[SHUFFLED].append(score_pixels(lay_on_image(batch.shuffled[position], shape, box), mask))

    def map_scores(self, no_shuffle: str | None, skipped: Skipped, seed: int) -> MapScores:
        """Means with their intervals; the same draws for every figure and every row, so that differences are paired."""
        columns = {name: np.concatenate(parts).astype(np.float64) for name, parts in self.statistics.items()}
        found = MapScores(
            seen=len(self.seen),
            judged=len(self.judged),
            images=len({image for _, image in self.judged}),
            statistics=estimates(columns, np.asarray(self.seen, np.int64), seed),
            kinds={name: float(np.concatenate(parts).mean()) for name, parts in self.kinds.items()},
            no_shuffle=no_shuffle,
            skipped=tuple(skipped),
        )
        return self._with_truth(found, seed) if self.judged else found

    def _with_truth(self, found: MapScores, seed: int) -> MapScores:
        pairs, images = np.asarray(self.judged, np.int64).T
        best = {row: best_threshold(np.stack([score.iou for score in self.scores[row]])) for row in self._rows()}
        columns = {(row, name): self._column(row, name, best[row]) for row in self._rows() for name in FIGURES}
        controls = [row for row in self._rows() if row != MAPS]
        apart = {(row, name): columns[MAPS, name] - columns[row, name] for row in controls for name in FIGURES}
        figures, differences = estimates(columns, images, seed), estimates(apart, images, seed)
        return replace(
            found,
            figures={row: {name: figures[row, name] for name in FIGURES} for row in self._rows()},
            thresholds={row: float(THRESHOLDS[step]) for row, step in best.items()},
            differences={row: {name: differences[row, name] for name in FIGURES} for row in controls},
            per_pair=PairScores(pairs, columns[MAPS, "pointing"], columns[MAPS, "energy"]),
        )

    def _rows(self) -> list[str]:
        return [row for row in ROWS if row in self.scores]

    def _column(self, row: str, name: str, threshold: int) -> NDArray[np.float64]:
        """One figure of every judged pair, [n]; the IoU at the row's best threshold for the whole set."""
        values = [score.iou[threshold] if name == "iou" else getattr(score, name) for score in self.scores[row]]
        return np.asarray(values, np.float64)


def estimates(columns: dict[Any, NDArray[np.float64]], images: NDArray[np.int64], seed: int) -> dict[Any, Estimate]:
    """The means of columns [n] with their bootstrap intervals over images, int [n]; all see the same draws."""
    if not columns:
        return {}
    values = np.stack(list(columns.values()), axis=1)
    low, high = bootstrap_intervals(values, images=images, seed=seed)
    ends = zip(values.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
    return {name: Estimate(*three) for name, three in zip(columns, ends, strict=True)}
