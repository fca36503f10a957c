"""``diff``: which pairs of two tables of maps came, went or changed, and how far the maps of the others agree.

Pairs are joined by key and caption. Maps are read through the memory-mapped copies that training uses, a few thousand
at a time, so that memory holds the hashes and figures of the pairs, and no maps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.diff.agreement import Spread, overlap
from pipelines.diff.difference import CHANGES, MapDifference, WorstPair
from pipelines.diff.options import DiffOptions
from pipelines.diff.pictures import DRAWN, draw_worst
from pipelines.errors import UserError, user_errors
from pipelines.hub import find_maps
from pipelines.outputs import check_apart
from pipelines.progress import progress_bar
from saliency.files import opened_atomically, remove_leftovers, write_text_atomically
from saliency.quality import correlation
from saliency.table.rows import hashes_of, pair_hashes
from saliency.table.shard import ShardFile
from saliency.table.table import SaliencyTable, shard_files

FIGURES_FILE, PAIRS_FILE, PICTURE = "diff.json", "pairs.jsonl", "worst.png"
_BATCH = 4096
_ROUNDING = 1e-5  # of a score, between machines


def diff(options: DiffOptions, *, quiet: bool = False) -> MapDifference:
    """Compare two tables of maps, and write what was asked for.

    Raises UserError for a folder that is no finished table, for tables of other grids, and for an ``out`` that holds
    something else.
    """
    folders = [find_maps(place) for place in (options.before, options.after)]
    if options.out is not None:
        _check_out(options.out, folders)
    with user_errors():
        before, after = (SaliencyTable(folder) for folder in folders)
    if before.grid != after.grid:
        raise UserError(
            f"{options.before} has maps of {before.grid}×{before.grid} cells and {options.after} of "
            f"{after.grid}×{after.grid}: only maps of one grid can be compared; build with --grid {before.grid}"
        )
    if before.slots != after.slots:
        raise UserError(
            f"{options.before} has {before.slots} maps a row and {options.after} {after.slots}: build with the same "
            "--slots"
        )
    pairs = _compared(before, after, options.area, quiet)
    found = _summary(options, before, after, pairs)
    return found if options.out is None else _written(options, options.out, before, after, pairs, found)


@dataclass(frozen=True)
class _Pairs:
    """The pairs of two tables. ``before`` and ``after`` are the rows of those in both, int [n], in the order after.

    ``changed`` has a bool [n] for each of ``CHANGES``, ``figures`` are float32 [n]; correlation and IoU are NaN where
    they were not measured, because a map is ``flat`` or the maps cover ``other_parts`` of the image, bool [n].
    """

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    came: NDArray[np.int64]
    went: NDArray[np.int64]
    changed: dict[str, NDArray[np.bool_]]
    figures: dict[str, NDArray[np.float32]]
    flat: NDArray[np.bool_]
    other_parts: NDArray[np.bool_]

    def worst(self, count: int) -> NDArray[np.int64]:
        """The places of at most ``count`` pairs whose maps differ, those that correlate least first."""
        order = np.lexsort((self.figures["iou"], self.figures["correlation"]))[:count]
        return order[self.figures["correlation"][order] < 1]  # NaN is sorted to the end, and is not below 1


def _compared(before: SaliencyTable, after: SaliencyTable, area: float, quiet: bool) -> _Pairs:
    places = before.join(after.keys, after.captions)
    rows = np.flatnonzero(places >= 0)
    theirs, count = places[rows], len(rows)
    went = np.ones(len(before), bool)
    went[theirs] = False
    images = pc.not_equal(_images(before).take(pa.array(theirs)), _images(after).take(pa.array(rows)))
    scores = after.clip_scores[rows] - before.clip_scores[theirs]
    changed = {"image": np.asarray(images), "map": np.zeros(count, bool), "clip_score": np.abs(scores) > _ROUNDING}
    figures = {name: np.full(count, np.nan, np.float32) for name in ("correlation", "iou")} | {"clip_score": scores}
    flat, other_parts = np.zeros(count, bool), np.zeros(count, bool)
    with progress_bar(total=count, unit="pairs", name="maps", part=True, quiet=quiet) as bar:
        for start in range(0, count, _BATCH):
            part = slice(start, start + _BATCH)
            one, other = (
                table.raw_slot_maps(places).reshape(-1, table.slots * table.grid, table.grid)
                for table, places in ((before, theirs[part]), (after, rows[part]))
            )
            moved = (before.boxes(theirs[part]) != after.boxes(rows[part])).any(axis=1)
            changed["map"][part] = moved | (one != other).any(axis=(1, 2))
            empty = (np.ptp(one, axis=(1, 2)) == 0) | (np.ptp(other, axis=(1, 2)) == 0)
            flat[part], other_parts[part] = empty & ~moved, moved
            kept = ~(empty | moved)
            figures["correlation"][part][kept] = correlation(one[kept], other[kept])
            figures["iou"][part][kept] = overlap(one[kept], other[kept], area)
            bar.update(len(moved))
    came = np.flatnonzero(places < 0)
    return _Pairs(theirs, rows, came, np.flatnonzero(went), changed, figures, flat, other_parts)


def _images(table: SaliencyTable) -> pa.Array:
    """A hash of the ``image_sha256`` of every row."""
    with user_errors():
        found = (
            pair_hashes(batch["image_sha256"])
            for path in shard_files(table.folder)
            for batch in ShardFile(path).batches(["image_sha256"])
        )
        return pa.concat_arrays([hashes_of(b""), *found])


def _summary(options: DiffOptions, before: SaliencyTable, after: SaliencyTable, pairs: _Pairs) -> MapDifference:
    made, remade = before.metadata, after.metadata
    names = (name for name in {**made, **remade} if made.get(name) != remade.get(name))
    spreads = {name: Spread.of(values[np.isfinite(values)]) for name, values in pairs.figures.items()}
    changed = np.logical_or.reduce(list(pairs.changed.values()))
    return MapDifference(
        before=str(options.before),
        after=str(options.after),
        grid=after.grid,
        area=options.area,
        came=len(pairs.came),
        went=len(pairs.went),
        common=len(pairs.after),
        same=int((~changed).sum()),
        changed={name: int(pairs.changed[name].sum()) for name in CHANGES},
        flat=int(pairs.flat.sum()),
        other_parts=int(pairs.other_parts.sum()),
        settings={name: (made.get(name), remade.get(name)) for name in names},
        agreement={name: spread for name, spread in spreads.items() if spread is not None},
        worst=tuple(
            WorstPair(key, caption, float(pairs.figures["correlation"][place]), float(pairs.figures["iou"][place]))
            for place in pairs.worst(options.worst).tolist()
            for key, caption in _named(after, pairs.after[[place]])
        ),
    )


def _check_out(out: Path, folders: list[Path]) -> None:
    check_apart(out, folders)
    if out.is_file():
        raise UserError(f"--out {out} is a file; give a folder")
    ours = {FIGURES_FILE, PAIRS_FILE, PICTURE}
    strangers = sorted(path.name for path in out.glob("*") if path.name not in ours and path.name[0] != ".")
    if strangers:
        raise UserError(f"--out {out} holds other files (found {strangers[0]}): give an empty folder")


def _written(
    options: DiffOptions, out: Path, before: SaliencyTable, after: SaliencyTable, pairs: _Pairs, found: MapDifference
) -> MapDifference:
    """Write the figures, the list of pairs and the picture, which is drawn if the maps of any pair differ."""
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out, deep=False)
    with opened_atomically(out / PAIRS_FILE) as file:
        for line in _lines(before, after, pairs):
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    (out / PICTURE).unlink(missing_ok=True)
    places = pairs.worst(min(options.worst, DRAWN))
    files = [out / FIGURES_FILE, out / PAIRS_FILE]
    if len(places):
        rows = np.stack([pairs.before[places], pairs.after[places]], axis=1)
        words = [f"correlation {each.correlation:.2f}\nIoU {each.iou:.2f}" for each in found.worst[:DRAWN]]
        draw_worst(out / PICTURE, options, before, after, rows, words)
        files.append(out / PICTURE)
    write_text_atomically(out / FIGURES_FILE, json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n")
    return replace(found, files=tuple(files))


def _lines(before: SaliencyTable, after: SaliencyTable, pairs: _Pairs) -> Iterator[dict[str, Any]]:
    """Every pair that came, went or changed."""
    for what, table, rows in (("came", after, pairs.came), ("went", before, pairs.went)):
        yield from ({"pair": what, "key": key, "caption": caption} for key, caption in _named(table, rows))
    places = np.flatnonzero(np.logical_or.reduce(list(pairs.changed.values())))
    for place, (key, caption) in zip(places.tolist(), _named(after, pairs.after[places]), strict=True):
        figures = {name: float(values[place]) for name, values in pairs.figures.items()}
        yield {
            "pair": "changed",
            "key": key,
            "caption": caption,
            "changed": [name for name, values in pairs.changed.items() if values[place]],
            "correlation": figures["correlation"] if np.isfinite(figures["correlation"]) else None,
            "iou": figures["iou"] if np.isfinite(figures["iou"]) else None,
            "clip_score_change": figures["clip_score"],
        }


def _named(table: SaliencyTable, rows: NDArray[np.int64]) -> Iterator[tuple[str, str]]:
    """Key and caption of some rows."""
    for start in range(0, len(rows), _BATCH):
        taken = pa.array(rows[start : start + _BATCH])
        columns = (column.take(taken).to_pylist() for column in (table.keys, table.captions))
        yield from zip(*columns, strict=True)
