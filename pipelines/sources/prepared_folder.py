"""``prepared.json`` of a folder that ``prepare`` made: its settings, and what every file took in, holds and rejected.

It is the manifest of a maps folder with other counts: *in = written + rejected* counts the rows of the source, several
of which may be one image. A folder that is unfinished, or has lost a file, is no source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import UserError, user_errors
from saliency.table.manifest import Manifest, Shard, compare_settings, read_manifest

NAME = "prepared.json"


@dataclass(frozen=True)
class PreparedShard(Shard):
    """One finished file; ``taken``, ``written`` and ``rejected`` count rows of the source."""

    images: int
    """Images in it."""
    kept: int
    """Those whose bytes are the source's own."""
    bytes_in: int
    """Of the source's images, those only that are in it."""
    bytes_out: int
    """Of its own."""


@dataclass(frozen=True)
class Totals:
    """The sums over all files."""

    images: int
    kept: int
    bytes_in: int
    bytes_out: int


def totals(manifest: Manifest) -> Totals:
    """What a prepared folder holds."""
    shards = prepared_shards(manifest)
    return Totals(
        sum(shard.images for shard in shards),
        sum(shard.kept for shard in shards),
        sum(shard.bytes_in for shard in shards),
        sum(shard.bytes_out for shard in shards),
    )


def prepared_shards(manifest: Manifest) -> Sequence[PreparedShard]:
    """The files of a manifest that was read or begun here."""
    return [shard for shard in manifest.shards if isinstance(shard, PreparedShard)]


def open_prepared(folder: Path, settings: dict[str, Any], origin: dict[str, Any]) -> Manifest:
    """The manifest to go on with, or a new one where the folder is empty.

    Raises UserError if the folder holds something else, or was started with other settings.
    """
    existing = _read(folder)
    if existing is None:
        if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(f"--out {folder} is not empty, and prepare did not begin it; give an empty folder")
        return Manifest(settings, origin, name=NAME)
    with user_errors():
        compare_settings(folder, existing.settings, settings)
    return existing


def check_prepared(folder: Path) -> None:
    """UserError if ``folder`` is one that ``prepare`` has not finished, or that has lost a file since."""
    manifest = _read(folder)
    if manifest is None:
        return
    if not manifest.complete:
        raise UserError(f"{folder} is unfinished; run the same prepare command again to finish it")
    absent = [shard.file for shard in manifest.shards if not (folder / shard.file).exists()]
    if absent:
        raise UserError(
            f"{folder} lacks {len(absent)} of its {len(manifest.shards)} files, first {absent[0]}; copy what is "
            "missing, or run the same prepare command again"
        )


def _read(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder, NAME, kind=PreparedShard)
    except ValueError as error:
        raise UserError(
            f"{folder / NAME} is not what prepare wrote ({error.__cause__}); give another folder"
        ) from error
