"""``manifest.json`` of a maps folder: the settings that made it, and what every shard took in, wrote and rejected.

It is the one place that says which shards are done. A run with the same settings goes on behind the last one; a run
with other settings is refused. ``in = written + rejected`` holds for every shard and for the whole.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from saliency.files import write_text_atomically

NAME = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """One finished shard: its file, the sha256 of that file, and its counts of pairs."""

    file: str
    sha256: str
    taken: int
    written: int
    rejected: int

    def __post_init__(self) -> None:
        if self.taken != self.written + self.rejected:
            raise ValueError(
                f"{self.file}: {self.taken} pairs in, but {self.written} written and {self.rejected} rejected"
            )


@dataclass
class Manifest:
    """The state of a build. ``settings`` decide the maps, ``origin`` says where the pairs came from (not compared)."""

    settings: dict[str, Any]
    origin: dict[str, Any]
    shards: list[Shard] = field(default_factory=list)
    complete: bool = False

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

    def save(self, folder: Path) -> None:
        """Write ``manifest.json`` atomically."""
        content = {"fingerprint": self.fingerprint, "complete": self.complete}
        content |= {"pairs": {"in": self.taken, "written": self.written, "rejected": self.rejected}}
        content |= {
            "settings": self.settings,
            "origin": self.origin,
            "shards": [asdict(shard) for shard in self.shards],
        }
        write_text_atomically(folder / NAME, json.dumps(content, indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a maps folder, None where there is none; ValueError if it can't be read."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        shards = [Shard(**shard) for shard in content["shards"]]
        return Manifest(content["settings"], content["origin"], shards, content["complete"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a manifest of build-saliency ({error}); give another --out") from error


def open_manifest(folder: Path, settings: dict[str, Any], origin: dict[str, Any]) -> Manifest:
    """The manifest to go on with: the folder's own if its settings are these, a new one if the folder is empty.

    Raises ValueError naming the settings that differ, or saying that the folder holds something else.
    """
    existing = read_manifest(folder)
    if existing is None:
        strangers = [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []
        # a run killed before its first manifest may leave these behind
        if set(strangers) - {"data", "rejected"}:
            raise ValueError(
                f"--out {folder} is not empty and holds no maps (found {strangers[0]}); give an empty folder"
            )
        return Manifest(settings, origin)
    if existing.settings != settings:
        names = sorted(set(settings) | set(existing.settings))
        changes = [
            f"{name} {existing.settings.get(name)!r} → {settings.get(name)!r}"
            for name in names
            if existing.settings.get(name) != settings.get(name)
        ]
        raise ValueError(
            f"--out {folder} was begun with other settings ({'; '.join(changes)[:400]}); give another folder"
        )
    return existing
