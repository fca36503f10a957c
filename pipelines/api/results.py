"""What the commands' functions give in Python: values to compute with, whose ``str`` is what the terminal shows.

Those that are a folder can be given wherever a folder is asked for (they are ``os.PathLike``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.api.maps import Maps, open_maps
from pipelines.api.model import Model, load
from pipelines.compare.comparison import Comparison, tables_of
from pipelines.evaluate.protocol import load as load_protocol
from pipelines.run_folder import RunFolder
from saliency.shown import aligned
from saliency.table.checks import Check
from saliency.table.manifest import Manifest


@dataclass(frozen=True)
class BuiltMaps:
    """What ``build_saliency`` or ``import_maps`` made: a maps folder."""

    folder: Path
    manifest: Manifest
    """Settings and counts: pairs ``taken`` in = ``written`` + ``rejected``."""

    def open(self) -> Maps:
        """The maps, row by row. UserError for a part of a job array, which is not merged yet."""
        return open_maps(self.folder)

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        counts = f"{self.manifest.written} maps, {self.manifest.rejected} rejected"
        return f"{self.manifest.taken} pairs: {counts} in {self.folder}"


@dataclass(frozen=True)
class ExportedMaps:
    """What ``export_maps`` wrote: a folder of files, with ``index.jsonl`` about them."""

    folder: Path
    count: int
    """Of maps."""

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        return f"{self.count} maps in {self.folder}"


@dataclass(frozen=True)
class Checks:
    """What ``verify`` looked at; each has a ``name``, ``passed`` and what was ``found``, in a line."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all is well."""
        return not self.failed

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.passed]

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __len__(self) -> int:
        return len(self.checks)

    def __str__(self) -> str:
        return aligned([[check.name, "ok" if check.passed else "FAILED", check.found] for check in self.checks])


@dataclass(frozen=True)
class Published:
    """What ``publish`` put together."""

    facts: dict[str, Any]
    """By title: ``dataset`` (its address), ``maps``, ``shards``, ``preview``, …"""

    def __str__(self) -> str:
        return aligned([[name, str(value)] for name, value in self.facts.items()])


@dataclass(frozen=True)
class Run:
    """A pretraining's run folder."""

    folder: Path

    def config(self) -> dict[str, Any]:
        """The resolved settings."""
        return RunFolder(self.folder).config()

    def metrics(self) -> list[dict[str, Any]]:
        """Every logged step: ``step``, ``loss``, ``learning_rate``, …"""
        return RunFolder(self.folder).metrics()

    def model(self, *, device: str | None = None) -> Model:
        """The model of the newest checkpoint; see :func:`load`."""
        return load(self.folder, device=device)

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        loss = "".join(f", loss {line['loss']:.4f}" for line in self.metrics()[-1:])
        return f"{self.folder}: step {self.config()['steps']}{loss}"


@dataclass(frozen=True)
class Evaluation:
    """How good encoders are; ``str`` is a table."""

    result: dict[str, Any]
    """Everything, as ``evaluation.json`` holds it."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row an encoder, the judged one first: under a protocol's name its figure 0..1, under ``knn_interval`` and
        the like the half width of its interval, and more (docs/guide/evaluation.md)."""
        rows: list[dict[str, Any]] = self.result["rows"]
        return rows

    def __str__(self) -> str:
        names = self.result["protocols"]
        rows = [*self.rows, *self.result.get("baselines", ())]
        lines = [[row["encoder"], *(_figure(row, name) for name in names)] for row in rows]
        return aligned([["encoder", *(load_protocol(name).heading() for name in names)], *lines])


@dataclass(frozen=True)
class Compared:
    """What ``compare`` found; ``str`` is its tables."""

    folder: Path
    """Where the runs, ``report.md`` and ``results.json`` are."""
    comparison: Comparison | None
    """``values``, ``means``, ``differences`` and what ``failed``; None of a dry run."""
    states: dict[str, str]
    """Of a dry run, by ``arm, seed n``: new, begun, trained or finished."""
    facts: dict[str, str] = field(default_factory=dict)
    """Of a dry run: what it will take."""

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        if self.comparison is None:
            return aligned([list(row) for row in (self.states | self.facts).items()])
        return "\n\n".join(aligned(rows) for rows in tables_of(self.comparison).values())


def _figure(row: dict[str, Any], protocol: str) -> str:
    """A figure in per cent with the interval of its test set, and that over seeds; a dash where a row has none."""
    if protocol not in row:
        return "–"
    interval, seeds = row[f"{protocol}_interval"], row.get(f"{protocol}_seed_interval")
    text = f"{100 * row[protocol]:.1f}" + ("" if interval is None else f" ± {100 * interval:.1f}")
    return text if seeds is None else f"{text} (seeds ± {100 * seeds:.1f})"
