"""Table files to rows in memory: Parquet, JSONL, CSV and TSV.

Parquet with images inside is opened through ``datasets``, which keeps a memory-mapped copy in its cache, so that any
row is a cheap read. CSV is read as text throughout (leading zeros survive) and JSONL line by line with Python's own
parser (Arrow would turn texts that look like dates into timestamps). A damaged table is a UserError that names the
file and, for JSONL, the line.
"""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipelines.errors import UserError
from pipelines.sources.columns import is_bytes, is_embedded, to_array

TABLE_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")

_CSV_BLOCK = 16 << 20


@dataclass(frozen=True)
class Table:
    """The rows of one or more files: ``counts[i]`` of them from ``files[i]``, in order."""

    files: list[Path]
    counts: list[int]
    rows: pa.Table
    dataset: Any = None
    """The ``datasets.Dataset`` that holds the images, where they are inside."""
    untyped: bool = False
    """Whether every column is text because the format knows nothing else."""


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
    counts: list[int] = []
    schemas: list[pa.Schema] = []
    for path in files:
        try:
            footer = pq.read_metadata(path)
            schemas.append(footer.schema.to_arrow_schema())
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path} is not a whole Parquet file: {error}: fetch it again") from error
        counts.append(footer.num_rows)
        if limit is not None and sum(counts) >= limit:
            break
    files = files[: len(counts)]
    try:
        if any(is_bytes(kind) or is_embedded(kind) for kind in schemas[0].types):
            dataset = _memory_map(files)
            rows = dataset.data.table.replace_schema_metadata(schemas[0].metadata)
        else:
            rows, dataset = pa.concat_tables([pq.read_table(path) for path in files], promote_options="default"), None
    except (OSError, ValueError, pa.ArrowException) as error:
        cause = error.__cause__ or error
        raise UserError(f"{_first(files)} can't be read as Parquet: {cause}: fetch it again") from error
    limited = rows.slice(0, limit)
    counts[-1] -= rows.num_rows - limited.num_rows
    return Table(files, counts, limited, dataset)


def _memory_map(files: list[Path]) -> Any:
    import datasets

    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        # A file name is a pattern to ``datasets``.
        names = [glob.escape(str(path)) for path in files]
        return datasets.load_dataset("parquet", data_files=names, split="train")
    except datasets.exceptions.DatasetGenerationError as error:
        raise OSError(str(error.__cause__ or error)) from error
    finally:
        if not bars:
            datasets.enable_progress_bars()


def _read_csv(files: list[Path], limit: int | None) -> Table:
    tables = []
    for path in files:
        try:
            with path.open(encoding="utf-8-sig", newline="") as lines:
                first = lines.readline()
                delimiter = _delimiter(first, path)
                lines.seek(0)
                names = next(csv.reader(lines, delimiter=delimiter), [])
            if not names:
                raise ValueError("it is empty")
            if len(set(names)) < len(names):
                raise ValueError(f"its header names a column twice: {', '.join(names)}")
            table = pa.csv.read_csv(
                path,
                read_options=pa.csv.ReadOptions(block_size=_CSV_BLOCK),
                parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
            )
        except (ValueError, OSError, pa.ArrowException, csv.Error) as error:
            raise UserError(f"{path} can't be read as a table: {error}") from error
        tables.append(table)
    counts = [table.num_rows for table in tables]
    rows = pa.concat_tables(tables, promote_options="default")
    return _limited(files, counts, rows, limit, untyped=True)


def _delimiter(header: str, path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return max(",\t;|", key=header.count)


def _read_jsonl(files: list[Path], limit: int | None) -> Table:
    columns: dict[str, list[Any]] = {}
    counts: list[int] = []
    total = 0
    for path in files:
        start = total
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if total == limit:
                    break
                line = line.strip().removeprefix(b"\xef\xbb\xbf")
                if not line:
                    continue
                for name, value in _json_object(line, path, number).items():
                    column = columns.setdefault(name, [])
                    column.extend([None] * (total - len(column)))
                    column.append(value)
                total += 1
        counts.append(total - start)
    arrays = {name: to_array(values + [None] * (total - len(values))) for name, values in columns.items()}
    return Table(files, counts, pa.table(arrays))


def _json_object(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}, line {number} is not JSON ({error}): write one object a line") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}, line {number} is not a JSON object: write one object a line")
    return value


def _limited(files: list[Path], counts: list[int], rows: pa.Table, limit: int | None, *, untyped: bool) -> Table:
    if limit is None:
        return Table(files, counts, rows, untyped=untyped)
    ends = np.minimum(np.cumsum(counts), limit)
    return Table(files, np.diff(ends, prepend=0).tolist(), rows.slice(0, limit), untyped=untyped)


def _first(files: list[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"one of {files[0]} … {files[-1]}"
