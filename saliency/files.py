"""Files that appear only whole: written under a temporary name, synced to disk, then renamed.

And files of strangers, which are read only if they are regular files of a size that is sane: a pipe would be waited for
and a device read for ever.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

LARGEST_JSON = 1 << 28
"""Bytes; the manifest of 100 000 shards has a tenth of it."""

_TEMPORARY = ".tmp-"
_PIECE = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def user_path(place: Path | str) -> Path:
    """A path, its ``~`` as a user's home; as it is where no home is known."""
    return Path(os.path.expanduser(place))  # noqa: PTH111 (Path's own raises there)


def open_regular(path: Path | str) -> BufferedReader:
    """Open a regular file for reading; OSError for anything else, without waiting for a pipe."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    number = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
    raise OSError(number, os.strerror(number) if stat.S_ISDIR(kind) else "Not a regular file", str(path))


def read_regular(path: Path | str, most: int) -> bytes:
    """The bytes of a regular file; OSError if it is none, can't be read or has more than ``most`` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1) if size <= most else b""
        while size < len(data) <= most and (more := file.read(_PIECE)):  # grows, or does not say how large it is
            data += more
    if size > most or len(data) > most:
        raise OSError(errno.EFBIG, f"Larger than {most:,} bytes", str(path))
    return data


def parse_json(data: bytes | str) -> Any:
    """What a JSON text says; ValueError for any text that is none, or is nested too deep to be read."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_json(path: Path, most: int = LARGEST_JSON) -> Any:
    """What a JSON file says; ValueError, whose text does not name the file, if it can't be read or is no JSON."""
    try:
        return parse_json(read_regular(path, most))
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


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
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            error.filename = str(path)
        raise
    sync(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """:func:`write_atomically` for a text in UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def remove_leftovers(folder: Path, names: Collection[str] | None = None, *, deep: bool = True) -> None:
    """Delete what a killed run left half-made under ``folder``: all, or what was to become ``names``.

    A temporary folder goes with all that is in it. If not ``deep``, subfolders are not looked into.
    """
    for path in list(folder.glob(f"{'**/' if deep else ''}{_TEMPORARY}*")):
        if names is not None and path.name.removeprefix(_TEMPORARY).partition("-")[2] not in names:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
