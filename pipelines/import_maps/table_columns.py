"""Which column of a table of fixations or of maps plays which part: found by its name and type, or named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.errors import UserError, user_errors
from pipelines.sources.tables.columns import IMAGE_NAMES, KEY_NAMES, is_bytes, is_embedded, is_text, key_values
from pipelines.sources.tables.table_files import Table, read_tables
from pipelines.sources.tables.table_source import column_of
from saliency.shown import one_line
from saliency.table.shard import METADATA_KEY, ShardFile

MAP_NAMES = ("saliency", "saliency_map", "heatmap", "heat_map", "attention", "attention_map", "map", "mask", "file")
"""Columns with maps, the first before the others."""
CAPTION = "caption"

_SHOWN = 20  # columns that a message lists


def columns_of(path: Path) -> pa.Schema:
    """The columns of a table file: of Parquet by its footer, of others by its first row. UserError."""
    if path.suffix.lower() != ".parquet":
        return read_tables(str(path), [path], 1).rows.schema
    try:
        schema = pq.read_schema(path)
    except Exception as error:  # damaged footers raise of every kind
        raise UserError(f"{path} is not a complete Parquet file: {one_line(error, 300)}") from error
    if METADATA_KEY in (schema.metadata or {}):  # a table of our own, whose version must be one that is known
        with user_errors():
            ShardFile(path)
    return schema


def column_named(schema: pa.Schema, name: str) -> str | None:
    """The column of this name, whatever blanks and capitals it is written with; None if there is none."""
    return next((found for found in schema.names if found.strip().casefold() == name), None)


def key_column(schema: pa.Schema, where: str, wished: str | None) -> str:
    """The column with the keys or file names of the images. UserError."""
    if wished is not None:
        return _wished(schema, wished, where, "--key-column", is_key)
    return _first(schema, (*KEY_NAMES, *IMAGE_NAMES), is_key) or _missing(
        schema, where, "has no column with the keys of the images", "--key-column"
    )


def map_column(schema: pa.Schema, where: str, wished: str | None) -> str:
    """The column with the maps. UserError."""
    if wished is not None:
        return _wished(schema, wished, where, "--map-column", is_map)
    return _first(schema, MAP_NAMES, is_map) or _missing(
        schema, where, "has neither columns x and y of fixations nor one with maps", "--map-column"
    )


def is_key(kind: pa.DataType) -> bool:
    """Whether a column holds texts or whole numbers."""
    return bool(is_text(kind) or pa.types.is_integer(kind))


def is_map(kind: pa.DataType) -> bool:
    """Whether a column holds lists of numbers, lists of such lists, images or names of files."""
    return bool(is_text(kind) or is_bytes(kind) or is_embedded(kind) or depth(kind) in (1, 2))


def depth(kind: pa.DataType) -> int:
    """How many lists lie within each other around numbers; 0 for what is no list of numbers."""
    levels = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, levels = kind.value_type, levels + 1
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return levels if numeric else 0


def text_column(table: Table, column: str) -> tuple[NDArray[np.int64], list[str]]:
    """The number of each row's text among the different ones, and these; rows without one have the text ''."""
    values = pc.fill_null(key_values(column_of(table, column)), "").dictionary_encode()
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return np.asarray(values.indices, np.int64), values.dictionary.to_pylist()


def _first(schema: pa.Schema, names: tuple[str, ...], suits: Callable[[pa.DataType], bool]) -> str | None:
    found = (column_named(schema, name) for name in names)
    return next((name for name in found if name is not None and suits(schema.field(name).type)), None)


def _wished(schema: pa.Schema, name: str, where: str, option: str, suits: Callable[[pa.DataType], bool]) -> str:
    if name not in schema.names:
        raise UserError(f"{where} has no column {name!r}, which {option} names; it has: {_listed(schema)}")
    if not suits(schema.field(name).type):
        raise UserError(f"{where}: column {name!r}, which {option} names, holds {schema.field(name).type}")
    return name


def _missing(schema: pa.Schema, where: str, what: str, option: str) -> str:
    raise UserError(f"{where} {what}; it has: {_listed(schema)}: name the column with {option}")


def _listed(schema: pa.Schema) -> str:
    more = f" and {len(schema.names) - _SHOWN} more" if len(schema.names) > _SHOWN else ""
    return ", ".join(schema.names[:_SHOWN]) + more
