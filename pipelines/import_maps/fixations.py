"""Fixations and clicks as maps: a Gaussian around each, integrated exactly over every cell of the grid.

They come as SALICON's JSON, whose fixations are [row, column] counted from 1, or as a table with a row for each. The
raw value of a cell is the share of all weight that falls into it, so that a map sums to 1 but for what lies beyond the
picture's edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import ndtr

from pipelines.errors import UserError
from pipelines.import_maps.keys import match
from pipelines.import_maps.reader import Asked, Reader, found_map, hash_file
from pipelines.import_maps.table_columns import column_named, key_column, text_column
from pipelines.sources.images import BadImage
from pipelines.sources.source import Source
from pipelines.sources.tables.columns import is_text, text_values
from pipelines.sources.tables.table_files import Table, read_tables
from pipelines.sources.tables.table_source import column_of
from saliency.maps import FULL, Box
from saliency.shape import read_fitting

X, Y = "x", "y"
WEIGHTS = ("weight", "duration")
"""Columns that say how much a fixation counts, the first before the second."""

LARGEST_FIXATIONS = 4 << 30
"""Bytes of a JSON file of fixations."""

_AT_ONCE = 1 << 14  # fixations whose Gaussians are held at a time
_ASPECTS = 0.03  # by which a picture's sides may differ from those that the fixations are of


@dataclass(frozen=True)
class Points:
    """The fixations of pictures: those of picture i are ``starts[i]`` to ``starts[i + 1]``."""

    names: list[str]
    starts: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    weights: NDArray[np.float64] | None = None
    sizes: NDArray[np.int64] | None = None
    """int64 [n, 2]: width and height of the picture that x and y are pixels of, where these are not the image's."""
    in_pixels: bool = True

    def map(self, number: int, size: tuple[int, int], grid: int, sigma: float, off_picture: str) -> NDArray[np.float32]:
        """The map of a picture whose image is ``size`` (width, height). Raises BadImage."""
        rows = slice(self.starts[number], self.starts[number + 1])
        x, y = self.x[rows], self.y[rows]
        weights = np.ones(len(x)) if self.weights is None else self.weights[rows]
        width, height = size if self.sizes is None else self.sizes[number].tolist()
        if abs(width * size[1] / (height * size[0]) - 1) > _ASPECTS:
            raise BadImage(f"its fixations are of a picture of {width}×{height}, its image has {size[0]}×{size[1]}")
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise BadImage("a fixation has a weight that is negative or no number")
        across, down = (x / width, y / height) if self.in_pixels else (x, y)
        inside = (across >= 0) & (across <= 1) & (down >= 0) & (down <= 1)  # NaN is nowhere
        if not inside.all() and off_picture == "reject":
            first = int(np.flatnonzero(~inside)[0])
            of = f"{width}×{height} pixels" if self.in_pixels else "1×1"
            raise BadImage(
                f"a fixation at x {x[first]:g}, y {y[first]:g} lies outside of its picture of {of} "
                f"({int((~inside).sum())} of {len(x)} do): --off-picture drop leaves such out"
            )
        if not weights[inside].sum() > 0:
            raise BadImage("it has no fixation on its picture")
        longer = sigma * max(size)
        return gaussians(across[inside], down[inside], weights[inside], (longer / size[0], longer / size[1]), grid)


