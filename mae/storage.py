"""Errors of the disk as what they are: torch and safetensors hide them in errors of their own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError

_NUMBER = re.compile(r"\bos error (\d+)|\bcode: (\d+)")
"""How Rust tells of an error of the operating system."""


@contextmanager
def disk_errors(place: Path | str | None = None) -> Iterator[None]:
    """Raises the OSError that is behind an error of torch or safetensors; others are left as they are.

    ``place`` is what is being written, which the OSError names.
    """
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        found = _disk_error(error)
        if found is None:
            raise
        if found.filename is None and place is not None:
            found.filename = str(place)
        raise found from error


def save_torch(content: Any, file: BinaryIO) -> None:
    """``torch.save`` to an open file, whose errors are OSErrors."""
    with disk_errors():
        torch.save(content, file)


def write_torch(path: Path, content: Any) -> None:
    """``torch.save`` to a path, where it tells nothing of the disk's errors; here they are OSErrors."""
    with disk_errors(path), path.open("wb") as file:
        torch.save(content, file)


def _disk_error(error: BaseException) -> OSError | None:
    if number := _NUMBER.search(str(error)):
        code = int(number[1] or number[2])
        return OSError(code, os.strerror(code))
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, OSError):
        behind = behind.__cause__ or behind.__context__
    return behind
