"""Tables of maps: a row for each, with a list of numbers, a list of such lists, an image or the name of a file.

Rows are matched by key and, where the table has a column ``caption``, by the caption. A map covers the whole image
unless the column ``crop_box`` says otherwise. With the columns ``vmin`` and ``scale``, as ``export-maps`` and our own
tables have them, whole numbers and PNG files give back the raw values.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UserError
from pipelines.import_maps.fixations import numbers
from pipelines.import_maps.keys import Matches, match
from pipelines.import_maps.map_files import FileMap, decode_map
from pipelines.import_maps.reader import Asked, Reader, found_map, hash_file, on_grid
from pipelines.import_maps.table_columns import CAPTION, column_named, depth, key_column, map_column, text_column
from pipelines.outputs import INDEX
from pipelines.sources.images import BadImage
from pipelines.sources.source import NoImage, Source
from pipelines.sources.tables.columns import Wishes, is_text, text_values
from pipelines.sources.tables.table_files import Table, read_tables
from pipelines.sources.tables.table_source import column_of, images_of
from saliency.maps import FULL, Box

_FULL_SCALE = 255


def index_of(place: Path) -> Path | None:
    """The index of a folder that ``export-maps`` wrote; None where there is none."""
    path = place / INDEX
    return path if path.is_file() else None


def open_heatmaps(options: Asked, source: Source) -> Reader:
    """The reader of a table of maps, or of the folder that ``export-maps`` wrote. UserError."""
    path = index_of(options.place) or options.place
    table = read_tables(str(path), [path])
    maps = map_column(table.rows.schema, str(path), options.map_column)
    key = key_column(table.rows.schema, str(path), options.key_column)
    if key == maps:
        raise UserError(f"{path}: column {key!r} can't hold both keys and maps: name the others with --key-column")
    codes, names = text_column(table, key)
    matches = match(source, names, f"--from {options.maps_from}")
    rows = _Rows(source, matches, table, codes, names, str(path))
    values, frame = _values(table, maps, path, options), _Frames(table)

    def read(pair: int, size: tuple[int, int], grid: int) -> tuple[NDArray[np.float32], Box]:
        row = rows.of(pair)
        found = values(row, size)
        return on_grid(frame.raw(row, found), grid), frame.box(row)

    facts: dict[str, Any] = {"imported_sha256": hash_file(path)}
    facts |= {"key_column": options.key_column, "map_column": options.map_column, "array": options.array}
    return Reader(read, facts, matches.warnings, matches.unmatched)


class _Rows:
    """The row of each pair: that of its key or, where several have it, that of its caption."""

    def __init__(
        self, source: Source, matches: Matches, table: Table, codes: NDArray[np.int64], names: list[str], where: str
    ) -> None:
        self._source, self._matches = source, matches
        self._order = np.argsort(codes, kind="stable")
        self._starts = np.searchsorted(codes[self._order], np.arange(len(names) + 1))
        column = column_named(table.rows.schema, CAPTION)
        told = column is not None and is_text(table.rows.schema.field(column).type) and source.captions is not None
        self._captions = text_values(column_of(table, str(column))) if told else None
        counts = np.diff(self._starts)
        if column is None and (counts > 1).any():
            first = int(counts.argmax())
            raise UserError(
                f"{where} has {counts[first]} maps of {names[first]!r} and no column {CAPTION!r} that tells them apart"
            )

    def of(self, pair: int) -> int:
        """The row with the map of a pair. Raises BadImage."""
        number = found_map(self._matches, pair)
        rows = self._order[self._starts[number] : self._starts[number + 1]].tolist()
        if self._captions is None:
            return int(rows[0])
        wanted = self._source.caption(pair)
        for row in rows:
            if self._captions[row].as_py() in (wanted, None):
                return int(row)
        raise BadImage("its key has maps of other captions")


class _Frames:
    """The columns of our own tables that say what a map's numbers mean and where it lies, if they are there."""

    def __init__(self, table: Table) -> None:
        schema = table.rows.schema
        found = (column_named(schema, name) for name in ("vmin", "scale"))
        ranges = [numbers(table, column) for column in found if column is not None]
        self._ranges = ranges if len(ranges) == 2 else None
        boxes = column_named(schema, "crop_box")
        listed = boxes is not None and depth(schema.field(boxes).type) == 1
        self._boxes = column_of(table, str(boxes)) if listed else None

    def raw(self, row: int, found: FileMap) -> NDArray[Any]:
        """The raw values of a row's map."""
        values = found.values
        if self._ranges is None or not (found.picture or values.dtype.kind in "ui"):
            return values
        vmin, scale = (float(column[row]) for column in self._ranges)
        shares = np.asarray(values, np.float64) / (1 if found.picture else _FULL_SCALE)
        return np.asarray(vmin + scale * shares, np.float32)

    def box(self, row: int) -> Box:
        """The part of its image that a row's map covers. Raises BadImage."""
        box = None if self._boxes is None else self._boxes[row].as_py()
        if box is None:
            return FULL
        if len(box) != 4 or None in box or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise BadImage(f"its crop_box is {box}, and not x0, y0, x1, y1 in 0 to 1")
        return box[0], box[1], box[2], box[3]


def _values(table: Table, column: str, path: Path, options: Asked) -> Callable[[int, tuple[int, int]], FileMap]:
    """What gives the map in a row, for an image of a (width, height)."""
    kind = table.rows.schema.field(column).type
    if levels := depth(kind):
        held = column_of(table, column)
        return lambda row, size: _listed(held[row].as_py(), levels, size)
    files = images_of(str(path), table, column, Wishes(allow_outside=options.allow_outside))

    def read(row: int, size: tuple[int, int]) -> FileMap:
        try:
            return decode_map(files[row], options.array)
        except NoImage as error:
            raise BadImage("its row holds no map") from error

    return read


def _listed(value: Any, levels: int, size: tuple[int, int]) -> FileMap:
    """The map that a list holds: of rows, or flat with as many numbers as a square or the image has."""
    if value is None:
        raise BadImage("its row holds no map")
    try:
        values = np.asarray(value)
        if values.dtype.kind not in "buif":
            raise ValueError("a number is missing")
    except ValueError as error:
        raise BadImage("its map is a list with gaps, or with rows of different lengths") from error
    if levels == 1:
        side = round(len(values) ** 0.5)
        width, height = size
        if len(values) != width * height and len(values) != side * side:
            raise BadImage(
                f"its map has {len(values)} numbers: neither those of a square nor of its {width}×{height} image"
            )
        values = values.reshape((height, width) if len(values) == width * height else (side, side))
    return FileMap(values)
