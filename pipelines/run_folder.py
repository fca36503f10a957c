"""A run folder: ``config.json``, ``metrics.jsonl``, ``rejected.jsonl``, ``checkpoints/`` and ``plots/``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from saliency.files import read_json, remove_leftovers, write_text_atomically

CONFIG, METRICS, REJECTED = "config.json", "metrics.jsonl", "rejected.jsonl"


class RunFolder:
    """The folder of one pretraining; of several processes, those that do not ``write`` leave it as it is."""

    def __init__(self, folder: Path, *, write: bool = True) -> None:
        self.folder, self._write = folder, write

    def begin(
        self,
        config: dict[str, Any],
        *,
        resume: bool,
        free: frozenset[str] = frozenset(),
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the folder ready for a run with these settings.

        A new run needs an empty folder. A resumed one needs the same settings, but for the names in ``free``, the same
        images and the same maps; an option that came with a later version had its value in ``defaults``. Raises
        UserError otherwise.
        """
        if not self._write:
            return
        remove_leftovers(self.folder, {CONFIG, METRICS, REJECTED}, deep=False)
        existing = self.config() if (self.folder / CONFIG).exists() else None
        if existing is None:
            if self.folder.exists() and not self.folder.is_dir():
                raise UserError(f"--out {self.folder} is a file; give an empty folder")
            if self.folder.exists() and any(not path.name.startswith(".") for path in self.folder.iterdir()):
                raise UserError(f"--out {self.folder} is not empty and holds no run; give an empty folder")
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text_atomically(self.folder / CONFIG, json.dumps(config, indent=1) + "\n")
            return
        if not resume:
            raise UserError(f"--out {self.folder} holds a run; add --resume to go on with it, or give another folder")
        then, now = dict(defaults or {}) | existing["options"], config["options"]
        differing = [
            f"{name} {then.get(name)!r} → {now.get(name)!r}"
            for name in sorted((set(then) | set(now)) - free)
            if then.get(name) != now.get(name)
        ]
        if differing:
            raise UserError(f"--resume: {self.folder} was begun with other settings ({'; '.join(differing)[:400]})")
        for name, what in (("keys_sha256", "images"), ("maps", "maps")):
            if config.get(name) != existing.get(name):
                raise UserError(f"--resume: the {what} are not the ones that {self.folder} was begun with")

    def config(self) -> dict[str, Any]:
        """The resolved settings of the run."""
        try:
            content: dict[str, Any] = read_json(self.folder / CONFIG)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder} is not a run folder: {CONFIG} can't be read ({error})") from error
        if not isinstance(content, dict) or not isinstance(content.get("options"), dict):
            raise UserError(f"{self.folder} is not a run folder: {CONFIG} is of something else")
        return content

    def metrics(self) -> list[dict[str, Any]]:
        """Every logged step so far."""
        return self._read(METRICS)

    def rejected(self) -> list[dict[str, Any]]:
        """Every unreadable image so far: ``key``, ``index`` in the source, ``reason``."""
        return self._read(REJECTED)

    def rewind(self, step: int) -> None:
        """Drop what was logged of later steps, which the resumed run writes again, and lines that a kill cut short."""
        if not self._write:
            return
        kept = {METRICS: [line for line in self.metrics() if line["step"] <= step], REJECTED: self.rejected()}
        for name, lines in kept.items():
            if (self.folder / name).exists():
                write_text_atomically(self.folder / name, "".join(map(_to_line, lines)))

    def append(self, name: str, lines: list[dict[str, Any]]) -> None:
        """Add lines to a JSONL file of the run."""
        if not self._write:
            return
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.writelines(map(_to_line, lines))

    def _read(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        lines = path.read_text("utf-8", errors="replace").split("\n") if path.exists() else []
        return [line for line in map(_from_line, lines) if line is not None]


def _to_line(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


def _from_line(line: str) -> dict[str, Any] | None:
    """The object in a line; None for a line that a kill cut short."""
    try:
        content = json.loads(line)
    except json.JSONDecodeError:
        return None
    return content if isinstance(content, dict) else None
