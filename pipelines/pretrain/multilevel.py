"""``pretrain --masking mlo``: masks that learn from labels, by MLO-MAE's three levels (``mae.multilevel.mlo``).

The run folder is that of any pretraining, with the losses of all levels in ``metrics.jsonl``, the masking network's
scores among the pictures, and ``cost.json``. It resumes to the bit on one CPU process; under torchrun every process
reads its part of every level's batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mae.distributed import World
from mae.masks.masking import Part
from mae.multilevel.mlo import LEVELS
from mae.multilevel.mlo_training import Labelled, MultilevelTraining
from mae.pixels import normalise
from mae.training.checkpoints import save_checkpoint
from pipelines.commandline.terminal import warn
from pipelines.errors import UserError, user_errors
from pipelines.plots import contact_sheet, loss_curve, overlay
from pipelines.pretrain.global_batches import GlobalBatch, gather_batches, gather_unreadable
from pipelines.pretrain.job import load_newest, new_model, run_config
from pipelines.pretrain.multilevel_cost import write_cost
from pipelines.pretrain.multilevel_data import LevelData, StepBatches, open_levels
from pipelines.pretrain.processes import agreed, check_processes, in_turn, newest_of_all
from pipelines.pretrain.reconstructions import reconstruction_sheet
from pipelines.pretrain.settings import FREE_ON_RESUME, PretrainOptions, option_defaults
from pipelines.pretrain.trackers import Tracking, check_trackers, tracking
from pipelines.pretrain.training_log import TrainingLog
from pipelines.run_folder import REJECTED, RunFolder
from pipelines.views.device_views import CutViews, load_on_device, views_on_device
from pipelines.views.image_views import InOrder, ViewBatch, Views, load_views

_FLUSH_EVERY = 20  # steps between two looks at the losses, each of which waits for the device
_PICTURED = 8
_AVERAGED = 256


@dataclass(frozen=True)
class MultilevelJob:
    """What such a pretraining works with."""

    options: PretrainOptions
    data: LevelData
    training: MultilevelTraining
    run: RunFolder
    config: dict[str, Any]


def pretrain_multilevel(options: PretrainOptions, world: World, *, quiet: bool) -> RunFolder:
    """Train by three levels; returns the run folder. Raises UserError for a mistake in options or input."""
    job = _open(options, world)
    with ExitStack() as stack:
        with agreed(world):
            names = options.track if world.is_main else ()
            trackers = stack.enter_context(tracking(names, job.run, job.config, job.training.step))
        quiet = quiet or not world.is_main
        warn([] if quiet else job.data.images.source.warnings)
        _train(job, trackers, quiet)
    return job.run


def _open(options: PretrainOptions, world: World) -> MultilevelJob:
    """The job as it was after its newest checkpoint; all processes call this."""
    with agreed(world), user_errors():
        check_trackers(options.track)
        check_processes(options, world)
        masking, settings, multilevel = options.masks(), options.training(), options.multilevel()
        torch.manual_seed(options.seed)
        model = new_model(options)
    data = in_turn(world, lambda: open_levels(options))
    with agreed(world), user_errors():
        a_step = settings.batch_size * multilevel.unroll[0] * multilevel.unroll[1]
        steps = len(data.training) // a_step
        if not steps:
            raise UserError(
                f"{options.source} has {len(data.training)} images in the training split, fewer than one step takes "
                f"({a_step}: --batch-size times --mlo-unroll): lower either"
            )
        device = world.device(options.device)
        training = MultilevelTraining(
            model, len(data.classes), masking, settings, multilevel, steps, device, world=world
        )
    run = RunFolder(options.out, write=world.is_main)
    with agreed(world):
        newest = newest_of_all(options.out, world)
    config = run_config(options, data.images.source, None, training, world) | {"splits": data.facts()}
    with agreed(world):
        resume = options.resume or world.restarts > 0  # torchrun repeats the command as it was
        run.begin(config, resume=resume, free=FREE_ON_RESUME, defaults=option_defaults())
        if newest:
            load_newest(newest, training)
    run.rewind(training.step)
    return MultilevelJob(options, data, training, run, config)


def _train(job: MultilevelJob, trackers: Tracking, quiet: bool) -> None:
    options, training, run = job.options, job.training, job.run
    world, counts = training.world, training.batches_per_step
    every = options.checkpoint_every or training.steps_per_epoch
    images = counts["mae"] * training.settings.batch_size
    log = TrainingLog(run, training, job.data.images.source, max_rejected=options.max_rejected, track=trackers.log)
    total, done = training.total_steps * images, training.step * images
    with closing(tqdm(total=total, initial=done, unit="img", unit_scale=True, disable=quiet, smoothing=0.05)) as bar:
        if training.step < training.total_steps:
            with agreed(world):
                log.reject({})  # a resumed run may allow fewer
        for group in log.waiting_for(_groups(_load(job), sum(counts.values()))):
            batches = _readable(group, job, log)
            rate = training.learning_rate()
            losses = training.update(_by_level(batches, job))
            figures = {f"{name}_loss": losses[name] for name in LEVELS[1:]}
            indices = [batch.indices for batch in batches]
            log.add(losses["mae"], learning_rate=rate, salient_ratio=0.0, batches=indices, figures=figures)
            bar.update(images)
            saves = training.step % every == 0 or training.step == training.total_steps
            if saves or training.step % _FLUSH_EVERY == 0:
                with agreed(world):
                    bar.set_postfix(loss=f"{log.flush():.4f}", starved=f"{log.starved:.0%}", refresh=False)
            if saves:
                save_checkpoint(options.out, training, keep=options.keep, loss=log.epoch_loss)
                if world.is_main:
                    write_cost(run, training)
    with agreed(world):
        if world.is_main:
            _draw_pictures(job)
            trackers.pictures(run.folder / "plots", training.step)


def _readable(group: list[ViewBatch], job: MultilevelJob, log: TrainingLog) -> list[GlobalBatch]:
    """The batches of a step; UserError if no image of one of them could be read."""
    training, world = job.training, job.training.world
    batches = gather_batches(group, training.settings.batch_size // world.size, world)
    unreadable = gather_unreadable(batches, world)
    if unreadable:
        with agreed(world):
            log.reject(unreadable)
            if not all(len(batch.indices) for batch in batches):
                raise UserError(
                    f"no image of a batch could be read, so that no step can be made of it; the reasons are in "
                    f"{job.run.folder / REJECTED}"
                )
    return batches


def _by_level(batches: list[GlobalBatch], job: MultilevelJob) -> dict[str, list[Labelled]]:
    """This process's part of a step's batches, by the level that they are for."""
    remaining = iter(batches)
    counts = job.training.batches_per_step
    return {name: [_labelled(next(remaining), job) for _ in range(count)] for name, count in counts.items()}


def _labelled(batch: GlobalBatch, job: MultilevelJob) -> Labelled:
    views = batch.views
    labels = torch.from_numpy(job.data.images.labels[views.indices])
    if batch.is_whole:
        return Labelled(views.images, labels)
    rows = torch.from_numpy(views.places) + job.training.world.part(batch.places.size).start
    return Labelled(views.images, labels, Part(rows, batch.places.size), len(batch.indices))


def _load(job: MultilevelJob) -> Iterable[ViewBatch]:
    """The batches from the coming step to the end of training, this process's part of each."""
    options, training, source = job.options, job.training, job.data.images.source
    size, batch_size = training.model.image_size, training.settings.batch_size
    batches = StepBatches(
        job.data.rows(),
        training.batches_per_step,
        batch_size,
        training.total_steps,
        seed=options.seed,
        start=training.step,
        part=training.world.part(batch_size),
    )
    if views_on_device(options.augment_on, training.device):
        cut = CutViews(source, size, augment=True, seed=options.seed)
        return load_on_device(cut, batches, training.device, workers=options.workers)
    views = Views(source, size, augment=True, seed=options.seed)
    return load_views(views, batches, workers=options.workers, pin=training.device.type == "cuda")


