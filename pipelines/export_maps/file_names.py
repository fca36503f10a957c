"""Names of files for keys, which may hold anything: every name is safe on all systems, and none stands twice.

A key's folders become folders. Signs that some system does not take become ``_``, and so do ``..`` and what would be
hidden. The suffix of an image goes. Names that would be equal, also to a file system that knows no capitals, are told
apart by the key's whole name, then by numbers.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from pipelines.sources.images import SUFFIXES

_UNSAFE = re.compile(r"[^\w .()+,=@-]")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")  # names of devices on Windows
_LONGEST = 120  # bytes of a name; file systems take 255
_DEEPEST = 16


def file_names(keys: Sequence[str], suffix: str, taken: Sequence[str] = ()) -> list[str]:
    """A relative path with ``suffix`` for each key, in order; ``taken`` are names that are no map's."""
    paths = [_path(key) for key in keys]
    alike = defaultdict[str, set[str]](set)
    for path in paths:
        alike[_seen(_without_suffix(path))].add(path)
    stems = (_without_suffix(path) for path in paths)
    chosen = [path if len(alike[_seen(stem)]) > 1 else stem for path, stem in zip(paths, stems, strict=True)]
    used = {_seen(str(folder)) for name in chosen for folder in PurePosixPath(name).parents} | {*map(_seen, taken)}
    counts, names = Counter[str](), list[str]()
    for name in chosen:
        found = name + suffix
        while _seen(found) in used:
            counts[_seen(name)] += 1
            found = f"{name}-{counts[_seen(name)] + 1}{suffix}"
        used.add(_seen(found))
        names.append(found)
    return names


def _path(key: str) -> str:
    """The key as a path of safe names."""
    parts = [part for part in re.split(r"[/\\]", key) if part not in ("", ".")]
    if len(parts) > _DEEPEST:
        parts = [*parts[: _DEEPEST - 1], "_".join(parts[_DEEPEST - 1 :])]
    return "/".join(map(_safe, parts)) or "_"


def _safe(part: str) -> str:
    name = _UNSAFE.sub("_", unicodedata.normalize("NFC", part)).rstrip(" .") or "_"
    if name.startswith((".", " ", "-")) or _RESERVED.match(name):
        name = f"_{name.lstrip('. ')}"
    if len(name.encode()) > _LONGEST:
        digest = hashlib.sha256(part.encode()).hexdigest()[:12]
        name = name.encode()[: _LONGEST - 13].decode(errors="ignore").rstrip(" .") + f"-{digest}"
    return name


def _without_suffix(path: str) -> str:
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES and stem.rpartition("/")[2] else path


def _seen(name: str) -> str:
    """The name as a file system sees it that knows no capitals."""
    return unicodedata.normalize("NFC", name).casefold()
