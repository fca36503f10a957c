"""File names that are spelled in more than one way, and such that are no text.

macOS writes ``é`` as two characters (NFD) where a table, typed elsewhere, has one (NFC); a name in an old encoding is
bytes that UTF-8 does not know. The first find each other, the second get a key that says what they are.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path


def composed(name: str) -> str:
    """The name in the form (NFC) in which its spellings are equal."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def stem_of(path: str) -> str:
    """A file's path without its suffix, in the form in which its spellings are equal: ``cats/1`` of ``cats/1.jpg``."""
    return composed(os.path.splitext(path)[0])  # noqa: PTH122 (a Path for each of millions of files is slow)


def find_path(path: Path) -> Path:
    """What lies at this path or, if nothing does, where each name is the same in another Unicode form; else the path.

    Raises OSError or ValueError for a path that can't be asked for.
    """
    if str(path).isascii() or path.exists():
        return path
    found = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        spellings = (part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD")))
        found = next((found / name for name in spellings if (found / name).exists()), found / part)
    return found


def find_file(path: Path) -> Path | None:
    """The file at this path, as :func:`find_path` looks for it; None if there is none."""
    try:
        found = find_path(path)
        return found if found.is_file() else None
    except (OSError, ValueError):
        return None


def text_names(paths: Sequence[str]) -> list[str]:
    """The paths as text, each another: bytes that are no UTF-8 are written as ``\\xe9``."""
    if all(map(str.isascii, paths)):
        return list(paths)
    texts = [os.fsencode(path).decode("utf-8", "backslashreplace") for path in paths]
    odd = [i for i, (path, text) in enumerate(zip(paths, texts, strict=True)) if path != text]
    taken = {text for path, text in zip(paths, texts, strict=True) if path == text} if odd else set()
    for i in odd:
        while texts[i] in taken:  # by a file whose very name has such a backslash
            texts[i] += "~"
        taken.add(texts[i])
    return texts
