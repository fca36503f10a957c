"""Errors of the folders in which ``huggingface_hub`` and ``datasets`` keep what they fetch, told from other errors."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNUSABLE = (*_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_FOLDERS = (
    ("datasets.config", "HF_DATASETS_CACHE"),
    ("datasets.config", "HF_MODULES_CACHE"),
    ("huggingface_hub.constants", "HF_HUB_CACHE"),
    ("huggingface_hub.constants", "HF_HOME"),
)
"""Modules and their name of a folder, which is also that of the environment."""


def cache_fault(error: BaseException, *, reading: bool = False) -> str | None:
    """One line for an error of a cache folder, or of one that caused the error; None for any other error.

    ``reading`` says that nothing else was written to, so that a full disk is the cache's.
    """
    for cause in _causes(error):
        if isinstance(cause, OSError):
            for folder, variable in _folders():
                if _is_of(cause, folder, reading):
                    advice = "make room there, or set" if cause.errno in _FULL else "set"
                    return (
                        f"the cache folder {folder} can't be used: {cause.strerror}; {advice} {variable} to a folder "
                        "that can be written"
                    )
    return None


def _is_of(error: OSError, folder: Path, reading: bool) -> bool:
    if not isinstance(error.filename, str):
        return reading and error.errno in _FULL
    named = Path(error.filename)
    return folder.is_relative_to(named) or (error.errno in _UNUSABLE and named.is_relative_to(folder))


def _folders() -> Iterator[tuple[Path, str]]:
    """The folders of the libraries that are loaded, and the variable of the environment that moves each."""
    for module, name in _FOLDERS:
        place = getattr(sys.modules.get(module), name, None)
        if place is not None:
            yield Path(place), name if name in os.environ else "HF_HOME"


def _causes(error: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__
