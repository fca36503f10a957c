"""Parquet files as one table, also where their columns differ in what nobody needs.

Shards of one data set are written by many processes, and each infers its types from what it happened to see: a column
is missing, extra, all null, int32 or int64, string or large_string. Such columns are brought to one type. A column
whose types have nothing in common is left out, and named.
"""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import UserError
from pipelines.sources.compressed import ENOUGH, unpacking_tool
from pipelines.sources.tables.columns import IMAGE_NAMES, has_fractions, is_bytes, is_embedded, is_text
from saliency.caches import cache_fault
from saliency.files import open_regular
from saliency.shown import one_line


@dataclass(frozen=True)
class ParquetRows:
    """What the files hold: ``counts[i]`` rows of ``files[i]``."""

    files: list[Path]
    counts: list[int]
    rows: pa.Table
    parts: list[Any]
    """The ``datasets.Dataset`` that hold the images, where they are inside, of files that follow each other."""
    left_out: dict[str, str]
    """Columns that can't be read as one, and why."""


def read_parquet(files: Sequence[Path], limit: int | None) -> ParquetRows:
    """The rows of Parquet files, from as many of them as hold ``limit`` rows. Raises UserError."""
    counts: list[int] = []
    schemas: list[pa.Schema] = []
    for path in files:
        _check_unpacked(path)
        with _reading([path], "is not a complete Parquet file"):
            open_regular(path).close()
            footer = pq.read_metadata(path)
            schemas.append(footer.schema.to_arrow_schema())
        counts.append(footer.num_rows)
        if limit is not None and sum(counts) >= limit:
            break
    return _read(list(files[: len(counts)]), counts, schemas)


@contextmanager
def _reading(files: Sequence[Path], what: str = "can't be read as Parquet") -> Iterator[None]:
    """Whatever Arrow, ``datasets`` or the disk raises while files are read, as a UserError."""
    try:
        yield
    except Exception as error:  # damaged footers and pages raise of every kind
        if fault := cache_fault(error, reading=True):
            raise UserError(fault) from error
        named = str(files[0]) if len(files) == 1 else f"one of {files[0]} … {files[-1]}"
        raise UserError(f"{named} {what}: {one_line(error.__cause__ or error, 300)}: fetch it again") from error


def _check_unpacked(path: Path) -> None:
    try:
        with open_regular(path) as file:
            tool = unpacking_tool(file.read(ENOUGH))
    except OSError:
        return  # as reading the table will say
    if tool:
        raise UserError(f"{path} is compressed: unpack it first ({tool})")


def describe_images_elsewhere(files: Sequence[Path]) -> bool:
    """Whether these are what img2dataset writes about images that lie beside: NAME.parquet of the files in NAME/.

    Where its statistics are gone as well, so that the folder could be anything, the table must hold no images.
    """
    return all(
        path.suffix.lower() == ".parquet"
        and path.with_suffix("").is_dir()
        and (path.with_name(f"{path.stem}_stats.json").is_file() or not _holds_images(path))
        for path in files
    )


def _holds_images(path: Path) -> bool:
    try:
        with _reading([path]):
            schema = pq.read_schema(path)
    except UserError:
        return True
    return any(is_bytes(kind) or is_embedded(kind) for kind in schema.types) or any(
        name.strip().casefold() in IMAGE_NAMES for name in schema.names
    )


def _read(files: list[Path], counts: list[int], schemas: list[pa.Schema]) -> ParquetRows:
    inside = any(is_bytes(kind) or is_embedded(kind) for schema in schemas for kind in schema.types)
    alike = itertools.groupby(zip(files, schemas, strict=True), key=lambda pair: pair[1])
    runs = [[path for path, _ in run] for _, run in alike]
    parts = []
    with _reading(files):
        if inside:
            parts = [_memory_map(run) for run in runs]
            tables = [part.data.table for part in parts]
        else:
            tables = [pa.concat_tables([pq.read_table(path) for path in run]) for run in runs]
    left_out: dict[str, str] = {}
    if len(runs) > 1:
        tables = list(_fitted(tables, [run[0] for run in runs], left_out))
    described = (schema.metadata for schema in schemas if b"huggingface" in (schema.metadata or {}))
    rows = pa.concat_tables(tables).replace_schema_metadata(next(described, schemas[0].metadata))
    if not inside:
        del tables
        rows = rows.combine_chunks()  # which a source shares, while it would copy columns in pieces
        pa.default_memory_pool().release_unused()
    return ParquetRows(files, counts, rows, parts, left_out)


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


def _fitted(tables: list[pa.Table], files: list[Path], left_out: dict[str, str]) -> Iterator[pa.Table]:
    """The tables with the same columns of the same types; what fits nowhere is noted in ``left_out``."""
    names = list(dict.fromkeys(name for table in tables for name in table.column_names))
    columns: dict[str, list[Any]] = {}
    for name in names:
        present = [_narrowed(table.column(name)) if name in table.column_names else None for table in tables]
        kinds = {column.type: path for column, path in zip(present, files, strict=True) if column is not None}
        kind = _common(list(kinds))
        if kind is None:
            left_out[name] = " and ".join(f"{kind} in {path}" for kind, path in list(kinds.items())[:2])
            continue
        columns[name] = [
            pa.chunked_array([pa.nulls(len(table), kind)]) if column is None else _cast(column, kind)
            for column, table in zip(present, tables, strict=True)
        ]
    for number in range(len(tables)):
        yield pa.table({name: pieces[number] for name, pieces in columns.items()})


def _narrowed(column: Any) -> Any:
    """The column in the type that it would have without its gaps: pandas makes floats of whole numbers with gaps."""
    if pa.types.is_dictionary(column.type):
        return pc.cast(column, column.type.value_type)
    if not pa.types.is_floating(column.type) or has_fractions(column):
        return column
    whole = pc.cast(pc.if_else(pc.is_nan(column), None, column), pa.int64())
    return whole if whole.null_count < len(whole) else pa.chunked_array([pa.nulls(len(whole))])


def _common(kinds: list[pa.DataType]) -> pa.DataType | None:
    """The type that all of these can be read as, None if there is none."""
    kinds = [kind for kind in kinds if not pa.types.is_null(kind)] or [pa.null()]
    for suits in (is_bytes, is_embedded):
        if all(map(suits, kinds)):
            return kinds[0]
    if all(is_text(kind) or pa.types.is_integer(kind) for kind in kinds) and any(map(is_text, kinds)):
        return pa.string()
    try:
        schemas = [pa.schema([("x", kind)]) for kind in kinds]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def _cast(column: Any, kind: pa.DataType) -> Any:
    """The column as ``kind``. Of images that are kept in another way only the paths: they are read from their part."""
    if column.type == kind:
        return column
    if is_bytes(kind) or pa.types.is_null(column.type):
        return pa.chunked_array([pa.nulls(len(column), kind)])
    if is_embedded(kind):
        children = {
            field.name: pc.struct_field(column, field.name)
            for field in column.type
            if field.name in {part.name for part in kind} and not is_bytes(field.type)
        }
        pieces = [
            pc.cast(children[field.name], field.type).combine_chunks()
            if field.name in children
            else pa.nulls(len(column), field.type)
            for field in kind
        ]
        return pa.chunked_array([pa.StructArray.from_arrays(pieces, fields=list(kind))])
    return pc.cast(column, kind)
