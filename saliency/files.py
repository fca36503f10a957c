"""Files that appear only whole: written under a temporary name, synced to disk, then renamed."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = ".tmp-"


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call ``write`` with a binary file that becomes ``path`` when complete; on any error ``path`` is untouched."""
    with opened_atomically(path) as file:
        write(file)


@contextmanager
def opened_atomically(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes ``path`` when the block ends; on any error ``path`` is untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """:func:`write_atomically` for a text in UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def remove_leftovers(folder: Path, names: Collection[str] | None = None) -> None:
    """Delete the temporary files a killed run left under ``folder``: all, or those that were to become ``names``."""
    for path in folder.rglob(f"{_TEMPORARY}*"):
        if names is None or path.name.removeprefix(_TEMPORARY).partition("-")[2] in names:
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
