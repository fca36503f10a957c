"""The shards of a build on this machine: images are decoded and files written beside the model, never in its way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pipelines.build_job import Job
from pipelines.pairs import read_shards
from pipelines.shards import map_shards
from pipelines.stages import BLOCKED, Stages
from saliency.manifest import Shard

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
    """Make some shards of a build and write them to ``out``; ``keep`` is told of each in order, once it is on disk."""
    writing: deque[Future[Shard]] = deque()
    with ThreadPoolExecutor(workers) as decoders, ThreadPoolExecutor(1) as writer:
        try:
            pairs = read_shards(job.source, job.plan, numbers)
            for number, shard in map_shards(pairs, job.tower, decoders, job.recipe, stages, progress):
                writing.append(writer.submit(shard.write, out, job.plan.name(number), job.metadata))
                while writing and (writing[0].done() or len(writing) > _UNWRITTEN):
                    with stages.time(BLOCKED):
                        done = writing.popleft().result()
                    keep(done)
            while writing:
                with stages.time(BLOCKED):
                    done = writing.popleft().result()
                keep(done)
        finally:
            decoders.shutdown(wait=False, cancel_futures=True)