def gaussians(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    weights: NDArray[np.float64],
    sigma: tuple[float, float],
    grid: int,
) -> NDArray[np.float32]:
    """The share of Gaussians' mass in each cell of the unit square, float32 [G, G].

    x, y, weights: [n]; ``sigma``: standard deviations along x and y, in fractions of the sides.
    """
    edges, total = np.arange(grid + 1) / grid, np.zeros((grid, grid))
    for start in range(0, len(x), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        across = np.diff(ndtr((edges - x[part, None]) / sigma[0]), axis=1)
        down = np.diff(ndtr((edges - y[part, None]) / sigma[1]), axis=1)
        total += (down * weights[part, None]).T @ across
    return np.asarray(total / weights.sum(), np.float32)


def open_salicon(options: Asked, source: Source) -> Reader:
    """The reader of a file in the form of SALICON's fixations. UserError."""
    return _reader(options, source, read_salicon(options.place), {})


def open_gaze(options: Asked, source: Source) -> Reader:
    """The reader of a table with a fixation or a click in each row. UserError."""
    if options.units is None:
        raise UserError(
            f"--from {options.maps_from} has columns x and y: say with --units whether they are pixels of the upright "
            "image or fractions of its sides"
        )
    points, weighted = read_gaze(options.place, options.units == "pixels", options.key_column)
    if points.in_pixels and max(np.nanmax(points.x, initial=0), np.nanmax(points.y, initial=0)) <= 1:
        raise UserError(f"--units pixels, but no x or y of {options.maps_from} is above 1: they are fractions")
    facts = {"units": options.units, "key_column": options.key_column, "weighted_by": weighted}
    return _reader(options, source, points, facts)


def _reader(options: Asked, source: Source, points: Points, facts: dict[str, Any]) -> Reader:
    matches = match(source, points.names, f"--from {options.maps_from}")

    def read(pair: int, size: tuple[int, int], grid: int) -> tuple[NDArray[np.float32], Box]:
        return points.map(found_map(matches, pair), size, grid, options.sigma, options.off_picture), FULL

    facts = {"imported_sha256": hash_file(options.place), "sigma": options.sigma} | facts
    facts |= {"off_picture": options.off_picture}
    return Reader(read, facts, matches.warnings, matches.unmatched)


class _Picture(TypedDict):
    id: int | str
    file_name: str
    width: int
    height: int


class _Annotation(TypedDict):
    image_id: int | str
    fixations: Any
    """[[row, column], …], counted from 1; looked at by NumPy, for there are millions."""


class _Salicon(TypedDict):
    images: list[_Picture]
    annotations: list[_Annotation]


def read_salicon(path: Path) -> Points:
    """The fixations of SALICON's JSON, all observers of an image together. UserError."""
    try:
        content = read_fitting(path, _Salicon, LARGEST_FIXATIONS)
    except ValueError as error:
        raise UserError(
            f"{path} is not in the form of SALICON's fixations ({error}); write a table of fixations or maps as "
            ".parquet, .csv, .tsv or .jsonl"
        ) from error
    pictures = {picture["id"]: i for i, picture in enumerate(content["images"])}
    found: list[list[NDArray[np.float64]]] = [[] for _ in content["images"]]
    for number, annotation in enumerate(content["annotations"]):
        place = pictures.get(annotation["image_id"])
        if place is None:
            raise UserError(
                f"{path}: annotation {number} is of the image {annotation['image_id']!r}, which is not listed"
            )
        found[place].append(_pairs(annotation["fixations"], f"{path}: annotation {number}"))
    counts = [sum(map(len, parts)) for parts in found]
    points = np.concatenate([np.zeros((0, 2)), *(part for parts in found for part in parts)])
    names = [picture["file_name"] for picture in content["images"]]
    sides = [(picture["width"], picture["height"]) for picture in content["images"]]
    sizes = np.asarray(sides, np.int64).reshape(-1, 2)
    if len(set(names)) < len(names) or len(pictures) < len(names):
        raise UserError(f"{path} lists an image twice")
    if (sizes < 1).any():
        raise UserError(f"{path} lists an image without width or height")
    starts = np.cumsum([0, *counts], dtype=np.int64)
    return Points(names, starts, points[:, 1] - 0.5, points[:, 0] - 0.5, sizes=sizes)  # the middles of these pixels


def _pairs(fixations: Any, where: str) -> NDArray[np.float64]:
    try:
        pairs = np.asarray(fixations, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{where} has fixations that are not all [row, column]") from error
    if not pairs.size:
        return np.zeros((0, 2))
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise UserError(f"{where} has fixations that are not all [row, column]")
    return pairs


def read_gaze(path: Path, in_pixels: bool, key: str | None = None) -> tuple[Points, str | None]:
    """The fixations of a table, and the column by which they are weighted, if it has one. UserError."""
    table = read_tables(str(path), [path])
    schema = table.rows.schema
    named = key_column(schema, str(path), key)
    x, y = (numbers(table, column_named(schema, name) or name) for name in (X, Y))
    weighted = next((found for name in WEIGHTS if (found := column_named(schema, name))), None)
    weights = None if weighted is None else numbers(table, weighted)
    codes, names = text_column(table, named)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(names) + 1))
    sorted_weights = None if weights is None else weights[order]
    return Points(names, starts, x[order], y[order], sorted_weights, in_pixels=in_pixels), weighted


def numbers(table: Table, column: str) -> NDArray[np.float64]:
    """A column as numbers, NaN where it has none; UserError for a column of something else."""
    values = column_of(table, column)
    if is_text(values.type):
        values = pc.utf8_trim_whitespace(text_values(values))
        values = pc.if_else(pc.equal(values, ""), None, values)
    try:
        found = pc.cast(values, pa.float64())
    except pa.ArrowException as error:
        raise UserError(f"{table.files[0]}: column {column!r} does not hold numbers: {error}") from error
    return np.asarray(found.to_numpy(zero_copy_only=False), np.float64)
