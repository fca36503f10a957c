"""The shards of a build on a Ray cluster: every worker opens the same job and makes whole shards, one at a time.

Workers write to ``--out``, which all machines share, and only the driver keeps the manifest. A shard is the same
bytes whoever makes it, so a worker that dies is started again and its shard made anew. Ray finds the cluster as it
always does (``RAY_ADDRESS``, or the head node's own); without one it starts on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from pipelines.build_job import BuildOptions, Job, open_job
from pipelines.errors import UserError
from pipelines.plan import Plan
from pipelines.stages import Stages
from saliency.manifest import Shard

_CORES = 4  # a worker, where there are no GPUs
_QUEUED = 2  # shards handed to a worker, the one it makes included
_RETRIES = 3  # of a shard whose worker dies


class ShardWorker:
    """One process of the cluster, holding the model and the source."""

    def __init__(self, options: BuildOptions, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)  # as many as the driver has: their number moves the last bits
        self._options = options
        self._job: Job | None = None

    def describe(self) -> tuple[Plan, dict[str, Any]]:
        """The plan and settings of the job as this machine sees it."""
        job = self._opened()
        return job.plan, job.settings

    def build(self, number: int, out: Path) -> tuple[Shard, dict[str, float]]:
        """Make and write one shard; what the manifest is to say of it, and the seconds it took by stage."""
        from pipelines.local_engine import build_here

        stages, made = Stages(), list[Shard]()
        build_here(
            self._opened(), [number], out, made.append, stages, lambda _pairs: None, workers=self._options.workers
        )
        return made[0], dict(stages.seconds)

    def _opened(self) -> Job:
        # not in __init__, whose errors Ray reports as a dead worker
        if self._job is None:
            self._job = open_job(self._options)
        return self._job


class Cluster:
    """While entered, the workers; ``plan`` and ``settings`` are the job's, the same on all of them."""

    plan: Plan
    settings: dict[str, Any]

    def __init__(self, options: BuildOptions) -> None:
        self._ray = _import_ray()
        self._options = options
        self._workers: list[Any] = []

    def __enter__(self) -> Cluster:
        import torch

        self._started = not self._ray.is_initialized()
        if self._started:
            self._ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
        try:
            resources = self._ray.cluster_resources()
            gpus = int(resources.get("GPU", 0)) if self._options.device != "cpu" else 0
            count = self._options.ray_workers or gpus or max(1, int(resources["CPU"]) // _CORES)
            # a path of this machine means the same on the others only when it is absolute
            device = "cuda" if gpus else "cpu"
            source = Path(self._options.source)
            name = str(source.absolute()) if source.exists() else self._options.source
            options = replace(self._options, source=name, device=device, engine="local")
            share = {"num_gpus": 1} if gpus else {"num_cpus": min(_CORES, max(1, int(resources["CPU"]) // count))}
            actor = self._ray.remote(max_restarts=-1, max_task_retries=_RETRIES, **share)(ShardWorker)
            self._workers = [actor.remote(options, torch.get_num_threads()) for _ in range(count)]
            described = self._get([worker.describe.remote() for worker in self._workers])
            self.plan, self.settings = described[0]
            for _, settings in described[1:]:
                self._compare(settings)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def build(
        self,
        numbers: Iterable[int],
        out: Path,
        keep: Callable[[Shard], None],
        stages: Stages,
        progress: Callable[[int], None],
    ) -> None:
        """Make some shards and write them to ``out``; ``keep`` is told of each, in whatever order they finish."""
        todo = iter(numbers)
        running: dict[Any, Any] = {}  # the task and its worker

        def hand_out(worker: Any) -> None:
            number = next(todo, None)
            if number is not None:
                running[worker.build.remote(number, out.absolute())] = worker

        for _ in range(_QUEUED):
            for worker in self._workers:
                hand_out(worker)
        while running:
            (done, *_), _ = self._ray.wait(list(running), num_returns=1)
            worker = running.pop(done)
            shard, seconds = self._get(done)
            hand_out(worker)
            stages.add(seconds)
            stages.pairs += shard.taken
            keep(shard)
            progress(shard.taken)

    def _get(self, tasks: Any) -> Any:
        """The results of tasks; a user's mistake on a worker is the user's here."""
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return self._ray.get(tasks)
        except RayTaskError as error:
            if isinstance(error.cause, (UserError, OSError)):
                raise error.cause from error
            raise
        except RayActorError as error:
            raise UserError(
                f"a worker died {_RETRIES + 1} times over the same shard (out of memory? a smaller --batch-size or "
                "fewer --ray-workers); what is done is kept, and the same command goes on with it"
            ) from error

    def _compare(self, settings: dict[str, Any]) -> None:
        differing = sorted(name for name in settings if settings[name] != self.settings.get(name))
        if differing:
            raise UserError(
                f"the cluster's machines do not agree on {', '.join(differing)}: install the same versions on all, "
                "and give a source and a --clip that are the same files everywhere"
            )

    def _leave(self) -> None:
        for worker in self._workers:
            self._ray.kill(worker)
        if self._started:
            self._ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine ray needs Ray: pip install 'saliency-mae[ray]', on every machine") from error
    return ray
