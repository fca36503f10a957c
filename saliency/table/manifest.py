"""``manifest.json`` of a maps folder: the settings that made it, and what every shard took in, wrote and rejected.

It is the one place that says which shards are done. A run with the same settings makes those that are not; a run
with other settings is refused. ``in = written + rejected`` holds for every shard and for the whole. The parts of a job
array keep manifests of their own, ``manifest-00003-of-00008.json``, until they are merged.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from saliency.files import read_json, write_text_atomically
from saliency.shown import one_line

NAME = "manifest.json"
APPEND = ".append"
"""The folder inside a maps folder in which pairs that are to be appended are built."""
LARGEST_COUNT = 1 << 48
"""Of pairs, or bytes; more are in no folder."""
LONGEST_NAME = 200
"""Characters of the name of a shard; file systems take 255 bytes."""
_ORIGIN: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("source", "split", "image_column", "caption_column", "captions", "clip", "pretrained"), (str,)),
    **dict.fromkeys(("clips", "published"), (bool,)),
    "limit": (int,),
}
_PART = re.compile(r"manifest-(\d{5})-of-(\d{5})\.json")


def part_name(part: int, parts: int) -> str:
    """The file name of the manifest of part i of n of a job array."""
    return f"manifest-{part:05d}-of-{parts:05d}.json"


def part_manifests(folder: Path) -> list[Path]:
    """The manifests of a job array's parts in a folder, in order."""
    return sorted(path for path in folder.glob("manifest-*.json") if _PART.fullmatch(path.name))


class CountError(ValueError):
    """Pairs in are not those written and those rejected."""


@dataclass(frozen=True)
class Shard:
    """One finished shard: its file, the sha256 of that file, and its counts of pairs."""

    file: str
    sha256: str
    taken: int
    written: int
    rejected: int

    def __post_init__(self) -> None:
        counts = [value for name, value in asdict(self).items() if name not in ("file", "sha256")]
        if not all(type(count) is int and 0 <= count <= LARGEST_COUNT for count in counts):
            raise TypeError(f"a shard's counts are no numbers from 0 to {LARGEST_COUNT}")
        if self.taken != self.written + self.rejected:
            raise CountError(
                f"{self.file}: {self.taken} pairs in, but {self.written} written and {self.rejected} rejected"
            )


