"""The kinds of maps that can be imported, one row each: how they are told, and what opens them.

A new kind is a file with a function *(options, source) → Reader*, and a row here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.errors import UserError
from pipelines.import_maps.fixations import X, Y, open_gaze, open_salicon
from pipelines.import_maps.heatmaps import index_of, open_heatmaps
from pipelines.import_maps.map_files import open_map_files
from pipelines.import_maps.reader import Asked, Reader
from pipelines.import_maps.table_columns import column_named, columns_of
from pipelines.import_maps.true_masks import open_masks
from pipelines.sources.source import Source
from pipelines.sources.tables.table_files import TABLE_SUFFIXES
from saliency.table.imported import MASKS
from saliency.table.shard import ShardFile
from saliency.table.table import shard_files

OWN = "masks"
"""What ``--from`` is for the source's own masks."""


@dataclass(frozen=True)
class Kind:
    """A kind of maps."""

    name: str
    """As the maps' metadata call it."""
    told: str
    """As messages list it."""
    fits: Callable[[Asked], bool]
    """Whether what was given is of this kind. Raises UserError."""
    open: Callable[[Asked, Source], Reader]
    own: bool = False
    """Whether they are in the source itself."""
    table: bool = False
    fixations: bool = False
    asks_units: bool = False
    arrays: bool = False
    """Whether there may be NPZ files."""


def kind_of(options: Asked) -> Kind:
    """The kind of what ``--from`` names. UserError, with all kinds, if it is none."""
    found = next((kind for kind in KINDS if kind.fits(options)), None)
    if found is None:
        place = options.place
        what = "is of no kind that is known" if place.exists() else "is not masks, nor a file or folder"
        raise UserError(f"--from {options.maps_from} {what}: give {'; '.join(kind.told for kind in KINDS)}")
    return found


def _is_folder(options: Asked) -> bool:
    folder = options.place
    if not folder.is_dir():
        return False
    for path in shard_files(folder)[:1]:
        try:
            ShardFile(path)
        except ValueError as error:
            raise UserError(f"--from {options.maps_from} is a maps folder that can't be read: {error}") from error
        raise UserError(
            f"--from {options.maps_from} is a maps folder already: pretrain, inspect and publish read it as it is"
        )
    return True


def _has_suffix(options: Asked, *suffixes: str) -> bool:
    path = options.place
    return path.suffix.lower() in suffixes and path.is_file()


def _is_salicon(options: Asked) -> bool:
    return _has_suffix(options, ".json")


def _is_table(options: Asked) -> bool:
    return _has_suffix(options, *(suffix for suffix in TABLE_SUFFIXES if suffix != ".json"))


def _is_gaze(options: Asked) -> bool:
    if options.map_column is not None or not _is_table(options):
        return False
    schema = columns_of(options.place)
    return all(column_named(schema, name) is not None for name in (X, Y))


KINDS: tuple[Kind, ...] = (
    Kind(MASKS, "masks, which are those of the source", lambda options: options.maps_from == OWN, open_masks, own=True),
    Kind(
        "heatmaps",
        "a folder that export-maps wrote",
        lambda options: _is_folder(options) and index_of(options.place) is not None,
        open_heatmaps,
        table=True,
        arrays=True,
    ),
    Kind("map files", "a folder of PNG, NPY or NPZ files named like the keys", _is_folder, open_map_files, arrays=True),
    Kind("fixations", "SALICON's .json", _is_salicon, open_salicon, fixations=True),
    Kind(
        "fixations",
        "a .parquet, .csv, .tsv or .jsonl table with columns x and y of fixations",
        _is_gaze,
        open_gaze,
        table=True,
        fixations=True,
        asks_units=True,
    ),
    Kind("heatmaps", "such a table with a column of maps", _is_table, open_heatmaps, table=True, arrays=True),
)
