"""What ``explore`` was given: tables of maps, models, reports and the source of the images, each opened when needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mae.mask_learners import GATE_FILE
from pipelines.errors import UserError, user_errors
from pipelines.explore.options import ExploreOptions
from pipelines.explore.pairs import Pairs
from pipelines.hub import find_maps
from pipelines.inspect.map_scores import source_of_maps
from pipelines.outputs import kind_of
from pipelines.run_folder import RunFolder
from pipelines.sources.images import BadImage
from pipelines.sources.open_source import StreamSource, open_source
from pipelines.sources.source import Source
from saliency.files import user_path
from saliency.table.imported import without_clip
from saliency.table.table import SaliencyTable

if TYPE_CHECKING:  # with torch, which a first picture does without
    from pipelines.api.model import Model
    from saliency.towers.tower import Tower

_OF_A_SOURCE = ("split", "image_column", "caption_column", "captions", "limit")
_ARMS = 8
"""Models of a comparison that are offered, the first seed of each arm."""


@dataclass
class Opened:
    """Everything that was given, by the names that the page shows."""

    options: ExploreOptions
    tables: dict[str, SaliencyTable] = field(default_factory=dict)
    models: dict[str, Path | str] = field(default_factory=dict)
    reports: dict[str, Path] = field(default_factory=dict)
    """Folders of runs and comparisons."""
    masking: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """How the models were masked that are of runs, as their configs say."""
    source: Source | None = None
    _loaded: dict[str, Model] = field(default_factory=dict)
    _lock: RLock = field(default_factory=RLock)
    """Requests come in threads, and load a model once."""

    @cached_property
    def pairs(self) -> Pairs:
        """The pairs of the first table, or of the source where there are no maps."""
        if self.tables:
            table = next(iter(self.tables.values()))
            return Pairs(table.keys, table.captions, table)
        if self.source is None:
            return Pairs(pa.array([], pa.string()), None)
        return Pairs(self.source.keys, self.source.captions)

    @cached_property
    def gates(self) -> dict[str, str]:
        """The models of images that have a gate, by the name of the map that its scores are."""
        return {f"gate · {name}": name for name, place in self.models.items() if _has_gate(Path(place))}

    @property
    def clip_name(self) -> tuple[str, str | None] | None:
        """The model and weights that read typed captions: those asked for, or those that made the first maps."""
        if self.options.clip is not None:
            return self.options.clip, self.options.pretrained
        for table in self.tables.values():
            if not without_clip(table.metadata) and isinstance(table.metadata.get("clip"), str):
                return table.metadata["clip"], self.options.pretrained or table.metadata.get("pretrained")
        return None

    @cached_property
    def clip(self) -> Tower:
        """The CLIP of ``clip_name``, loaded once. UserError."""
        if self.clip_name is None:
            raise UserError("no CLIP is known that could read a caption: give --clip")
        from pipelines.api.heatmap import load_clip

        return load_clip(*self.clip_name, device=self.options.device)

    def model(self, name: str) -> Model:
        """A model by its name, loaded once. UserError."""
        if name not in self.models:
            raise UserError(f"there is no model {name!r} here")
        with self._lock:
            if name not in self._loaded:
                from pipelines.api.model import load

                self._loaded[name] = load(self.models[name], device=self.options.device)
            return self._loaded[name]

    def row_of(self, number: int, name: str) -> int | None:
        """The row that a pair has in a table of maps; None if it has no map there. UserError."""
        if name not in self.tables:
            raise UserError(f"there are no maps {name!r} here")
        table = self.tables[name]
        if table is self.pairs.table:
            return number
        same = pc.and_(
            pc.equal(table.keys, self.pairs.key(number)), pc.equal(table.captions, self.pairs.caption(number))
        )
        place = int(pc.index(same, pa.scalar(True)).as_py())
        return place if place >= 0 else None

    def find_image(self, number: int) -> int:
        """The pair of the source that shows the image of pair ``number``. BadImage where it is not there."""
        if self.source is None:
            raise BadImage("where the images are is not known: give --source")
        if not self.tables:
            return number
        key = self.pairs.key(number)
        same = pc.equal(self.source.keys, key)
        if self.source.has_captions and int(pc.sum(same).as_py() or 0) > 1:
            both = pc.and_(same, pc.fill_null(pc.equal(self.source.captions, self.pairs.caption(number)), False))
            same = both if pc.any(both).as_py() else same
        place = int(pc.index(same, pa.scalar(True)).as_py())
        if place < 0:
            raise BadImage(f"{self.source.name} has no image of the key {key!r}")
        return place


def open_all(options: ExploreOptions) -> Opened:
    """Find out what each place is, and open what is needed to show a first pair. UserError."""
    found, sources = Opened(options), list[Callable[[], Source | None]]()
    for place in _results(options.what):
        folder = user_path(place)
        kind = _kind(folder)
        if kind == "run":
            sources.append(_add_run(found, place, folder))
        elif kind == "comparison":
            sources += _add_comparison(found, place, folder)
        elif kind == "model":
            found.models[_name(place, found.models)] = folder
        elif kind == "maps":
            _add_maps(found, place)
        elif not folder.exists() and options.source is None and _is_published(found, place):
            pass
        elif options.source is None and not found.source:
            found.source = _open(place, allow_outside=options.allow_outside)
        else:
            raise UserError(f"{place} is neither maps, a run nor a comparison, and there is a source of images already")
    if options.source is not None:
        first = next(iter(found.tables.values()), None)
        found.source = _of_maps(first, options) if first else _open(options.source, allow_outside=options.allow_outside)
    for table in found.tables.values():
        found.source = found.source or _of_maps(table, options)
    for opening in sources:
        found.source = found.source or opening()
    if found.source is None and not found.tables and not found.reports:
        raise UserError("there are models here and no pictures to show them with: give a source of images as well")
    return found


def _kind(folder: Path) -> str | None:
    """:func:`pipelines.outputs.kind_of`, and ``model`` for a saved one or a checkpoint."""
    weights = folder.suffix == ".pth" or ((folder / "config.json").is_file() and any(folder.glob("model*.safetensors")))
    return kind_of(folder) or ("model" if weights else None)


def _has_gate(folder: Path) -> bool:
    if not (folder / GATE_FILE).is_file() and not any(folder.glob(f"checkpoints/*/{GATE_FILE}")):
        return False
    try:
        config = RunFolder(folder).config()
    except UserError:
        return True  # of a saved model, which says what it is when it is loaded
    return len(config["grid"]) == 2


def _results(places: Sequence[str]) -> Iterator[str]:
    """The places, and in the place of a folder of maps and runs, such as the demo's, these."""
    for place in places:
        folder = user_path(place)
        inside = sorted(folder.iterdir()) if folder.is_dir() and _kind(folder) is None else []
        results = [each for each in inside if each.is_dir() and _kind(each) is not None]
        results.sort(key=lambda each: _kind(each) != "run")  # the pairs that runs were trained on come first
        yield from (str(Path(place) / each.name) for each in results) if results else (place,)


