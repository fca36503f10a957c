"""``build-saliency --dry-run``: what would be read, computed and written, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq

from pipelines.build.engines.local_engine import build_here
from pipelines.build.job import Job, open_job
from pipelines.build.maps_folder import Engine
from pipelines.build.motion import MotionJob, open_motion
from pipelines.build.options import BuildOptions
from pipelines.build.shard_plan import Plan
from pipelines.build.stages import Stages
from pipelines.commandline.machine import half_the_cores
from pipelines.errors import UserError, user_errors
from pipelines.estimates import SECONDS, EnoughError, peak_memory, room, shown_rest, shown_size, since_began
from pipelines.outputs import check_apart
from saliency.table.manifest import Shard, read_manifest
from saliency.table.shard import slots_of

_VIDEOS = 4  # in a file that is written to measure


def dry_run(options: BuildOptions) -> dict[str, str]:
    """{what: how it is}, after some seconds of the build in a temporary folder. Raises UserError as the build does."""
    check_apart(options.out, [options.source])
    if options.engine == "ray":
        raise UserError("--dry-run measures this machine: leave --engine ray out")
    job = open_motion(options) if options.shows_motion else open_job(options)
    pairs = job.plan.size(job.plan.own())
    with user_errors():
        before = None if options.append else read_manifest(options.out)
    left = None if pairs is None else pairs - (before.taken if before else 0)
    if left == 0:
        return {"source": options.source, "left to do": f"nothing: {options.out} has every pair"}
    with TemporaryDirectory() as folder:
        found = _measured(job, options, Path(folder))
    written = "unknown"
    if left is not None:
        files = -(-left // options.shard_size)
        written = shown_size(left * found.bytes_per_map + files * found.bytes_per_file)
    return {
        "source": f"{options.source}: {'a stream' if pairs is None else f'{pairs} pairs'}"
        + (f", {before.taken} of them done" if before else ""),
        "maps": f"{options.method}, {_maps_of(job, options)}",
        "speed": f"{found.rate:.3g} pairs/s" + (f"; {found.rejected} could not be read" if found.rejected else ""),
        "time": shown_rest(found.start, found.rate, left, "pairs"),
        "memory": peak_memory(options.device),
        "to write": f"{written} in {options.out} ({found.bytes_per_map:.0f} bytes a map), {room(options.out)}",
    }


def _maps_of(job: Job | MotionJob, options: BuildOptions) -> str:
    grid, slots = int(job.settings["grid"]), slots_of(job.settings)
    cells = f"{grid} × {grid} cells" + (f" in {slots} slots" if slots > 1 else "")
    if isinstance(job, MotionJob):
        return f"{cells}, without a model"
    return f"{cells}, {job.tower.size} px, {job.tower.precision} on {options.device}"


def _engine(job: Job | MotionJob, plan: Plan, workers: int) -> Engine:
    if isinstance(job, MotionJob):
        return replace(job, plan=plan).engine()
    return partial(build_here, replace(job, plan=plan), workers=workers)


@dataclass(frozen=True)
class _Measured:
    rate: float
    """Pairs a second, after the first batch."""
    start: float
    """Seconds until then, less what a batch takes."""
    bytes_per_map: float
    bytes_per_file: float
    """Of the head and foot of a file."""
    rejected: int


def _measured(job: Job | MotionJob, options: BuildOptions, folder: Path) -> _Measured:
    """What the build of some pairs in a folder takes."""
    at_once = _VIDEOS if options.shows_motion else options.batch_size
    plan = Plan(job.plan.pairs, min(at_once, options.shard_size))
    opened = since_began()
    times, shards, counts = [time.perf_counter()], list[Shard](), [0]

    def progress(pairs: int) -> None:
        times.append(time.perf_counter())
        counts.append(pairs)
        if times[-1] - times[1] > SECONDS and shards:  # one file at least tells what is written
            raise EnoughError

    try:
        workers = options.workers or half_the_cores()
        _engine(job, plan, workers)(plan.own(), folder, shards.append, Stages(), progress)
    except EnoughError:
        pass
    first = 1 if len(times) > 2 else 0  # with the first batch come the start of threads and any compilation
    rate = sum(counts[first + 1 :]) / max(times[-1] - times[first], 1e-9)
    start = opened + max(times[first] - times[0] - sum(counts[: first + 1]) / max(rate, 1e-9), 0.0)
    tables = list((folder / "data").glob("*.parquet"))
    size, whole = sum(map(_bytes, tables)), sum(table.stat().st_size for table in tables)
    maps, rejected = sum(shard.written for shard in shards), sum(shard.rejected for shard in shards)
    return _Measured(rate, start, size / max(1, maps), (whole - size) / max(1, len(tables)), rejected)


def _bytes(table: Path) -> int:
    """Of a table's columns, without the head and foot that a large file has once."""
    return sum(_columns(pq.read_metadata(table)))


def _columns(metadata: pq.FileMetaData) -> Iterator[int]:
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            yield metadata.row_group(group).column(column).total_compressed_size