def _groups(loader: Iterable[ViewBatch], size: int) -> Iterator[list[ViewBatch]]:
    iterator = iter(loader)
    while group := list(itertools.islice(iterator, size)):
        yield group


def _draw_pictures(job: MultilevelJob) -> None:
    """``plots/``: the losses of the levels, reconstructions under T's masks, and T's scores."""
    plots, training, source = job.run.folder / "plots", job.training, job.data.images.source
    metrics = job.run.metrics()
    if metrics:
        steps = [line["step"] for line in metrics]
        loss_curve(plots / "loss.png", {"mae": (steps, [line["loss"] for line in metrics])}, title="Level 1")
        upper = {name: (steps, [line[f"{name}_loss"] for line in metrics]) for name in LEVELS[1:]}
        loss_curve(plots / "levels.png", upper, title="Levels 2 and 3", unit="cross-entropy")
    sheet = reconstruction_sheet(source, None, training.model, lambda x, *_: training.draw_masks(x), _PICTURED)
    if sheet:
        contact_sheet(plots / "reconstructions.png", sheet)
    _draw_scores(job)


def _draw_scores(job: MultilevelJob) -> None:
    """T's scores of images of the mask split, and in the last row the mean image and the mean score of each place."""
    training, grid = job.training, job.training.model.grid
    source = job.data.images.source.select(job.data.mask[:_AVERAGED])
    views = Views(source, training.model.image_size, augment=False)
    batch = next(iter(load_views(views, InOrder(len(source), len(source)), workers=0)))
    if not len(batch.images):
        return
    found = torch.cat([training.probabilities(normalise(part)) for part in batch.images.split(32)])
    scores = found.float().cpu().reshape(-1, *grid).numpy()
    images = [image.permute(1, 2, 0).numpy() for image in batch.images[:_PICTURED]]
    images.append(batch.images.float().mean(0).permute(1, 2, 0).to(torch.uint8).numpy())
    shown = [*scores[:_PICTURED], scores.mean(0)]
    over = [overlay(image, cells - cells.min()) for image, cells in zip(images, shown, strict=True)]
    said = [f"{np.min(cells):.3f} to {np.max(cells):.3f}" for cells in shown]
    said[-1] = f"mean of {len(scores)}: {said[-1]}"
    columns: dict[str, list[Any]] = {"image": images, "score": shown, "over the image": over, "range": said}
    contact_sheet(job.run.folder / "plots" / "scores.png", columns)
