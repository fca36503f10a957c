"""``prepare --dry-run``: how many images there are, and what their copies will take in time and bytes."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.estimates import SECONDS, peak_memory, room, shown_rest, shown_size
from pipelines.outputs import check_apart
from pipelines.prepare.options import PrepareOptions
from pipelines.prepare.prepare import entries_of, prepare
from pipelines.sources.prepared_folder import Totals, totals

_FIRST, _MOST = 16, 4096


def dry_run(options: PrepareOptions) -> dict[str, str]:
    """{what: how it is}, after some seconds of the work in a temporary folder. Raises UserError as the command does."""
    check_apart(options.out, [options.source])
    rows = entries_of(options).rows()
    count = min(_FIRST, options.limit or _FIRST)
    made, seconds, rejected = _timed(options, count)
    count = min(int(count * SECONDS / seconds), _MOST, options.limit or _MOST, rows or _MOST)
    if count > _FIRST:
        made, seconds, rejected = _timed(options, count)
    count = max(1, made.images)
    written = "unknown" if rows is None else shown_size(rows * made.bytes_out / count)
    smaller = f" ({made.bytes_out / made.bytes_in:.0%} of the bytes)" if made.bytes_in else ""
    return {
        "source": f"{options.source}: {'a stream' if rows is None else f'{rows} rows'}",
        "images": f"shorter side at most {options.size} px, JPEG quality {options.quality}",
        "measured": f"the first {made.images} images, {made.kept} of them kept as they are"
        + (f"; {rejected} could not be read" if rejected else ""),
        "speed": f"{count / seconds:.3g} images/s",
        "time": shown_rest(count / seconds, rows, "rows"),
        "memory": peak_memory("cpu"),
        "to write": f"{written}{smaller} in {options.out}, {room(options.out)}",
    }


def _timed(options: PrepareOptions, count: int) -> tuple[Totals, float, int]:
    """What the first ``count`` rows become, in how many seconds, and how many of them are rejected."""
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        made = prepare(replace(options, out=Path(folder) / "out", limit=count, max_rejected=1.0), quiet=True)
        return totals(made), max(time.perf_counter() - started, 1e-9), made.rejected
