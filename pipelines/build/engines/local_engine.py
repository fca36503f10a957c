"""The shards of a build on this machine: images are decoded and files written beside the model, never in its way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from pipelines.build.job import Job
from pipelines.build.pairs import read_shards
from pipelines.build.shards import ShardMaps, map_shards
from pipelines.build.stages import BLOCKED, Stages
from saliency.table.manifest import Shard

_UNWRITTEN = 2  # shards held in memory while the writer is behind


def build_here(
    job: Job,
    numbers: Iterable[int],
    out: Path,
    keep: Callable[[Shard], None],
    stages: Stages,
    progress: Callable[[int], None],
    *,
    workers: int,
) -> None:
    """Make some shards of a build and write them to ``out``; ``keep`` is told of each in order, once it is on disk.

    What is being written when the run is stopped is still written and kept.
    """
    writing: deque[Future[Shard]] = deque()

    def collect(most: int) -> None:
        """Keep what is on disk; wait until no more than ``most`` shards are not."""
        while writing and (writing[0].done() or len(writing) > most):
            with stages.time(BLOCKED):
                done = writing.popleft().result()
            keep(done)

    def step(pairs: int) -> None:
        collect(_UNWRITTEN)
        progress(pairs)

    with ThreadPoolExecutor(workers) as decoders, ThreadPoolExecutor(1) as writer:
        try:
            pairs = read_shards(job.source, job.plan, numbers)
            for number, shard in map_shards(pairs, job.tower, decoders, job.recipe, stages, step):
                _check_count(job, number, shard)
                writing.append(writer.submit(shard.write, out, job.plan.name(number), job.metadata))
                collect(_UNWRITTEN)
            collect(0)
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell of
                collect(0)
            raise
        finally:
            decoders.shutdown(wait=False, cancel_futures=True)


def _check_count(job: Job, number: int, shard: ShardMaps) -> None:
    """Every pair in is a map or a rejection; anything else is a bug that must not be written."""
    taken = len(shard.rows) + len(shard.rejected)
    if job.plan.pairs is not None and taken != len(job.plan.rows(number)):
        raise RuntimeError(f"shard {number} took in {len(job.plan.rows(number))} pairs and accounts for {taken}")
