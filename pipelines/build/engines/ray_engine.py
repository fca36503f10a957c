"""The shards of a build on a Ray cluster: every worker opens the same job and makes whole shards, one at a time.

Workers write to ``--out``, which all machines share, and only the driver keeps the manifest. A shard is the same
bytes whoever makes it, so a worker that dies is started again and its shard made anew. Ray finds the cluster as it
always does (``RAY_ADDRESS``, or the head node's own); without one it starts on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from pipelines.build.job import Job, open_job
from pipelines.build.options import BuildOptions
from pipelines.build.shard_plan import Plan
from pipelines.build.stages import Stages
from pipelines.errors import UserError
from saliency.table.manifest import Shard

_CORES = 4  # a worker, where there are no GPUs
_QUEUED = 2  # shards handed to a worker, the one it makes included
_RETRIES = 3  # of a shard whose worker dies
_PATIENCE = 600  # seconds until all workers have loaded the model


class ShardWorker:
    """One process of the cluster, holding the model and the source."""

    def __init__(self, options: BuildOptions, threads: int, folder: str) -> None:
        import torch

        torch.set_num_threads(threads)
        if Path(folder).is_dir():  # the driver's, where this machine has it: relative paths then mean the same
            os.chdir(folder)
        self._options = options
        self._job: Job | None = None

    def describe(self) -> tuple[Plan, dict[str, Any]]:
        """The plan and settings of the job as this machine sees it."""
        job = self._opened()
        return job.plan, job.settings

    def build(self, number: int, out: Path, settings: dict[str, Any]) -> tuple[Shard, dict[str, float]]:
        """Make and write one shard; what the manifest is to say of it, and the seconds it took by stage.

        UserError if this machine's job is not the one of these settings: a worker that was started again may find
        another source, or run where another version is installed.
        """
        from pipelines.build.engines.local_engine import build_here

        job = self._opened()
        _compare(job.settings, settings)
        stages, made = Stages(), list[Shard]()
        build_here(job, [number], out, made.append, stages, lambda _pairs: None, workers=self._options.workers)
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
        self._started = not self._ray.is_initialized()
        if self._started:
            _connect(self._ray)
        try:
            self._start_workers()
            described = self._get(self._wait([worker.describe.remote() for worker in self._workers]))
            self.plan, self.settings = described[0]
            for _, settings in described[1:]:
                _compare(settings, self.settings)
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
                running[worker.build.remote(number, out.absolute(), self.settings)] = worker

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
                "fewer --ray-workers); finished files are kept, and the same command resumes"
            ) from error

    def _start_workers(self) -> None:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        room = share_out(nodes, self._options.ray_workers, self._options.device)
        options = replace(self._options, device="cuda" if room.gpus else "cpu", engine="local")
        resources = {"num_gpus": 1} if room.gpus else {"num_cpus": room.cores}
        actor = self._ray.remote(max_restarts=-1, max_task_retries=_RETRIES, **resources)(ShardWorker)
        threads = int(os.environ.get("OMP_NUM_THREADS", room.cores))  # their number moves the last bits
        self._workers = [actor.remote(options, threads, str(Path.cwd())) for _ in range(room.workers)]

    def _wait(self, tasks: list[Any]) -> list[Any]:
        _done, waiting = self._ray.wait(tasks, num_returns=len(tasks), timeout=_PATIENCE)
        if waiting:
            raise UserError(
                f"{len(waiting)} of {len(tasks)} workers have not started in {_PATIENCE // 60} minutes: other jobs may "
                "hold the cluster (ray status); wait, or give fewer --ray-workers"
            )
        return tasks

    def _leave(self) -> None:
        for worker in self._workers:
            self._ray.kill(worker)
        if self._started:
            self._ray.shutdown()


@dataclass(frozen=True)
class Room:
    """How many workers a cluster has room for, the cores of each, and whether each has a GPU."""

    workers: int
    cores: int
    gpus: bool


def share_out(nodes: list[dict[str, float]], wanted: int | None, device: str) -> Room:
    """Deal the nodes' GPUs or cores out to workers: as many as are wanted, or one a GPU, or one every four cores.

    UserError if so many don't fit, or if a GPU is asked for where there is none: Ray would wait for ever.
    """
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if device not in ("auto", "cpu") and not gpus:
        raise UserError(f"--device {device}: the cluster has no GPUs; leave it out")
    if gpus and device != "cpu":
        workers, cores, most = wanted or gpus, _CORES, gpus
    else:
        most = sum(int(node.get("CPU", 0)) for node in nodes)
        fitting = {cores: sum(int(node.get("CPU", 0)) // cores for node in nodes) for cores in range(_CORES, 0, -1)}
        workers = wanted or fitting[_CORES] or 1
        cores = next((cores for cores, count in fitting.items() if count >= workers), 0)
        gpus = 0
    if workers > most or not cores:
        raise UserError(f"--ray-workers {workers}: the cluster has room for {most} (one a GPU, or one a core)")
    return Room(workers, cores, bool(gpus))


def _compare(found: dict[str, Any], settings: dict[str, Any]) -> None:
    differing = sorted(name for name in settings if settings[name] != found.get(name))
    if differing:
        raise UserError(
            f"the cluster's machines do not agree on {', '.join(differing)}: install the same versions on all, "
            "give a source and a --clip that are the same files everywhere, and leave them as they are"
        )


def _connect(ray: Any) -> None:
    try:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"no Ray cluster can be reached ({reason}); is RAY_ADDRESS right, and ray start run?"
        ) from error


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine ray needs Ray: pip install 'saliency-mae[ray]', on every machine") from error
    return ray
