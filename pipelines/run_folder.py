"""A run folder: ``config.json``, ``metrics.jsonl``, ``rejected.jsonl``, ``checkpoints/``, ``plots/``, ``report.html``.

A folder may be anyone's. What is read of it has the shape that is declared here, or is refused, so that whoever has it
can rely on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Required, TypedDict, TypeVar

from pipelines.errors import UserError
from saliency.files import open_regular, parse_json, remove_leftovers, write_text_atomically
from saliency.shape import LARGEST, Between, fitting, read_fitting

CONFIG, METRICS, REJECTED = "config.json", "metrics.jsonl", "rejected.jsonl"

_LARGEST_CONFIG = 1 << 24  # bytes
_LONGEST_LINE = 1 << 20  # bytes of one line of metrics

Count = Annotated[int, Between(0, LARGEST)]
Share = Annotated[float, Between(0, 1)]
Side = Annotated[int, Between(1, 1 << 16)]
FrameStride = Annotated[int, Between(1, 1 << 16)]


class RunOptions(TypedDict, total=False):
    """The options of a run that are read again; the others are compared and shown."""

    source: Required[str]
    model: Required[str]
    image_size: Required[list[Side]]
    saliency: str | None
    masking: str | None
    split: str | None
    image_column: str | None
    caption_column: str | None
    captions: Literal["first", "all"]
    limit: Count | None
    frame_stride: FrameStride


class Objective(TypedDict, total=False):
    """What a gate learns by."""

    area: tuple[Share, Share]


class RunMasking(TypedDict, total=False):
    """How a run masks: a strategy and its settings."""

    strategy: Required[str]
    mask_ratio: Required[Share]
    salient_ratio: Share
    salient_of: str
    objective: Objective


class RunConfig(TypedDict, total=False):
    """``config.json``: the resolved settings of a run."""

    options: Required[RunOptions]
    images: Required[Count]
    keys_sha256: Required[str]
    maps: dict[str, Any] | None
    masking: Required[RunMasking]
    grid: Required[list[Side]]
    parameters: Required[Count]
    steps: Required[Count]
    precision: Required[str]
    versions: Required[dict[str, str]]


class MetricsLine(TypedDict, total=False):
    """One logged step; the figures of what learns the masks stand beside."""

    step: Required[Count]
    loss: Required[float]
    epoch: Required[float]
    images_per_second: float
    starved: float


class RejectedLine(TypedDict):
    """One unreadable image: its key, its index in the source, and why."""

    key: str
    index: Count
    reason: str


_Line = TypeVar("_Line")


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
            raise UserError(f"--out {self.folder} holds a run; add --resume to continue it, or give another folder")
        then, now = dict(defaults or {}) | existing["options"], config["options"]
        differing = [
            f"{name} {then.get(name)!r} → {now.get(name)!r}"
            for name in sorted((set(then) | set(now)) - free)
            if then.get(name) != now.get(name)
        ]
        if differing:
            raise UserError(f"--resume: {self.folder} was started with other settings ({'; '.join(differing)[:400]})")
        for name, what in (("keys_sha256", "images"), ("maps", "maps")):
            if config.get(name) != existing.get(name):
                raise UserError(f"--resume: the {what} are not the ones that {self.folder} was started with")

    def config(self) -> dict[str, Any]:
        """The resolved settings of the run, of the shape :class:`RunConfig`. UserError."""
        try:
            return _in_todays_words(dict(read_fitting(self.folder / CONFIG, RunConfig, _LARGEST_CONFIG)))
        except ValueError as error:
            raise UserError(f"{self.folder} is not a run folder: {CONFIG} can't be used: {error}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """Every logged step so far, each of the shape :class:`MetricsLine`."""
        return [dict(line) for line in self._read(METRICS, MetricsLine)]

    def rejected(self) -> list[dict[str, Any]]:
        """Every unreadable image so far: ``key``, ``index`` in the source, ``reason``."""
        return [dict(line) for line in self._read(REJECTED, RejectedLine)]

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

    def _read(self, name: str, shape: type[_Line]) -> Iterator[_Line]:
        """The lines that have the shape; others are left out, as one that a kill cut short. UserError."""
        path = self.folder / name
        if not path.exists():
            return
        try:
            with open_regular(path) as file:
                while line := file.readline(_LONGEST_LINE):
                    try:
                        yield fitting(parse_json(line.decode()), shape)
                    except ValueError:
                        continue
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror or error}") from error


def _in_todays_words(config: dict[str, Any]) -> dict[str, Any]:
    """A run's settings, under the names that they have now.

    Before there was a cap, ``salient_of`` *salient* was what is *salient-only* now.
    """
    for name in ("options", "masking"):
        settings = config[name]
        if settings.get("salient_of") == "salient" and "salient_cap" not in settings:
            config[name] = settings | {"salient_of": "salient-only"}
    return config


def _to_line(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"
