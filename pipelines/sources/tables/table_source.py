"""A table as a source: its columns named by convention, its images inside it or in the files that it lists.

A file name is relative to its table's folder, or to the one folder below that has the files (Flickr8k lists bare names
and keeps them in ``Images/``). A listed file that does not exist is an unreadable sample, not an error. ``metadata.*``
of several folders is one table, whose file names are seen from the folder that they have in common.
"""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import UserError
from pipelines.sources.inside import Roots, check_names
from pipelines.sources.names import find_file, text_names
from pipelines.sources.source import BoxMasks, DecodedMasks, FileImages, Images, Masks, NoImage, Source, read_file
from pipelines.sources.tables.columns import (
    CAPTION_NAMES,
    IMAGE_NAMES,
    ORIGINAL_NAME,
    Roles,
    Wishes,
    assign_roles,
    caption_values,
    endless_captions,
    has_fractions,
    is_embedded,
    is_text,
    key_values,
    label_values,
    text_values,
)
from pipelines.sources.tables.table_files import Table, read_tables
from saliency.files import parse_json
from saliency.shape import fitting
from saliency.shown import one_line

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Tables that list the files of their folder, and are looked for in the folders below as well."""
LISTINGS = (*METADATA, "captions.txt", "captions.csv", "captions.tsv", "captions.jsonl")
"""Tables that list the files of their folder."""

_PROBED = 20


class _HubInfo(TypedDict):
    features: dict[str, Any]


class _HubNote(TypedDict):
    """What ``datasets`` writes into a Parquet schema, as far as it is read here."""

    info: _HubInfo


class _ClassLabel(TypedDict):
    _type: Literal["ClassLabel"]
    names: list[str]


def open_tables(name: str, files: Sequence[Path], wishes: Wishes, *, root: Path | None = None) -> Source:
    """The source held by table files of one kind; ``name`` is what the user typed.

    Where a table is one of LISTINGS, ``file_name`` names the image before any other column does. With ``root`` the
    tables lie below it, and keys that are file names are paths from there. Raises UserError for a damaged table,
    columns that can't be found, and URLs in place of images.
    """
    table = read_tables(name, files, wishes.limit)
    _check_left_out(name, table, wishes)
    roles = assign_roles(table.rows.schema, name, wishes, prefer_file_name=files[0].name in LISTINGS)
    keys = None if root is None else _keys_below(root, table, roles)
    source = _to_source(name, table, roles, wishes, keys=keys)
    del table
    pa.default_memory_pool().release_unused()
    return source


def _check_left_out(name: str, table: Table, wishes: Wishes) -> None:
    """UserError if files disagree on a column that is, or would be, the images' or the captions'."""
    wanted = {wishes.image_column, wishes.caption_column}
    for column, how in table.left_out.items():
        if column in wanted or column.strip().casefold() in (*IMAGE_NAMES, *CAPTION_NAMES):
            raise UserError(f"{name}: its files do not agree on column {column!r}: {how}")


def open_dataset(name: str, dataset: Any, wishes: Wishes) -> Source:
    """The source held by a ``datasets.Dataset``, with the keys and captions that its stream has."""
    import datasets
    from huggingface_hub import constants

    rows = dataset.data.table.slice(0, wishes.limit)
    schema = dataset.features.arrow_schema
    roles = assign_roles(schema, name, wishes)
    downloaded = Path(constants.HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}")
    table = Table(
        [downloaded / (wishes.split or "train")],
        [rows.num_rows],
        rows.replace_schema_metadata(schema.metadata),
        [dataset],
        caches=(Path(datasets.config.DOWNLOADED_DATASETS_PATH),),
    )
    source = _to_source(name, table, roles, wishes, keys=_row_keys(table) if roles.key is None else None)
    return source if wishes.limit is None else source.select(range(min(wishes.limit, len(source))))


def _to_source(name: str, table: Table, roles: Roles, wishes: Wishes, *, keys: pa.Array | None = None) -> Source:
    images = images_of(name, table, roles.image, wishes)
    texts, rows, faults = None, None, {}
    if roles.caption is not None:
        texts, rows = caption_values(column_of(table, roles.caption), wishes.captions)
        texts, endless = endless_captions(texts)
        faults = {i if rows is None else int(rows[i]): why for i, why in endless.items()}
    warnings = [f"column {column!r} is left out: it holds {how}" for column, how in table.left_out.items()]
    labels, label_names = None, None
    if roles.label is not None and has_fractions(column_of(table, roles.label)):
        warnings.append(f"column {roles.label!r} holds fractions, which number no classes: there are no labels")
    elif roles.label is not None:
        names = _class_names(table.rows.schema, roles.label)
        labels, label_names = label_values(column_of(table, roles.label), names, untyped=table.untyped)
    keys = _keys(table, roles) if keys is None else keys
    urls = None if roles.url is None else text_values(column_of(table, roles.url))
    masks: Masks | None = None
    if roles.mask is not None:
        masks = DecodedMasks(images_of(name, table, roles.mask, wishes))
    elif roles.box is not None:
        masks = BoxMasks(column_of(table, roles.box), images)
    known = ORIGINAL_NAME in table.rows.column_names
    originals = text_values(column_of(table, ORIGINAL_NAME)) if known else None
    source = Source(name, keys, images, None, labels, label_names, urls, masks)
    source = replace(source, originals=originals, warnings=warnings, faults=faults)
    return replace(source, texts=texts) if rows is None else source.with_captions(texts, rows)


def column_of(table: Table, name: str) -> pa.Array:
    """A column in one piece, which is what its type says: text, for instance, is UTF-8. UserError."""
    column = table.rows.column(name)
    column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies in any case
    try:
        column.validate(full=True)
        if len(column) != sum(table.counts):
            raise pa.ArrowInvalid(f"it has {len(column)} values in {sum(table.counts)} rows")
    except pa.ArrowException as error:
        raise UserError(f"{table.files[0]}: column {name!r} is damaged: {one_line(error, 200)}") from error
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _keys(table: Table, roles: Roles) -> pa.Array:
    numbered = _row_keys(table)
    if roles.key is not None:
        return pc.coalesce(key_values(column_of(table, roles.key)), numbered)
    images = table.rows.column(roles.image)
    if is_embedded(images.type) and "path" in {field.name for field in images.type}:
        paths = pc.cast(pc.struct_field(images, "path"), pa.string()).combine_chunks()
        if not paths.null_count and pc.all(pc.not_equal(paths, "")).as_py() and len(paths.unique()) == len(paths):
            return paths
    if is_text(images.type):
        return pc.coalesce(key_values(column_of(table, roles.image)), numbered)
    return numbered


def _keys_below(root: Path, table: Table, roles: Roles) -> pa.Array:
    """The keys of tables in several folders: file names as paths from ``root``, other keys as they are."""
    keys = _keys(table, roles)
    if roles.key not in (None, roles.image):
        return keys
    below = [file.parent.relative_to(root).as_posix() for file in table.files]
    folders = itertools.chain.from_iterable(map(itertools.repeat, below, table.counts))
    named = zip(folders, keys.to_pylist(), strict=True)
    return pa.array([key if folder == "." else f"{folder}/{key}" for folder, key in named], pa.string())


def _row_keys(table: Table) -> pa.Array:
    """``stem-00000000``, numbered within each file, so a key does not depend on the files beside it."""
    stems = [path.stem for path in table.files]
    if len(set(stems)) < len(stems):
        stems = [str(path.with_suffix("")) for path in table.files]
    return pa.concat_arrays([_numbered(stem, count) for stem, count in zip(stems, table.counts, strict=True)])


def _numbered(stem: str, count: int) -> pa.Array:
    numbers = pc.utf8_lpad(pa.array(np.arange(count)).cast(pa.string()), 8, "0")
    return pc.binary_join_element_wise(stem, numbers, "-")


def _class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """The names of a ``ClassLabel`` column, which ``datasets`` writes into the Parquet schema."""
    try:
        note = fitting(parse_json((schema.metadata or {}).get(b"huggingface", b"null")), _HubNote)
        return fitting(note["info"]["features"].get(column), _ClassLabel)["names"]
    except ValueError:
        return None


def images_of(name: str, table: Table, column: str, wishes: Wishes) -> Images:
    """The files or bytes that a column of a table holds; ``name`` stands for the table in errors. UserError."""
    kind = table.rows.schema.field(column).type
    folders = [*dict.fromkeys(file.parent for file in table.files), *table.caches]
    roots = None if wishes.allow_outside else Roots.of(folders)
    where = f"{name}: column {column!r}"
    if not is_text(kind) and not table.parts:
        raise UserError(f"{name}: column {column!r} holds {kind}: in such a table, give the names of image files")
    if not is_text(kind):
        if roots is not None and is_embedded(kind):
            check_names(where, _names_beside(table.rows.column(column)), folders)
        return EmbeddedImages(table.parts, column, table.files[0].parent, roots)
    paths = key_values(column_of(table, column))
    if pc.any(pc.match_substring_regex(paths, "^(?i:https?)://")).as_py():
        raise UserError(f"{where} holds URLs: download the images with img2dataset first")
    if roots is not None:
        check_names(where, paths, folders)
    pieces, start = [], 0
    for file, count in zip(table.files, table.counts, strict=True):
        pieces.append(_located(paths.slice(start, count), file.parent))
        start += count
    return FileImages(pa.concat_arrays(pieces), roots)


def _names_beside(column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The names of the files of those rows of a column ``{bytes, path}`` that hold no bytes, string."""
    fields = {field.name for field in column.type}
    if "path" not in fields:
        return pa.array([], pa.string())
    names = pc.cast(pc.struct_field(column, "path"), pa.string())
    return names.filter(pc.is_null(pc.struct_field(column, "bytes"))) if "bytes" in fields else names