@dataclass
class Manifest:
    """The state of a build. ``settings`` decide the maps, ``origin`` says where the pairs came from (not compared).

    ``name`` is its file's; that of a job array's part lists that part's shards alone.
    """

    settings: dict[str, Any]
    origin: dict[str, Any]
    shards: list[Shard] = field(default_factory=list)
    complete: bool = False
    name: str = NAME

    @property
    def fingerprint(self) -> str:
        """sha256 of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    @property
    def taken(self) -> int:
        """Pairs taken in so far."""
        return sum(shard.taken for shard in self.shards)

    @property
    def written(self) -> int:
        """Pairs with a map so far."""
        return sum(shard.written for shard in self.shards)

    @property
    def rejected(self) -> int:
        """Pairs rejected so far."""
        return sum(shard.rejected for shard in self.shards)

    def add(self, shard: Shard) -> None:
        """Count a finished shard; they stay in the order of their names, whichever is finished first."""
        self.shards = sorted([*self.shards, shard], key=lambda done: done.file)

    def save(self, folder: Path) -> None:
        """Write the manifest atomically."""
        content = {"fingerprint": self.fingerprint, "complete": self.complete}
        content |= {"pairs": {"in": self.taken, "written": self.written, "rejected": self.rejected}}
        content |= {
            "settings": self.settings,
            "origin": self.origin,
            "shards": [asdict(shard) for shard in self.shards],
        }
        write_text_atomically(folder / self.name, json.dumps(content, indent=1) + "\n")


def read_manifest(folder: Path, name: str = NAME, *, kind: type[Shard] = Shard) -> Manifest | None:
    """The manifest of a maps folder, None where there is none; ValueError if it can't be read.

    ``kind`` is what its shards are, for folders of other things that keep such a manifest.
    """
    path = folder / name
    if not os.path.lexists(path):
        return None
    try:
        content = read_json(path)
        shards = [_shard(kind, listed) for listed in content["shards"]]
        settings, origin, complete = content["settings"], content["origin"], content["complete"]
        for what, value, wanted in (
            ("settings", settings, dict),
            ("origin", origin, dict),
            ("complete", complete, bool),
        ):
            if not isinstance(value, wanted):
                raise TypeError(f"{what} is no {'object' if wanted is dict else 'true or false'}")
        wrong = [what for what, kinds in _ORIGIN.items() if type(origin.get(what)) not in (*kinds, type(None))]
        if wrong:
            raise TypeError(f"of its origin, {', '.join(wrong)} can't be")
        repeated = len(shards) - len({shard.file for shard in shards})
        if repeated:
            raise TypeError(f"{repeated} shards are listed twice")
        return Manifest(settings, origin, shards, complete, name)
    except CountError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else one_line(error, 200)
        raise ValueError(f"{path} is not a manifest of build-saliency ({what}); give another --out") from error


def _shard(kind: type[Shard], listed: dict[str, Any]) -> Shard:
    """One shard of a manifest, whose file is a name in its folder and whose counts are counts."""
    shard = kind(**listed)
    if not isinstance(shard.file, str) or not isinstance(shard.sha256, str):
        raise TypeError("a shard's file or sha256 is no text")
    if shard.file in ("", ".", "..") or {"/", "\\", "\0"} & set(shard.file) or len(shard.file) > LONGEST_NAME:
        raise TypeError(f"{one_line(repr(shard.file), 100)} is no name of a shard")
    return shard


def open_manifest(folder: Path, settings: dict[str, Any], origin: dict[str, Any], name: str = NAME) -> Manifest:
    """The manifest to go on with: the folder's own if its settings are these, a new one if the folder is empty.

    Raises ValueError naming the settings that differ, or saying that the folder holds something else.
    """
    existing = read_manifest(folder, name)
    others = [path.name for path in (folder / NAME, *part_manifests(folder)) if path.exists() and path.name != name]
    for other in others if name != NAME or existing is None else []:
        _check_neighbour(folder, name, other, settings)
    if existing is None:
        strangers = [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []
        # a run killed before its first manifest may leave these behind
        # and other parts of a job array write theirs, and the options of their commands, at any time
        own = ("data", "rejected", "command.yaml", NAME)
        strangers = [found for found in strangers if found not in own and not _PART.fullmatch(found)]
        if strangers:
            raise ValueError(
                f"--out {folder} is not empty and holds no maps (found {strangers[0]}); give an empty folder"
            )
        return Manifest(settings, origin, name=name)
    compare_settings(folder, existing.settings, settings)
    return existing


def _check_neighbour(folder: Path, name: str, other: str, settings: dict[str, Any]) -> None:
    """ValueError if a folder that holds the manifest ``other`` can't take in one called ``name``."""
    if name == NAME:
        raise ValueError(f"--out {folder} holds parts of a job array ({other}); finish them and run mae-cli merge")
    if other == NAME:
        raise ValueError(
            f"--out {folder} holds a run without --shard; continue it without --shard, or give another folder"
        )
    if _PART.fullmatch(other)[2] != _PART.fullmatch(name)[2]:  # type: ignore[index]
        raise ValueError(f"--out {folder} is of a job array of another number of parts ({other}); give that number")
    neighbour = read_manifest(folder, other)
    if neighbour is not None:
        compare_settings(folder, neighbour.settings, settings)


def compare_settings(folder: Path, begun: dict[str, Any], settings: dict[str, Any]) -> None:
    """ValueError naming what differs if ``folder`` was started with other settings."""
    if begun == settings:
        return
    changes = [
        f"{name} {begun.get(name)!r} → {settings.get(name)!r}"
        for name in sorted(set(settings) | set(begun))
        if begun.get(name) != settings.get(name)
    ]
    raise ValueError(
        f"--out {folder} was started with other settings ({'; '.join(changes)[:400]}); give another folder"
    )
