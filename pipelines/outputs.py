"""Where a command writes: never over what it reads, and one process at a time.

What is written inside a source is passed over when that source is read, if it is known for our own (:func:`is_ours`);
a file that could not be told from the source's own is refused there (:func:`check_apart`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from pipelines.errors import UserError
from pipelines.run_folder import CONFIG
from saliency.files import user_path
from saliency.table.manifest import NAME as MANIFEST
from saliency.table.table import shard_files

INDEX, MADE_WITH = "index.jsonl", "made_with.json"
"""Beside exported maps: the list of all files, and how the maps were made."""

RESULTS = "results.json"
"""Every figure of a comparison."""

Kind = Literal["maps", "run", "comparison"]

_LOCK = ".lock"
_OURS = (
    {"config.json", "metrics.jsonl"}, {"config.json", "checkpoints"}, {"manifest.json", "data"}, {"prepared.json"},
    {"runs", "report.md"}, {"runs", RESULTS}, {"report.json", "rejected.jsonl"}, {"diff.json", "pairs.jsonl"},
    {INDEX, MADE_WITH},
)  # fmt: skip
"""What a run, maps, prepared images, a comparison, completed pictures, differences and exported maps have in their
folders."""


def kind_of(folder: Path) -> Kind | None:
    """What a folder of results is, as far as its files tell; None for anything else, such as a source."""
    if folder.is_dir() and ((folder / MANIFEST).exists() or shard_files(folder)):
        return "maps"
    if (folder / CONFIG).exists() and (folder / "checkpoints").exists():
        return "run"
    return "comparison" if (folder / RESULTS).exists() and (folder / "runs").exists() else None


def is_ours(names: set[str]) -> bool:
    """Whether a folder that holds these names is one that a command wrote, and no part of a source around it."""
    return any(marks <= names for marks in _OURS)


def check_apart(out: Path, read: Iterable[str | Path | None], *, option: str = "--out", file: bool = False) -> None:
    """UserError if ``out`` is one of the places that are read or, for a ``file``, lies in a folder among them."""
    there = user_path(out).resolve()
    for place in read:
        if place is None or not (path := user_path(place)).exists():
            continue
        if there == path.resolve():
            raise UserError(f"{option} {out} is what is read: give another place")
        if file and path.is_dir() and there.is_relative_to(path.resolve()):
            raise UserError(f"{option} {out} lies in {place}, which is read: give a place outside of it")


@contextmanager
def one_writer(folder: Path, *, name: str = "") -> Iterator[None]:
    """Within it no other process that asks writes to the folder; UserError, at once, if one does.

    The lock is the operating system's, so that a process that is killed leaves none. A folder that was not there is
    made, and goes again if nothing was written. ``name`` tells apart those that may write at a time, such as the parts
    of a job array.
    """
    if folder.exists() and not folder.is_dir():  # which who writes there says in words of its own
        yield
        return
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{_LOCK}{name and '-'}{name}", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another process is writing to {folder}: wait until it is done, or give another --out"
        ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        if new:
            with suppress(OSError):  # it holds something by now, as it should
                folder.rmdir()