def _add_run(found: Opened, place: str, folder: Path) -> Callable[[], Source | None]:
    """A run, with the maps that it was masked by where they are still there; how its images are opened."""
    config = RunFolder(folder).config()
    name = _name(place, found.models)
    found.models[name], found.reports[name], found.masking[name] = folder, folder, config["masking"]
    maps = config["options"].get("saliency")
    if maps and not found.tables:
        with suppress(UserError):
            _add_maps(found, maps)
    wanted: Any = {key: config["options"][key] for key in _OF_A_SOURCE if key in config["options"]}

    def opening() -> Source | None:
        try:
            return _open(config["options"]["source"], **wanted, allow_outside=found.options.allow_outside)
        except UserError:
            return None  # the images are gone, or were elsewhere

    return opening


def _add_comparison(found: Opened, place: str, folder: Path) -> list[Callable[[], Source | None]]:
    found.reports[_name(place, found.reports)] = folder
    openings = []
    for arm in sorted(path for path in (folder / "runs").iterdir() if path.is_dir())[:_ARMS]:
        runs = sorted(run for run in arm.iterdir() if kind_of(run) == "run")
        openings += [_add_run(found, f"{arm.name}/{run.name}", run) for run in runs[:1]]
    return openings


def _add_maps(found: Opened, place: str) -> None:
    folder = find_maps(place)
    if any(table.folder.resolve() == folder.resolve() for table in found.tables.values()):
        return  # a run that is given as well was masked by them
    with user_errors():
        table = SaliencyTable(folder)
    label = f"{table.metadata.get('method', 'maps')} · {short(place)}"
    found.tables[_name(label, found.tables)] = table


def _is_published(found: Opened, place: str) -> bool:
    """Whether it was a table on the Hub, which is then among those opened."""
    try:
        _add_maps(found, place)
    except UserError:
        return False
    return True


def _of_maps(table: SaliencyTable, options: ExploreOptions) -> Source | None:
    return source_of_maps(table, options.source, allow_outside=options.allow_outside)


def _open(spec: str, **wanted: Any) -> Source:
    source = open_source(spec, **wanted)
    if isinstance(source, StreamSource):
        raise UserError(
            f"{spec} is a stream, of which single images can't be shown: download it, or give another source"
        )
    return source


def short(place: str) -> str:
    """The end of a path, which tells it from others."""
    return "/".join(part for part in Path(place).parts[-2:] if part != "/")


def _name(place: str, taken: Any) -> str:
    """A name for the page that nothing else has."""
    name, number = short(place), 2
    while name in taken:
        name, number = f"{short(place)} ({number})", number + 1
    return name


def as_numbers(values: Any) -> Any:
    """Values that JSON takes: NaN is null."""
    if isinstance(values, dict):
        return {name: as_numbers(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [as_numbers(value) for value in values]
    if isinstance(values, (float, np.floating)):
        return float(values) if np.isfinite(values) else None
    return values
