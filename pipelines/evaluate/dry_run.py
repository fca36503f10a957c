"""``evaluate --dry-run``: what would be measured and written, and how long it takes, by the same on a few images."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.estimates import Sample, peak_memory, room, sample, shown_size, shown_total, since_began
from pipelines.evaluate.data import Data
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.evaluate import cells_folder, check_files, measure_all, measure_baselines, open_encoders
from pipelines.evaluate.options import EvaluateOptions
from pipelines.evaluate.protocol import Protocol, load
from pipelines.evaluate.results.cells import Cells
from pipelines.views.clip_views import ClipShape

_FIRST = 24
"""Images of both parts together, of the shortest measurement."""


@dataclass(frozen=True)
class _Measured:
    data: Data
    encoders: list[Encoder]
    clip: ClipShape | None
    protocols: list[Protocol[Any]]
    opening: float
    """Seconds of opening runs and images."""
    sample: Sample[None]
    work: float
    """Seconds of evaluating all, once it has started."""


def seconds_of(options: EvaluateOptions) -> float:
    """How long the evaluation takes in a process that has begun, by the same on a few images. UserError."""
    found = _measured(options)
    return found.opening + found.sample.start + found.work


def dry_run(options: EvaluateOptions) -> dict[str, str]:
    """{what: how it is}, after evaluating some images in a temporary folder. Raises UserError as the command does."""
    began = since_began()
    found = _measured(options)
    parts, seeds = found.data.told(), options.all_seeds()
    what = "images" if found.clip is None else "videos"
    counts = f"{len(parts.test)} {what} to test on"
    if parts.train is not None:
        counts = f"{len(parts.part(seeds[0]))} {what} to learn from, {counts}, {len(parts.names)} classes"
    epochs = any(protocol.epochs for protocol in found.protocols)
    names = [encoder.name for encoder in found.encoders]
    facts = {
        "source": f"{options.source}: {counts}",
        "encoders": ", ".join([*names, *(["untrained"] if options.untrained else [])]),
        "protocols": ", ".join(_in_words(protocol, found.encoders[0]) for protocol in found.protocols)
        + (f"; seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""),
        "measured": f"{found.sample.units} of {len(parts)} {what}"
        + (", with one epoch and with two" if epochs else ""),
        "time": shown_total(began + found.opening + found.sample.start, found.work)
        + (", without the near-duplicates of the pretraining images" if options.leaks == "pretraining" else ""),
        "memory": peak_memory(options.device) + (", and its workers" if options.workers else ""),
        "to write": _written(options.file, found.sample.written(len(parts))),
    }
    cells = cells_folder(options.file)
    if cells is not None and (finished := len(list(cells.glob("*.json")))):
        facts["note"] = (
            f"{cells} holds {finished} finished results, which are used again where they fit; the time is of all"
        )
    return facts


def _measured(options: EvaluateOptions) -> _Measured:
    """The evaluation of some images, and what it says of all of them."""
    opened = time.perf_counter()
    check_files(options)
    named, clip = open_encoders(options, options.all_seeds()[0])
    data = Data(options, clip, quiet=True)
    protocols = _protocols(options, data)
    total = len(data.told())
    epochs = {protocol.epochs: protocol.trained_for(named[0]) for protocol in protocols if protocol.epochs}
    once = dict.fromkeys(epochs, 1)

    def work(count: int, folder: Path) -> None:
        _measure(options, data, named, clip, count, folder, once)

    opening = time.perf_counter() - opened
    found = sample(work, total, first=_FIRST)
    seconds = found.work(total)
    for option, count in epochs.items():
        seconds += (count - 1) * _epoch(options, data, named, clip, option, found.units)
    return _Measured(data, named, clip, protocols, opening, found, seconds)


def _written(file: Path | None, size: float) -> str:
    if file is None:
        return "nothing: there is no --out"
    return f"{file} and plots, and about {shown_size(size)} of finished results beside it, {room(file.parent)}"


def _in_words(protocol: Protocol[Any], encoder: Encoder) -> str:
    return protocol.name + (f" ({protocol.trained_for(encoder)} epochs)" if protocol.epochs else "")


def _protocols(options: EvaluateOptions, data: Data) -> list[Protocol[Any]]:
    return [load(name)(options, data, quiet=True) for name in dict.fromkeys(options.protocols)]


def _measure(
    options: EvaluateOptions,
    data: Data,
    named: list[Encoder],
    clip: ClipShape | None,
    count: int,
    folder: Path | None,
    epochs: Mapping[str, int],
) -> float:
    """Evaluate ``count`` images with so many epochs, in how many seconds; finished results go into ``folder``."""
    few = replace(options, **epochs)  # type: ignore[arg-type]
    started = time.perf_counter()
    protocols, cells = _protocols(few, data.some(count, few)), Cells(folder)
    measure_all(protocols, named, clip, few, cells)
    if few.untrained:
        measure_baselines(protocols, named[0], clip, few.all_seeds(), cells)
    return time.perf_counter() - started


def _epoch(
    options: EvaluateOptions, data: Data, named: list[Encoder], clip: ClipShape | None, option: str, units: int
) -> float:
    """Seconds of one more epoch of the protocols whose epochs ``option`` sets, on all images.

    A part of it is the same for any number of images, such as the start of workers: two numbers tell how much.
    """
    few = replace(options, protocols=tuple(name for name in options.protocols if load(name).epochs == option))

    def one_more(count: int) -> float:
        once, twice = (_measure(few, data, named, clip, count, None, {option: epochs}) for epochs in (1, 2))
        return max(twice - once, 0.0)

    fewer, total = max(units // 4, 1), len(data.told())
    small, large = one_more(fewer), one_more(units)
    return large + max(large - small, 0.0) / max(units - fewer, 1) * (total - units)
