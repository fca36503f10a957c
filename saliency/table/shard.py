"""One Parquet file of a saliency table: its schema, and the one way in which it is written and read.

Version 1 has one map a row. Version 2 has maps of clips: one for each of K slots of equal length, which share out the
time of the video, behind one another in ``saliency``. Its metadata name K as ``slots``; all else is as in version 1.

Pages end where their content says so, not after a fixed number of rows (content-defined chunking). The Hub's storage
keeps chunks of bytes once, so a table with a few other rows is uploaded in a fraction of its size. A dictionary of
values would undo that, since one new value moves all others; there is none. Cells are stored byte plane by byte plane
(``BYTE_STREAM_SPLIT``), which is smaller.

A file may be anyone's. ``ShardFile`` looks at its footer whole: what it says of itself, by a declared shape, and that
its columns are those of the schema for the grid it names. Rows come in batches that are what the schema promises: no
null where there is none, as many cells as the grid has, text that is UTF-8. All that is not so is a ``ShardError``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from saliency.files import open_regular, parse_json
from saliency.shown import one_line

SCHEMA_VERSION, SLOTS_VERSION = 1, 2
METADATA_KEY = b"saliency_mae"
LARGEST_GRID = 1024
"""Cells a side."""
LARGEST_SLOTS = 256

CHUNKS = {"min_chunk_size": 64 << 10, "max_chunk_size": 256 << 10, "norm_level": 0}
"""Bytes of values in a page; ``benchmarks/bench_reupload.py`` measures what others would do."""

_ROW_GROUP = 50_000_000  # bytes uncompressed: the Hub's viewer reads at most 300 MB for a page
_ROW = 512  # bytes of a row without its map, about
_LARGEST_ROW_GROUP = 4 << 30  # bytes uncompressed
_BATCH = 4096
_ROUNDING = 1e-4  # a cosine of float32 vectors may pass 1 by this
_TEXT, _MAYBE, _COUNT = (str,), (str, type(None)), (int,)
_REQUIRED: dict[str, tuple[type, ...]] = {"clip": _TEXT, "method": _TEXT}
_SHAPE = _REQUIRED | {
    **dict.fromkeys(("pretrained", "layer", "interpolation"), _MAYBE),
    **dict.fromkeys(("weights_sha256", "fit", "precision", "package_version"), _TEXT),
    **dict.fromkeys(("image_size", "tiles"), _COUNT),
}
_LARGEST_COUNT = 1 << 14
"""Of ``image_size`` and ``tiles``: pixels and windows a side."""


class ShardError(ValueError):
    """A file that is not as it should be: ``what`` is the text without its name, ``check`` the one of ``verify``."""

    def __init__(self, path: Path, what: str, check: str = "schema") -> None:
        super().__init__(f"{path} {what}")
        self.what, self.check = what, check


def schema(grid: int, metadata: dict[str, Any]) -> pa.Schema:
    """The table's Arrow schema for maps of ``grid`` × ``grid`` cells, carrying ``metadata`` as JSON.

    A row has as many of them as ``metadata`` has slots.
    """
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("crop_box", pa.list_(pa.float32(), 4), nullable=False),
        pa.field("saliency", pa.list_(pa.uint8(), slots_of(metadata) * grid * grid), nullable=False),
        pa.field("vmin", pa.float32(), nullable=False),
        pa.field("scale", pa.float32(), nullable=False),
        pa.field("clip_score", pa.float32(), nullable=False),
    ]
    return pa.schema(fields, {METADATA_KEY: json.dumps(metadata, sort_keys=True).encode()})


def slots_of(metadata: Mapping[str, Any]) -> int:
    """How many maps a row has: one for each slot of a clip, or one in all."""
    return int(metadata.get("slots", 1))


def version_of(slots: int) -> dict[str, int]:
    """What the metadata of a table with so many maps a row say of its schema."""
    return {"schema_version": SCHEMA_VERSION} if slots == 1 else {"schema_version": SLOTS_VERSION, "slots": slots}


def shard_writer(sink: Any, shape: pa.Schema) -> pq.ParquetWriter:
    """A writer of a shard of this schema, with page indexes, to be closed."""
    writer = pq.ParquetWriter(
        sink,
        shape,
        compression="zstd",
        use_dictionary=False,
        column_encoding={"saliency.list.element": "BYTE_STREAM_SPLIT"},
        use_content_defined_chunking=CHUNKS,
        write_page_index=True,
    )
    writer.add_key_value_metadata({"content_defined_chunking": json.dumps(CHUNKS)})  # as ``datasets`` notes it
    return writer


def write_rows(sink: Any, table: pa.Table) -> None:
    """Write rows that follow ``schema`` as a whole shard, in row groups that the Hub's viewer can open."""
    cells = table.schema.field("saliency").type.list_size
    with shard_writer(sink, table.schema) as writer:
        writer.write_table(table, row_group_size=max(1, _ROW_GROUP // (4 * cells + _ROW)))


class ShardFile:
    """A shard: ``metadata`` says how its maps were made, ``grid`` is their side in cells. ShardError.

    The file is open only while it is read: a table may have more shards than a process may have files open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path):
            open_regular(path).close()
            with pq.ParquetFile(path) as file:
                footer, found = file.metadata, file.schema_arrow
            sizes = [footer.row_group(number).total_byte_size for number in range(footer.num_row_groups)]
        if max(sizes, default=0) > _LARGEST_ROW_GROUP:
            raise ShardError(path, f"has a row group of {max(sizes):,} bytes", "Parquet")
        self.metadata = _metadata(path, found)
        self.grid: int = self.metadata["grid"]
        self.slots = slots_of(self.metadata)
        """Maps a row."""
        _check_columns(path, found, self.grid, self.slots)
        self.rows: int = footer.num_rows
        self._footer = footer

    def batches(self, columns: Sequence[str] | None = None, *, size: int = _BATCH) -> Iterator[pa.RecordBatch]:
        """The rows, at most ``size`` at a time; some columns or all. ShardError where it can't be read on."""
        count = 0
        with reading(self.path), pq.ParquetFile(self.path, metadata=self._footer) as file:
            for batch in file.iter_batches(batch_size=size, columns=columns):
                batch.validate(full=True)
                for name in {"crop_box", "saliency"}.intersection(batch.schema.names):
                    if batch[name].flatten().null_count:
                        raise pa.ArrowInvalid(f"{name} has no value in a place")
                count += len(batch)
                yield batch
            if count != self.rows:
                raise pa.ArrowInvalid(f"it has {count} rows, and its footer says {self.rows}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever Arrow or the disk raises while a Parquet file is read, as a ShardError."""
    try:
        yield
    except ShardError:
        raise
    except Exception as error:  # damaged footers and pages raise of every kind
        raise ShardError(path, f"can't be read as Parquet: {one_line(error, 300)}", "Parquet") from error


def wrong_values(batch: pa.RecordBatch) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Everything that a row can have wrong in the columns at hand, and which rows have it, bool [n]."""
    names = set(batch.schema.names)
    if "crop_box" in names:
        box = np.asarray(batch["crop_box"].flatten()).reshape(-1, 4)
        inside = (box >= 0).all(1) & (box <= 1).all(1) & (box[:, 0] < box[:, 2]) & (box[:, 1] < box[:, 3])
        yield "crop_box is no box in [0, 1]", ~inside
    vmin, scale = np.asarray(batch["vmin"]), np.asarray(batch["scale"])
    yield "vmin is not finite", ~np.isfinite(vmin)
    yield "scale is negative or not finite", ~(np.isfinite(scale) & (scale >= 0))
    yield "clip_score is outside [−1, 1]", ~(np.abs(np.asarray(batch["clip_score"])) <= 1 + _ROUNDING)
    if {"width", "height"} <= names:
        yield "width or height is not positive", (np.asarray(batch["width"]) < 1) | (np.asarray(batch["height"]) < 1)
    if "image_sha256" in names:
        matches = np.asarray(pc.match_substring_regex(batch["image_sha256"], "^[0-9a-f]{64}$"))
        yield "image_sha256 is no sha256", ~matches
    peaks = np.asarray(batch["saliency"].flatten()).reshape(len(batch), -1).max(1, initial=0)
    yield "the map does not reach 255", (scale > 0) & (peaks != 255)
    yield "a flat map (scale 0) is not stored as zeros", (scale == 0) & (peaks != 0)


def _metadata(path: Path, found: pa.Schema) -> dict[str, Any]:
    """What the file says of how its maps were made."""
    raw = (found.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise ShardError(path, f"is not a saliency table: it carries no {METADATA_KEY.decode()} metadata")
    try:
        metadata = parse_json(raw)
    except ValueError as error:
        raise ShardError(path, f"has {METADATA_KEY.decode()} metadata that is no JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise ShardError(path, f"has {METADATA_KEY.decode()} metadata that is no JSON object")
    if metadata.get("schema_version") not in (SCHEMA_VERSION, SLOTS_VERSION):
        version = one_line(repr(metadata.get("schema_version")), 60)
        raise ShardError(
            path,
            f"has schema version {version}, not {SCHEMA_VERSION} or {SLOTS_VERSION}, which is what this release reads",
        )
    slots, several = metadata.get("slots", 1), metadata["schema_version"] == SLOTS_VERSION
    if type(slots) is not int or not (2 <= slots <= LARGEST_SLOTS if several else "slots" not in metadata):
        raise ShardError(path, f"has slots that do not go with its schema version: {one_line(repr(slots), 60)}")
    grid = metadata.get("grid")
    if type(grid) is not int or not 1 <= grid <= LARGEST_GRID:
        raise ShardError(path, f"has a grid that is no number from 1 to {LARGEST_GRID}: {one_line(repr(grid), 60)}")
    wrong = [name for name in _SHAPE if not _fits(name, metadata)]
    if wrong:
        raise ShardError(path, f"does not say as it should how its maps were made: {', '.join(wrong)}")
    return metadata


def _fits(name: str, metadata: dict[str, Any]) -> bool:
    if name not in metadata:
        return name not in _REQUIRED
    value = metadata[name]
    if type(value) not in _SHAPE[name]:
        return False
    return not isinstance(value, int) or 1 <= value <= _LARGEST_COUNT


def _check_columns(path: Path, found: pa.Schema, grid: int, slots: int) -> None:
    right = schema(grid, {"slots": slots})
    if found.remove_metadata().equals(right.remove_metadata()):
        return
    places = {field.name: found.get_all_field_indices(field.name) for field in right}
    names = [field.name for field in right if not _once(found, places[field.name], field)]
    names += sorted(set(found.names) - set(right.names))
    version = version_of(slots)["schema_version"]
    raise ShardError(path, f"differs from version {version} in {', '.join(names) or 'the columns order'}")


def _once(found: pa.Schema, places: list[int], field: pa.Field) -> bool:
    return len(places) == 1 and found.field(places[0]).equals(field)
