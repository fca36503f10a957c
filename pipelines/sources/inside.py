"""Whether the files that a table or a stream names lie inside of its source: a table is anyone's text.

Names are looked at once, when a table is opened (``check_names``), or as they come (``check_streamed``); where links
lead shows when a file is read (``Roots``). ``--allow-outside`` asks for neither. A folder of images lists nothing:
links in it are those of whoever made it, and are followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import UserError
from pipelines.sources.names import text_names

_ABSOLUTE = r"^([/\\]|[A-Za-z]:[/\\])"
_CLIMBS = r"(^|[/\\])\.\.([/\\]|$)"
_REMOTE = frozenset(("hf", "http", "https"))
_ARCHIVES = frozenset(("zip", "tar", "gzip", "bz2", "xz", "zstd", "lz4", "libarchive"))
"""What ``datasets`` puts before the address of what it looks into: ``zip://a.jpg::hf://…``."""


@dataclass(frozen=True)
class Roots:
    """Real paths of folders; what lies below one of them once all links are followed is inside."""

    folders: tuple[str, ...]

    @classmethod
    def of(cls, folders: Iterable[Path]) -> Roots:
        """The roots that are these folders; of a snapshot in the Hub's cache, whose files are links, its repository."""
        real = (Path(os.path.realpath(folder)) for folder in folders)  # as the files' own paths are made
        return cls(tuple(sorted({str(_repository(folder)) for folder in real})))

    def hold(self, path: str) -> bool:
        """Whether a file lies inside."""
        real = os.path.realpath(path)
        return any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in self.folders)


def check_names(where: str, names: pa.Array | pa.ChunkedArray, folders: Iterable[Path] = ()) -> None:
    """UserError if one of these file names, string [n], leads out; ``where`` lists them.

    It does if it climbs with ``..``, or is absolute and not that of a file below one of the ``folders``.
    """
    absolute = pc.match_substring_regex(names, _ABSOLUTE)
    typed = {each for folder in folders for each in (str(folder.absolute()), os.path.realpath(folder))}
    for folder in (each for each in typed if text_names([each]) == [each]):  # no text begins with what is none
        absolute = pc.and_not(absolute, pc.starts_with(names, folder.rstrip(os.sep) + os.sep))
    outside = pc.fill_null(pc.or_(absolute, pc.match_substring_regex(names, _CLIMBS)), False)
    count = pc.sum(outside).as_py() or 0
    if count:
        first = names.filter(outside)[0].as_py()
        raise UserError(
            f"{where} names {count} files outside of its folder, first: {first}; put them below it, or read them all "
            "the same with --allow-outside"
        )


def check_streamed(where: str, address: str) -> None:
    """UserError if the address of a streamed row's image is a place on this machine, or no place on the network."""
    schemes = [
        scheme.lower() if mark else "" for scheme, mark, _ in (at.partition("://") for at in address.split("::"))
    ]
    if schemes[-1] not in _REMOTE or not _ARCHIVES.issuperset(schemes[:-1]):
        raise UserError(
            f"{where} names files of this machine as its images, first: {address}; read them all the same with "
            "--allow-outside"
        )


def _repository(folder: Path) -> Path:
    parts = folder.parts
    if "snapshots" in parts and parts[parts.index("snapshots") - 1].startswith(("datasets--", "models--", "spaces--")):
        return Path(*parts[: parts.index("snapshots")])
    return folder
