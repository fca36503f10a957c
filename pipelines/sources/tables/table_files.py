"""Table files to rows in memory: Parquet, JSONL, CSV and TSV.

Parquet with images inside is opened through ``datasets``, which keeps a memory-mapped copy in its cache, so that any
row is a cheap read. CSV is read as text throughout (leading zeros survive) and JSONL line by line with Python's own
parser (Arrow would turn texts that look like dates into timestamps). A damaged table is a UserError that names the
file and the line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.errors import UserError
from pipelines.sources.tables.columns import to_array
from pipelines.sources.tables.delimited import read_delimited
from pipelines.sources.tables.parquet_files import read_parquet
from pipelines.sources.text_files import BadText, explain, open_lines

TABLE_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")


@dataclass(frozen=True)
class Table:
    """The rows of one or more files: ``counts[i]`` of them from ``files[i]``, in order."""

    files: list[Path]
    counts: list[int]
    rows: pa.Table
    parts: list[Any] = field(default_factory=list)
    """The ``datasets.Dataset`` that hold the images one after the other, where they are inside."""
    untyped: bool = False
    """Whether every column is text because the format knows nothing else."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Columns that the files do not agree on, and how they differ."""
    caches: tuple[Path, ...] = ()
    """Folders beside those of the files in which the images may lie."""


def read_tables(name: str, files: Sequence[Path], limit: int | None = None) -> Table:
    """The first ``limit`` rows of table files of one kind; ``name`` stands for them in errors."""
    readers: dict[str, Callable[[list[Path], int | None], Table]] = {".parquet": _read_parquet}
    readers |= dict.fromkeys((".csv", ".tsv", ".txt"), _read_csv)
    readers |= dict.fromkeys((".jsonl", ".ndjson", ".json"), _read_jsonl)
    kinds = sorted({path.suffix.lower() for path in files})
    if len({readers[kind] for kind in kinds}) > 1:
        raise UserError(f"{name} holds tables of several kinds ({', '.join(kinds)}): name the ones to read")
    table = readers[kinds[0]](list(files), limit)
    if table.rows.num_rows == 0:
        raise UserError(f"{name} has no rows")
    return table


def _read_parquet(files: list[Path], limit: int | None) -> Table:
    found = read_parquet(files, limit)
    return _limited(Table(found.files, found.counts, found.rows, found.parts, left_out=found.left_out), limit)


def _read_csv(files: list[Path], limit: int | None) -> Table:
    tables = []
    for path in files:
        try:
            tables.append(read_delimited(path))
        except (ValueError, OSError, pa.ArrowException) as error:
            raise UserError(f"{path} can't be read as a table: {error}") from error
    counts = [table.num_rows for table in tables]
    return _limited(Table(files, counts, pa.concat_tables(tables, promote_options="default"), untyped=True), limit)


def _read_jsonl(files: list[Path], limit: int | None) -> Table:
    columns: dict[str, list[Any]] = {}
    counts: list[int] = []
    total = 0
    for path in files:
        start = total
        for value in _json_objects(path, None if limit is None else limit - total):
            for name, cell in value.items():
                column = columns.setdefault(name, [])
                column.extend([None] * (total - len(column)))
                column.append(cell)
            total += 1
        counts.append(total - start)
    arrays = {name: to_array(values + [None] * (total - len(values))) for name, values in columns.items()}
    return Table(files, counts, pa.table(arrays))


def _json_objects(path: Path, limit: int | None) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        with open_lines(path) as lines:
            for number, line in enumerate(lines, 1):
                if limit is not None and limit <= 0:
                    return
                text = line.strip().removeprefix("\ufeff")
                if text:
                    yield _json_object(text, path, number)
                    limit = None if limit is None else limit - 1
    except UnicodeError as error:
        raise UserError(f"{path}, after line {number}: {explain(error)}") from error
    except BadText as error:
        raise UserError(f"{path} can't be read as a table: {error}") from error


def _json_object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}, line {number} is not JSON ({error}): write one object a line") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}, line {number} is not a JSON object: write one object a line")
    return value


def _limited(table: Table, limit: int | None) -> Table:
    if limit is None:
        return table
    ends = np.minimum(np.cumsum(table.counts), limit)
    return replace(table, counts=np.diff(ends, prepend=0).tolist(), rows=table.rows.slice(0, limit))
