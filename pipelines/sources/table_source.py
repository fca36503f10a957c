"""A table as a source: its columns named by convention, its images inside it or in the files that it lists.

A file name is relative to its table's folder, or to the one folder below that has the files (Flickr8k lists bare names
and keeps them in ``Images/``). A listed file that does not exist is an unreadable sample, not an error.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import UserError
from pipelines.sources.columns import (
    ORIGINAL_NAME,
    Roles,
    Wishes,
    assign_roles,
    caption_values,
    is_embedded,
    is_text,
    key_values,
    label_values,
    text_values,
)
from pipelines.sources.source import BoxMasks, DecodedMasks, FileImages, Images, Masks, NoImage, Source, read_file
from pipelines.sources.table_files import Table, read_tables

LISTINGS = (
    "metadata.csv", "metadata.jsonl", "metadata.parquet",
    "captions.txt", "captions.csv", "captions.tsv", "captions.jsonl",
)  # fmt: skip
"""Tables that list the files of their folder."""

_PROBED = 20


def open_tables(name: str, files: Sequence[Path], wishes: Wishes) -> Source:
    """The source held by table files of one kind; ``name`` is what the user typed.

    Where a table is one of LISTINGS, ``file_name`` names the image before any other column does. Raises UserError for
    a damaged table, columns that can't be found, and URLs in place of images.
    """
    table = read_tables(name, files, wishes.limit)
    roles = assign_roles(table.rows.schema, name, wishes, prefer_file_name=files[0].name in LISTINGS)
    return _to_source(name, table, roles, wishes)


def open_dataset(name: str, dataset: Any, wishes: Wishes) -> Source:
    """The source held by a ``datasets.Dataset``, with the keys and captions that its stream has."""
    rows = dataset.data.table.slice(0, wishes.limit)
    schema = dataset.features.arrow_schema
    roles = assign_roles(schema, name, wishes)
    table = Table(
        [Path(wishes.split or "train")], [rows.num_rows], rows.replace_schema_metadata(schema.metadata), dataset
    )
    source = _to_source(name, table, roles, wishes, keys=_row_keys(table) if roles.key is None else None)
    return source if wishes.limit is None else source.select(range(min(wishes.limit, len(source))))


def _to_source(name: str, table: Table, roles: Roles, wishes: Wishes, *, keys: pa.Array | None = None) -> Source:
    images = _images(name, table, roles.image)
    texts, rows = None, None
    if roles.caption is not None:
        texts, rows = caption_values(_column(table, roles.caption), wishes.captions)
    labels, label_names = None, None
    if roles.label is not None:
        names = _class_names(table.rows.schema, roles.label)
        labels, label_names = label_values(_column(table, roles.label), names, untyped=table.untyped)
    keys = _keys(table, roles) if keys is None else keys
    urls = None if roles.url is None else text_values(_column(table, roles.url))
    masks: Masks | None = None
    if roles.mask is not None:
        masks = DecodedMasks(_images(name, table, roles.mask))
    elif roles.box is not None:
        masks = BoxMasks(_column(table, roles.box), images)
    known = ORIGINAL_NAME in table.rows.column_names
    originals = text_values(_column(table, ORIGINAL_NAME)) if known else None
    source = Source(name, keys, images, None, labels, label_names, urls, masks, originals=originals)
    return replace(source, texts=texts) if rows is None else source.with_captions(texts, rows)


def _column(table: Table, name: str) -> pa.Array:
    column = table.rows.column(name).combine_chunks()
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _keys(table: Table, roles: Roles) -> pa.Array:
    numbered = _row_keys(table)
    if roles.key is not None:
        return pc.coalesce(key_values(_column(table, roles.key)), numbered)
    images = table.rows.column(roles.image)
    if is_embedded(images.type) and "path" in {field.name for field in images.type}:
        paths = pc.cast(pc.struct_field(images, "path"), pa.string()).combine_chunks()
        if not paths.null_count and pc.all(pc.not_equal(paths, "")).as_py() and len(paths.unique()) == len(paths):
            return paths
    if is_text(images.type):
        return pc.coalesce(key_values(_column(table, roles.image)), numbered)
    return numbered


def _row_keys(table: Table) -> pa.Array:
    """``stem-00000000``, numbered within each file, so a key does not depend on the files beside it."""
    stems = [path.stem for path in table.files]
    if len(set(stems)) < len(stems):
        stems = [str(path.with_suffix("")) for path in table.files]
    return pa.array(
        [f"{stem}-{i:08d}" for stem, count in zip(stems, table.counts, strict=True) for i in range(count)],
        pa.string(),
    )


def _class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """The names of a ``ClassLabel`` column, which ``datasets`` writes into the Parquet schema."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        return list(feature["names"]) if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError):
        return None


def _images(name: str, table: Table, column: str) -> Images:
    kind = table.rows.schema.field(column).type
    if not is_text(kind):
        return EmbeddedImages(table.dataset, column, table.files[0].parent)
    paths = key_values(_column(table, column))
    if pc.any(pc.match_substring_regex(paths, "^(?i:https?)://")).as_py():
        raise UserError(f"{name}: column {column!r} holds URLs: download the images with img2dataset first")
    pieces, start = [], 0
    for file, count in zip(table.files, table.counts, strict=True):
        pieces.append(_located(paths.slice(start, count), file.parent))
        start += count
    return FileImages(pa.concat_arrays(pieces))


def _located(paths: pa.Array, folder: Path) -> pa.Array:
    """The paths from the folder that they are relative to: the table's, or the one below it that has the files."""
    probes = [path for path in paths.slice(0, _PROBED).to_pylist() if path and "\0" not in path]
    root = folder
    if not any((folder / path).is_file() for path in probes):
        below = sorted(child for child in folder.iterdir() if child.is_dir())
        root = next((child for child in below if any((child / path).is_file() for path in probes)), folder)
    joined = pc.binary_join_element_wise(pa.scalar(str(root)), paths, "/")
    return pc.if_else(pc.or_(pc.starts_with(paths, "/"), pc.equal(paths, "")), paths, joined)


class EmbeddedImages:
    """Images kept as bytes or as ``{bytes, path}`` in a column of a memory-mapped dataset."""

    def __init__(self, dataset: Any, column: str, folder: Path) -> None:
        self.dataset, self.column, self.folder = dataset, column, folder
        self._values: Any = None

    def __getitem__(self, row: int) -> bytes:
        if self._values is None:
            self._values = self.dataset.data.column(self.column)
        value = self._values[row].as_py()
        if isinstance(value, dict):
            if value.get("bytes") is None and value.get("path"):
                return read_file(str(self.folder / value["path"]))
            value = value.get("bytes")
        if value is None:
            raise NoImage("its row holds no image")
        return bytes(value)

    def __getstate__(self) -> dict[str, Any]:
        # The dataset pickles as the names of its files, the column would as its bytes.
        return {**self.__dict__, "_values": None}
