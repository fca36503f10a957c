"""The memory-mapped copy through which a table is read, made on first use.

It lies beside the table, in ``.cache/``: in the user's cache if that place is read-only, or if the table's files are
links into another program's cache, such as a snapshot of the Hub's, which is not ours to add to. Its name holds where
the table is and the sizes and times of its files; its stamp the sizes and some blocks of its own, so that one that is
stale, cut short or zeroed is made again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from saliency.files import sync
from saliency.table.shard import ShardFile, schema, wrong_values

MAPS, BOXES, RANGES, COLUMNS = "saliency.u8", "boxes.f32", "ranges.f32", "columns.arrow"
"""uint8 [n, G, G] or [n, K, G, G], float32 [n, 4], float32 [n, 2] (vmin and scale), and key, caption and clip_score as
Arrow's IPC."""

_LAYOUT = 2  # another number when the files of the copy change
_STAMP = "stamp"
_COPY = re.compile("[0-9a-f]{16}")  # the name of a copy
_NAMES = ("key", "caption", "clip_score")
_BLOCKS, _BLOCK = 16, 4096  # of each file, which its stamp is made of


def open_copy(folder: Path, shards: list[ShardFile]) -> Path:
    """The folder of the copy of these shards of the table ``folder``.

    ShardError for a shard that can't be read, ValueError for a value that no map has, or if there is no place for it.
    """
    files = [shard.path for shard in shards]
    state = "".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}\n" for path in files)
    name = hashlib.sha256(f"{_LAYOUT}\n{folder.resolve()}\n{state}".encode()).hexdigest()[:16]
    beside = folder / ".cache"
    if _is_whole(beside / name, shards):
        return beside / name
    borrowed = any(path.is_symlink() for path in files) or folder.resolve().parent.name == "snapshots"
    parent = beside if os.access(folder, os.W_OK) and not borrowed else _users_cache(folder)
    if parent != beside and _is_whole(parent / name, shards):
        return parent / name
    try:
        _make(parent, name, shards)
    except OSError as error:
        raise ValueError(
            f"{folder} is read through a copy, which can't be made in {parent} ({error.strerror or error}): make room "
            "there or let it be written, or set XDG_CACHE_HOME to another place and make the maps folder read-only"
        ) from error
    for stale in parent.iterdir():
        # `hf download --local-dir` keeps its own notes in the same place
        if parent == beside and stale.name != name and _COPY.fullmatch(stale.name):
            shutil.rmtree(stale, ignore_errors=True)
    return parent / name


def _users_cache(folder: Path) -> Path:
    place = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(place) if place else Path.home() / ".cache") / "saliency-mae"
    except RuntimeError as error:  # no HOME, and a user whom the system does not know
        raise ValueError(
            f"{folder} can't be written, and there is no home folder for a copy of it: set XDG_CACHE_HOME"
        ) from error


def _make(parent: Path, name: str, shards: list[ShardFile]) -> None:
    parent.mkdir(parents=True, exist_ok=True)
    temporary = parent / f".tmp-{os.getpid()}-{name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        _write(temporary, shards)
        if (parent / name).exists() and not _is_whole(parent / name, shards):
            shutil.rmtree(parent / name)
        temporary.replace(parent / name)
    except OSError:
        if not _is_whole(parent / name, shards):  # else another process was first, and its copy is as good
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_whole(copy: Path, shards: list[ShardFile]) -> bool:
    """Whether a copy is there, has the size that the shards give it, and is what was written as far as can be seen."""
    rows, cells = sum(shard.rows for shard in shards), shards[0].slots * shards[0].grid ** 2
    sizes = {MAPS: rows * cells, BOXES: rows * 16, RANGES: rows * 8}
    try:
        return (copy / _STAMP).read_bytes() == _stamp(copy) and all(
            (copy / name).stat().st_size == size for name, size in sizes.items()
        )
    except OSError:
        return False


def _stamp(copy: Path) -> bytes:
    digest = hashlib.sha256()
    for name in (MAPS, BOXES, RANGES, COLUMNS):
        with (copy / name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{name} {size}\n".encode())
            for place in range(_BLOCKS):
                digest.update(os.pread(file.fileno(), _BLOCK, max(size - _BLOCK, 0) * place // (_BLOCKS - 1)))
    return digest.hexdigest().encode()


def _write(target: Path, shards: list[ShardFile]) -> None:
    columns = pa.schema([schema(shards[0].grid, {}).field(name) for name in _NAMES])
    with (
        (target / MAPS).open("wb") as maps,
        (target / BOXES).open("wb") as boxes,
        (target / RANGES).open("wb") as ranges,
        pa.OSFile(str(target / COLUMNS), "wb") as sink,
        pa.ipc.new_file(sink, columns) as writer,
    ):
        for shard in shards:
            for batch in shard.batches([*_NAMES, "saliency", "crop_box", "vmin", "scale"]):
                _check_values(shard.path, batch)
                maps.write(batch.column("saliency").flatten().to_numpy().data)
                boxes.write(batch.column("crop_box").flatten().to_numpy().data)
                pair = [batch.column(name).to_numpy() for name in ("vmin", "scale")]
                ranges.write(np.ascontiguousarray(np.stack(pair, axis=1)).data)
                writer.write_batch(batch.select(list(_NAMES)).cast(columns))
    for path in target.iterdir():
        sync(path)
    (target / _STAMP).write_bytes(_stamp(target))


def _check_values(path: Path, batch: pa.RecordBatch) -> None:
    for what, wrong in wrong_values(batch):
        if wrong.any():
            key = batch["key"][int(np.flatnonzero(wrong)[0])].as_py()
            raise ValueError(f"{path}: {what} (key {key!r}); mae-cli verify lists them all")