def _located(paths: pa.Array, folder: Path) -> pa.Array:
    """The paths from the folder that they are relative to: the table's, or the one below it that has the files."""
    probes = [path for path in paths.slice(0, _PROBED).to_pylist() if path and "\0" not in path]
    root = folder
    if not any(find_file(folder / path) for path in probes):
        below = sorted(child for child in folder.iterdir() if child.is_dir())
        root = next((child for child in below if any(find_file(child / path) for path in probes)), folder)
    # A folder's name may be no text, and then the paths are none.
    kind = pa.string() if text_names([str(root)]) == [str(root)] else pa.binary()
    prefix, slash = (pa.scalar(os.fsencode(text)).cast(kind) for text in (root, "/"))
    bare = pc.or_(pc.starts_with(paths, "/"), pc.equal(paths, ""))
    paths = paths.cast(kind)
    return pc.if_else(bare, paths, pc.binary_join_element_wise(prefix, paths, slash))


class EmbeddedImages:
    """Images kept as bytes or as ``{bytes, path}`` in a column of memory-mapped datasets, one after the other."""

    def __init__(self, parts: Sequence[Any], column: str, folder: Path, roots: Roots | None = None) -> None:
        self.parts, self.column, self.folder, self.roots = list(parts), column, folder, roots
        self._starts = [0, *itertools.accumulate(len(part) for part in parts)]
        self._columns: list[Any] = []

    def __getitem__(self, row: int) -> bytes:
        if not self._columns:
            self._columns = [part.data.column(self.column) if self._has(part) else None for part in self.parts]
        number = bisect.bisect_right(self._starts, row) - 1
        column = self._columns[number]
        try:
            value = None if column is None else column[row - self._starts[number]].as_py()
        except UnicodeDecodeError as error:
            raise NoImage("the name of its file is not UTF-8") from error
        if isinstance(value, dict):
            if value.get("bytes") is None and value.get("path"):
                return read_file(str(self.folder / value["path"]), self.roots)
            value = value.get("bytes")
        if value is None:
            raise NoImage("its row holds no image")
        return bytes(value)

    def _has(self, part: Any) -> bool:
        return self.column in part.column_names

    def __getstate__(self) -> dict[str, Any]:
        # A dataset pickles as the names of its files, its columns would as their bytes.
        return {**self.__dict__, "_columns": []}
