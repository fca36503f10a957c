"""A run folder: ``config.json``, ``metrics.jsonl``, ``rejected.jsonl``, ``checkpoints/`` and ``plots/``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from saliency.files import write_text_atomically

CONFIG, METRICS, REJECTED = "config.json", "metrics.jsonl", "rejected.jsonl"


class RunFolder:
    """The folder of one pretraining."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, config: dict[str, Any], *, resume: bool, free: frozenset[str] = frozenset()) -> None:
        """Make the folder ready for a run with these settings.

        A new run needs an empty folder. A resumed one needs the same settings, but for the names in ``free``.
        Raises UserError otherwise.
        """
        existing = self.config() if (self.folder / CONFIG).exists() else None
        if existing is None:
            if self.folder.exists() and any(self.folder.iterdir()):
                raise UserError(f"--out {self.folder} is not empty and holds no run; give an empty folder")
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text_atomically(self.folder / CONFIG, json.dumps(config, indent=1) + "\n")
            return
        if not resume:
            raise UserError(f"--out {self.folder} holds a run; add --resume to go on with it, or give another folder")
        names = sorted((set(config["options"]) | set(existing["options"])) - free)
        differing = [
            f"{name} {existing['options'].get(name)!r} → {config['options'].get(name)!r}"
            for name in names
            if existing["options"].get(name) != config["options"].get(name)
        ]
        if differing:
            raise UserError(f"--resume: {self.folder} was begun with other settings ({'; '.join(differing)[:400]})")

    def config(self) -> dict[str, Any]:
        """The resolved settings of the run."""
        try:
            content: dict[str, Any] = json.loads((self.folder / CONFIG).read_text())
            _ = content["options"]
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{self.folder} is not a run folder: {CONFIG} can't be read ({error})") from error
        return content

    def metrics(self) -> list[dict[str, Any]]:
        """Every logged step so far."""
        path = self.folder / METRICS
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def keep_metrics_until(self, step: int) -> None:
        """Drop the lines of later steps, and a last line that a kill cut short: the resumed run writes them again."""
        path = self.folder / METRICS
        if not path.exists():
            return
        kept = []
        for line in path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError):
                continue
        write_text_atomically(path, "".join(kept))

    def append(self, name: str, lines: list[dict[str, Any]]) -> None:
        """Add lines to a JSONL file of the run."""
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
