"""``build-saliency --append``: the pairs that finished maps lack become further shards.

They are a build of their own in ``.append`` inside the maps folder, which a killed run takes up again like any other.
When it is done its folder becomes ``.joining``: from then on its shards are moved behind the old ones, which get names
with the new total and keep their bytes. A run that is killed while it moves is finished by the next one.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.build.shard_plan import shard_name
from pipelines.errors import UserError, user_errors
from pipelines.sources.source import Source
from saliency.files import sync
from saliency.table.checks import PUBLISHED, rejected_pairs
from saliency.table.manifest import Manifest, part_manifests, read_manifest
from saliency.table.rows import hashes_of, pair_hashes
from saliency.table.shard import ShardFile
from saliency.table.table import shard_files

JOINING = ".joining"
APPENDED = "appended"
"""In a manifest's settings: the ``pairs`` and ``pairs_sha256`` of each append, in order."""


def finished_maps(folder: Path) -> Manifest:
    """The manifest of maps that can be appended to; UserError for a folder that holds none."""
    with user_errors():
        manifest = read_manifest(folder)
    if part_manifests(folder):
        raise UserError(f"{folder} holds parts of a job array; when all are done, run mae-cli merge on it, then append")
    if manifest is None:
        raise UserError(f"{folder} holds no maps to append to: make them without --append first")
    if not manifest.complete:
        raise UserError(f"{folder} is unfinished: finish it with the command that began it, then append")
    if manifest.origin.get(PUBLISHED):
        raise UserError(f"{folder} is a published copy, which does not list its rejected pairs: append to the original")
    gone = [shard.file for shard in manifest.shards if not (folder / "data" / shard.file).exists()]
    if gone:
        raise UserError(f"{folder} has lost {len(gone)} of its files ({gone[0]}): copy them back, then append")
    return manifest


def pairs_without_map(source: Source, folder: Path) -> Source:
    """The pairs of a source that have no map in ``folder`` and were not rejected there, by key and caption.

    Texts that differ in their Unicode form alone are the same. Raises UserError for a shard that can't be read.
    """
    new = np.arange(len(source))
    for composed in (False, True):
        if len(new):
            hashes = pair_hashes(source.keys, source.captions, composed=composed).take(pa.array(new))
            new = new[~np.asarray(pc.is_in(hashes, value_set=_known_pairs(folder, composed)))]
    return source if len(new) == len(source) else source.select(new)


def _known_pairs(folder: Path, composed: bool) -> pa.Array:
    with user_errors():
        found = [
            pair_hashes(batch["key"], batch["caption"], composed=composed)
            for path in shard_files(folder)
            for batch in ShardFile(path).batches(["key", "caption"])
        ]
    return pa.concat_arrays([hashes_of(b""), *found, rejected_pairs(folder, composed=composed)])


def join_appended(folder: Path) -> Manifest | None:
    """Put shards that lie ready, if there are any, behind those of the folder; its manifest, or None if it has none.

    The folder's origin becomes that of the new pairs if they came from the same place, with another limit perhaps.
    """
    ready = folder / JOINING
    with user_errors():
        whole, added = read_manifest(folder), read_manifest(ready)
    if whole is not None and added is not None:
        entry = {name: added.settings.get(name) for name in ("pairs", "pairs_sha256")}
        if entry not in whole.settings.get(APPENDED, []):  # else it was killed right after its manifest was written
            _move_all(folder, whole, added)
            whole.settings[APPENDED] = [*whole.settings.get(APPENDED, []), entry]
            if added.origin.get("source") == whole.origin.get("source"):
                whole.origin = added.origin
            whole.save(folder)
        (ready / added.name).unlink()
    shutil.rmtree(ready, ignore_errors=True)
    return whole


def _move_all(folder: Path, whole: Manifest, added: Manifest) -> None:
    """Give all shards, and the lists of what they rejected, their names in the whole; old ones first."""
    shards = [*((folder, shard) for shard in whole.shards), *((folder / JOINING, shard) for shard in added.shards)]
    (folder / "rejected").mkdir(exist_ok=True)
    for number, (place, shard) in enumerate(shards):
        final = shard_name(number, len(shards))
        _move(place / "data" / shard.file, folder / "data" / final)
        stem = Path(shard.file).stem
        for name in {stem, stem.partition("-of-")[0]}:  # a stream's rejects are named before the total is known
            _move(place / "rejected" / f"{name}.jsonl", folder / "rejected" / f"{Path(final).stem}.jsonl")
        shards[number] = folder, replace(shard, file=final)
    whole.shards = [shard for _, shard in shards]
    for name in ("data", "rejected"):
        sync(folder / name)
    if not any((folder / "rejected").iterdir()):
        (folder / "rejected").rmdir()


def _move(path: Path, target: Path) -> None:
    """Rename a file if it is still there: names never meet, since the totals in them differ."""
    if path.exists():
        path.replace(target)
