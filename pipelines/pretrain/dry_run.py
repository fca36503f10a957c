"""``pretrain --dry-run``: what would be read, learned and written, after some steps of the training itself."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mae.training.any_training import Trained
from pipelines.errors import UserError
from pipelines.estimates import SECONDS, peak_memory, room, shown_size, shown_total, since_began
from pipelines.outputs import check_apart
from pipelines.pretrain.job import PretrainJob, open_pretraining
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.pretrain import step_batches
from pipelines.pretrain.processes import one_world
from pipelines.pretrain.record.training_log import TrainingLog
from pipelines.run_folder import CONFIG
from pipelines.views.joined_maps import JoinedMaps, ViewMaps


@dataclass(frozen=True)
class Measured:
    """What some steps of a run took."""

    steps: int
    seconds: float
    """Of the steps after the first one."""
    startup: float
    """From the start of the command to the end of the first step."""
    opening: float
    """From the opening of the images to the end of the first step."""
    first: float
    """Of the first step, with what it waits for."""
    waited: float
    """Of the seconds, those in which the training waited for the loader."""
    pictures: float
    """Seconds of drawing the pictures of the finished run."""

    @property
    def each(self) -> float:
        """Seconds a step."""
        return self.seconds / self.steps if self.steps else self.first

    def work(self, steps: int) -> float:
        """Seconds of so many steps after the first one, and of the pictures."""
        return self.each * (steps - 1) + self.pictures


def dry_run(options: PretrainOptions) -> dict[str, str]:
    """{what: how it is}, after some steps in a temporary folder. Raises UserError as the training does."""
    check_apart(options.out, [options.source, options.saliency])
    with measured(options) as (job, found):
        return _facts(options, job, found)


@contextmanager
def measured(options: PretrainOptions, *, seconds: float | None = None) -> Iterator[tuple[PretrainJob, Measured]]:
    """Some seconds of a run (or SECONDS), in a temporary folder that lasts as long as the context. UserError."""
    opened = time.perf_counter()
    with one_world(options.device) as world:
        if world.size > 1:
            raise UserError("--dry-run measures one process: start it without torchrun")
        with TemporaryDirectory() as folder, ExitStack() as stack:
            out = Path(folder) / "run"
            job = open_pretraining(replace(options, out=out, resume=False, track=()), world, stack)
            yield job, _measure(job, opened, SECONDS if seconds is None else seconds)


def _measure(job: PretrainJob, opened: float, at_most: float) -> Measured:
    """Steps of a training for a few seconds, two of them at least, and its pictures; no checkpoint is written."""
    training = job.task.training
    log = TrainingLog(job.run, training, job.task.source, max_rejected=job.options.max_rejected)
    started, waited, steps = time.perf_counter(), 0.0, 0
    startup = opening = first = 0.0
    with closing(step_batches(job, log)) as groups:
        while training.step < training.total_steps:
            before = time.perf_counter()
            batches = next(groups)
            waited += time.perf_counter() - before
            loss, _ = job.task.step(batches)
            float(loss)  # waits for the device
            now = time.perf_counter()
            if not startup:
                startup, opening, first = since_began(), now - opened, now - started
                started, waited = now, 0.0
                continue
            steps += 1
            if now - started > at_most:
                break
    seconds, drawing = time.perf_counter() - started, time.perf_counter()
    job.task.draw(job.run, training.spread.whole_model().to(training.device))
    return Measured(steps, seconds, startup, opening, first, waited, time.perf_counter() - drawing)


def _facts(options: PretrainOptions, job: PretrainJob, found: Measured) -> dict[str, str]:
    training, task, masking = job.task.training, job.task, job.config["masking"]
    what = "images" if task.source.videos is None else "videos"
    checkpoint = checkpoint_bytes(training)
    count = options.keep + 1  # the best one beside the newest
    facts = {
        "source": f"{options.source}: {len(task.source)} {what}",
        "maps": _maps(options, task.maps, what),
        "masks": f"{options.masking_name}, {masking['mask_ratio']:.0%} of {' × '.join(map(str, training.model.grid))} "
        "patches hidden",
        "model": f"{options.model}, {job.config['parameters'] / 1e6:.3g} M parameters, {job.config['precision']} on "
        f"{training.device}",
        "training": f"{_steps(training.total_steps)} of {task.images_per_step} {what}, {training.steps_per_epoch} an "
        "epoch",
        "speed": f"{task.images_per_step / found.each:.3g} {what}/s over {_steps(max(1, found.steps))}, waiting for "
        f"the loader {found.waited / found.seconds if found.steps else 0:.0%} of the time",
        "time": f"{shown_total(found.startup, found.work(training.total_steps))}, without checkpoints",
        "memory": peak_memory(str(training.device)) + (", and its workers" if options.workers else ""),
        "to write": f"up to {count} checkpoints of {shown_size(checkpoint)} in {options.out}, {room(options.out)}",
    }
    if any(path.name != ".lock" for path in options.out.glob("*")) if options.out.is_dir() else options.out.exists():
        begun = (options.out / CONFIG).exists()
        facts["note"] = f"{options.out} " + (
            "holds a run: this is the time of a whole one" if begun else "is not empty: give another --out"
        )
    return facts


def _maps(options: PretrainOptions, maps: ViewMaps | None, what: str) -> str:
    if isinstance(maps, JoinedMaps):
        return f"{options.saliency}: {maps.missing} {what} have none"
    return "none" if maps is None else "made of the frames of a clip"


def _steps(count: int) -> str:
    return f"{count} step{'s' if count > 1 else ''}"


def checkpoint_bytes(training: Trained) -> int:
    """Of weights, and of the two moments that AdamW keeps of each one that learns."""
    model = training.model
    learned = sum(each.numel() for each in model.parameters() if each.requires_grad)
    weights = sum(each.numel() * each.element_size() for each in itertools.chain(model.parameters(), model.buffers()))
    return weights + 8 * learned
