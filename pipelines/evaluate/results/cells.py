"""What ``evaluate`` has finished: one JSON file a cell (encoder × protocol × seed), named by all that decides it.

An interrupted evaluation takes finished cells from here and goes on with the one it was at, whose training state lies
beside as ``.pt``. Files appear only whole. Another weight, option, image key, label or class makes another name, so an
old result never stands for a new question; a change that shows in none of these (an image whose bytes were replaced,
another version of a library) needs ``--fresh``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.evaluate.results.outcome import Found, Measured, Outcome
from saliency.files import remove_leftovers, write_text_atomically

FORMAT = 1
"""Raised when a protocol changes, so that results of before are not taken for results of now."""


class Cells:
    """The finished cells in a folder; with no folder nothing is kept.

    ``fresh`` passes over what is there, and ``predictions`` over what does not say for what each image was taken.
    """

    def __init__(self, folder: Path | None, *, fresh: bool = False, predictions: bool = False) -> None:
        self.folder, self.fresh, self.predictions = folder, fresh, predictions
        if folder is not None and folder.is_dir():
            remove_leftovers(folder)

    def find(self, decided_by: Mapping[str, Any], kind: type[Found]) -> Found | None:
        """The outcome of a cell, of a ``kind`` that its protocol gives; None if it is not finished or can't be read."""
        path = self._path(decided_by)
        if path is None:
            return None
        if self.fresh:
            path.with_suffix(".pt").unlink(missing_ok=True)
            return None
        try:
            content = json.loads(path.read_text())
            outcome = kind(**content["outcome"]) if content["decided_by"] == _plain(decided_by) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if self.predictions and isinstance(outcome, Outcome) and outcome.predicted is None:
            return None
        return outcome

    def checkpoint(self, decided_by: Mapping[str, Any]) -> Path | None:
        """Where the training state of an unfinished cell lies, if anywhere."""
        path = self._path(decided_by)
        return None if path is None else path.with_suffix(".pt")

    def keep(self, decided_by: Mapping[str, Any], outcome: Outcome | Measured) -> None:
        """Write a finished cell and drop its training state."""
        path = self._path(decided_by)
        if path is not None:
            content = {"decided_by": _plain(decided_by), "outcome": outcome.plain()}
            write_text_atomically(path, json.dumps(content) + "\n")
            path.with_suffix(".pt").unlink(missing_ok=True)

    def _path(self, decided_by: Mapping[str, Any]) -> Path | None:
        digest = hashlib.sha256(json.dumps(_plain(decided_by), sort_keys=True).encode()).hexdigest()
        return None if self.folder is None else self.folder / f"{decided_by['protocol']}-{digest[:20]}.json"


def _plain(decided_by: Mapping[str, Any]) -> Any:
    """As JSON gives it back: tuples are lists."""
    return json.loads(json.dumps({"format": FORMAT, **decided_by}))
