"""``compare --dry-run``: how long the runs that are left will take, from some steps of each arm and one evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from mae.training.checkpoints import save_checkpoint
from pipelines.compare.jobs import cores
from pipelines.compare.unit import BEGUN, FINISHED, NEW, TRAINED, Unit
from pipelines.errors import UserError
from pipelines.estimates import SECONDS, peak_memory, room, shown_size, shown_time
from pipelines.evaluate.dry_run import seconds_of
from pipelines.pretrain.dry_run import checkpoint_bytes, measured


def forecast(states: Sequence[tuple[Unit, str]], jobs: int) -> dict[str, str]:
    """{what: how it is} of the units that are not finished. UserError as the runs raise it."""
    left = [(unit, state) for unit, state in states if state != FINISHED]
    if not left:
        return {"time": "every run is finished"}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads if jobs == 1 else max(1, cores() // jobs))  # as a job will have
        return _forecast(left, jobs)
    finally:
        torch.set_num_threads(threads)


def _forecast(left: Sequence[tuple[Unit, str]], jobs: int) -> dict[str, str]:
    to_train: dict[str, Unit] = {}
    for unit, state in left:
        if state in (NEW, BEGUN):
            to_train.setdefault(unit.arm, unit)  # a run on all images, if there is one: points of a curve come last
    training: dict[str, float] = {}
    size, judging = 0, None
    for arm, unit in to_train.items():
        try:
            with measured(unit.pretrain, seconds=SECONDS / 2) as (job, found):
                learned = job.task.training
                training[arm] = found.opening + found.work(learned.total_steps)
                size = max(size, checkpoint_bytes(learned))
                if judging is None:
                    save_checkpoint(job.options.out, learned, keep=1)
                    job.task.saved(job.run)
                    judging = _judging(unit, job.options.out)
        except UserError as error:
            raise UserError(f"arms: {arm}: {error}") from error
    if judging is None:
        judging = _judging(left[0][0], left[0][0].pretrain.out)
    total = sum(judging + (0.0 if state == TRAINED else training[unit.arm]) for unit, state in left)
    each = ", ".join(f"{arm} {shown_time(seconds)}" for arm, seconds in training.items())
    facts = {
        "runs": f"{len(left)} to finish, {sum(state == TRAINED for _, state in left)} of them trained already",
        "a run": f"{each + '; ' if each else ''}its evaluation {shown_time(judging)}",
        "time": f"about {shown_time(total / min(jobs, len(left)))}"
        + (f", if {jobs} jobs at a time do not slow each other down" if jobs > 1 else ""),
        "memory": peak_memory(left[0][0].pretrain.device) + (f", in each of {jobs} jobs" if jobs > 1 else ""),
        "to write": f"up to {shown_size(2 * size * len(left))} of checkpoints, {room(left[0][0].pretrain.out)}",
    }
    if any(state == BEGUN for _, state in left):
        facts["note"] = "runs that have begun count whole"
    return facts


def _judging(unit: Unit, run: Path) -> float:
    """Seconds of the evaluations of a unit, by those of ``run``."""
    asked = [unit.evaluate, *unit.fractions.values()]
    return sum(seconds_of(replace(options, run=str(run), out=run / "forecast.json")) for options in asked)
