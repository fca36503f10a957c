"""Size and latency of the encoders of an evaluation, where one of them is a file for a device; and what is required.

One image at a time, on one thread, two, and all cores. Encoders take turns, and of each the shortest time counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from rich.table import Table

from mae.on_device.latency import shortest_times
from mae.on_device.session import DeviceModel
from pipelines.commandline.machine import usable_cores
from pipelines.commandline.terminal import plain
from pipelines.errors import UserError, user_errors
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.results.requirements import Requirements
from pipelines.evaluate.table import PROTOCOLS

Rows = list[dict[str, Any]]


def measure_speed(encoders: Sequence[Encoder]) -> dict[str, Any]:
    """``threads``, and ``rows`` with an encoder each: ``bytes``, and by threads the ``latency`` in seconds.

    A row of a file also has ``keep``, ``patches``, ``keep_by`` and ``int8``. UserError for one that does not open.
    """
    threads = sorted({1, min(2, usable_cores()), usable_cores()})
    calls: dict[tuple[int, int], Callable[[], object]] = {}
    rows: Rows = []
    with user_errors():
        for number, encoder in enumerate(encoders):
            row: dict[str, Any] = {"encoder": encoder.name}
            for count in threads:
                calls[number, count] = _call(encoder, count)
            if encoder.file is not None:
                facts = DeviceModel(encoder.file).facts
                kept = {"keep": facts.keep, "patches": facts.patches, "keep_by": facts.keep_by, "int8": facts.int8}
                row |= {"bytes": encoder.file.stat().st_size, **kept}
            else:
                row["bytes"] = _weight(encoder)
            rows.append(row)
    best = shortest_times(calls, rounds=50, seconds=20)
    for number, row in enumerate(rows):
        row["latency"] = {str(count): best[number, count] for count in threads}
    return {"threads": threads, "rows": rows}


def _weight(encoder: Encoder) -> int | None:
    """The bytes of its weights; None where there are none to be had, as of a part of the patches."""
    try:
        return sum(each.numel() * each.element_size() for each in encoder.network(0.0).parameters())
    except UserError:
        return None


def _call(encoder: Encoder, threads: int) -> Callable[[], object]:
    """Features of one image on so many threads."""
    image = encoder.blank(1)
    if encoder.file is not None:
        opened = DeviceModel(encoder.file, threads)
        return partial(opened.features, image.permute(0, 2, 3, 1).contiguous().numpy())

    def call() -> None:
        with _threads(threads):
            encoder.features(image)

    return call


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def speed_table(result: Mapping[str, Any]) -> Table:
    """Size and latency for the terminal, set against those of the first --beside."""
    speed = result["on_device"]
    headings = [f"ms, {count} thread{'s'[: count > 1]}" for count in speed["threads"]]
    other = speed["rows"][min(1, len(speed["rows"]) - 1)]
    title = f"one image at a time; in brackets: times as fast as {other['encoder']}"
    own = any("own_accuracy" in row for row in speed["rows"])
    headings += ["its own classes, %"] if own else []
    table = Table("encoder", "patches", "MB", *headings, title=plain(title), title_justify="left")
    theirs = other["latency"]
    for row in speed["rows"]:
        times = [
            f"{1e3 * row['latency'][str(n)]:.2f} ({theirs[str(n)] / row['latency'][str(n)]:.1f})"
            for n in speed["threads"]
        ]
        kept = "all" if row.get("keep_by") is None else f"{row['patches']}, {row['keep_by']}"
        kept += ", int8" if row.get("int8") else ""
        size = "–" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}"
        if "own_accuracy" in row:
            times.append(f"{100 * row['own_accuracy']:.1f} ± {100 * row['own_accuracy_interval']:.1f}")
        table.add_row(plain(row["encoder"]), kept, size, *times)
    return table


def unmet(result: Mapping[str, Any], required: Requirements) -> list[str]:
    """What of the requirements the first row does not meet against the second, in words."""
    first, second = result["rows"][:2]
    found = []
    if required.accuracy is not None:
        more = {name: 100 * (first[name] - second[name]) for name in result["protocols"] if PROTOCOLS[name].accuracy}
        found = [
            f"{name} differs by {points:+.1f} points, not {required.accuracy:+g}"
            for name, points in more.items()
            if points < required.accuracy - 1e-9
        ]
    if required.on_device:
        mine, theirs = result["on_device"]["rows"][:2]
        for threads in result["on_device"]["threads"]:
            times = theirs["latency"][str(threads)] / mine["latency"][str(threads)]
            if required.latency is not None and times < required.latency:
                found.append(f"it is {times:.2f}x as fast on {threads} threads, not {required.latency:g}x")
        times = (theirs["bytes"] or math.nan) / (mine["bytes"] or math.nan)
        if required.size is not None and not times >= required.size:
            found.append(f"it is {times:.2f}x as small, not {required.size:g}x")
    return found
