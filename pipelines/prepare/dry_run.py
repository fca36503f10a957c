"""``prepare --dry-run``: how many images there are, and what their copies will take in time and bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipelines.estimates import peak_memory, room, sample, shown_rest, shown_size, since_began
from pipelines.outputs import check_apart
from pipelines.prepare.options import PrepareOptions
from pipelines.prepare.prepare import entries_of, prepare
from pipelines.sources.prepared_folder import totals
from saliency.table.manifest import Manifest


def dry_run(options: PrepareOptions) -> dict[str, str]:
    """{what: how it is}, after some seconds of the work in a temporary folder. Raises UserError as the command does."""
    check_apart(options.out, [options.source])
    rows = entries_of(options).rows()

    def work(count: int, folder: Path) -> Manifest:
        return prepare(replace(options, out=folder / "out", limit=count, max_rejected=1.0), quiet=True)

    opened = since_began()
    found = sample(work, options.limit if rows is None else rows, first=16)
    made, rejected = totals(found.made), found.made.rejected
    written = "unknown" if rows is None else shown_size(rows * made.bytes_out / max(1, made.images))
    smaller = f" ({made.bytes_out / made.bytes_in:.0%} of the bytes)" if made.bytes_in else ""
    return {
        "source": f"{options.source}: {'a stream' if rows is None else f'{rows} rows'}",
        "images": f"shorter side at most {options.size} px, JPEG quality {options.quality}",
        "measured": f"the first {made.images} images, {made.kept} of them kept as they are"
        + (f"; {rejected} could not be read" if rejected else ""),
        "speed": f"{1 / found.each:.3g} images/s",
        "time": shown_rest(opened + found.start, 1 / found.each, rows, "rows"),
        "memory": peak_memory("cpu"),
        "to write": f"{written}{smaller} in {options.out}, {room(options.out)}",
    }
