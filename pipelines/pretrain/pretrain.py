"""``pretrain``: images (and their maps) in, a run folder with a masked autoencoder out.

It joins maps to images once, by key and caption, draws one view for image and map together, and feeds the training
step. This is the loop of every pretraining; what a step does, and to which batches, is its task's
(``pipelines.pretrain.task``). A run stopped at any moment goes on with ``--resume`` from its newest checkpoint, and on
one CPU process ends with the same losses to the bit. Under torchrun all processes do one run together: each reads its
part of every batch, and the main one alone writes.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing

from mae.distributed import World
from mae.mask_learners.custom import ScoresError
from mae.training.checkpoints import save_checkpoint, settle_checkpoints
from mae.training.determinism import NotDeterministicError, deterministic
from pipelines.commandline.terminal import say, warn
from pipelines.errors import StoppedError, UserError
from pipelines.pretrain.global_batches import GlobalBatch, gather_batches, gather_unreadable
from pipelines.pretrain.hidden_shares import hidden_shares
from pipelines.pretrain.job import PretrainJob, open_pretraining
from pipelines.pretrain.multilevel.cost import told_cost
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.processes import agreed, one_world
from pipelines.pretrain.record.gate_masks import told_masks
from pipelines.pretrain.record.health import HealthLog
from pipelines.pretrain.record.throughput import throughput
from pipelines.pretrain.record.trackers import Tracking, tracking
from pipelines.pretrain.record.training_log import TrainingLog
from pipelines.pretrain.stopping import stop_signals
from pipelines.progress import memory_figure, progress_bar
from pipelines.run_folder import REJECTED, RunFolder
from pipelines.views.image_views import ViewBatch
from pipelines.views.joined_maps import JoinedMaps
from pipelines.views.loaders import training_views

_FLUSH_EVERY = 20  # steps between two looks at the losses, each of which waits for the device


def pretrain(options: PretrainOptions, *, quiet: bool = False, world: World | None = None) -> RunFolder:
    """Train a masked autoencoder; returns its run folder. Raises UserError for a mistake in options or input.

    ``world`` are the processes that do it together; those that torchrun started if it is not given.
    """
    if world is None:
        with one_world(options.device) as world:
            return pretrain(options, quiet=quiet, world=world)
    try:
        with deterministic(options.deterministic), ExitStack() as stack:
            job = open_pretraining(options, world, stack)
            with agreed(world):
                names = options.track if world.is_main else ()
                trackers = stack.enter_context(tracking(names, job.run, job.config, job.task.training.step))
            _train(job, trackers, quiet or not world.is_main)
            return job.run
    except ScoresError as error:  # of a step; the last checkpoint is there
        raise UserError(error) from error
    except NotDeterministicError as error:
        with agreed(world):
            raise UserError(error) from error
    raise AssertionError  # the error above is raised


def summary(run: RunFolder) -> list[str]:
    """Lines that say what a finished run came to: its last loss, where its pictures are, its cost and its speed."""
    metrics = run.metrics()
    loss = "".join(f", loss {line['loss']:.4f}" for line in metrics[-1:])
    done = f"{run.folder}: step {run.config()['steps']}{loss}; report in {run.folder}"
    masks = told_masks(metrics, run.config()["masking"]["mask_ratio"])
    return [line for line in (done, masks, told_cost(run.folder), throughput(metrics).hint()) if line]


def _train(job: PretrainJob, trackers: Tracking, quiet: bool) -> None:
    options, task, run, training = job.options, job.task, job.run, job.task.training
    world, images = training.world, task.images_per_step
    total, done = training.total_steps * images, training.step * images
    every = options.checkpoint_every or training.steps_per_epoch
    if not quiet:
        warn(task.source.warnings)
        say(_plan(job), err=True)
        _tell_hidden_shares(job)
    every_so_often, clip = options.health_every, job.settings.clip
    looks = every_so_often is not None and world.is_main
    health = HealthLog(task.source, training.model, clip, every_so_often or 1) if looks else None
    log = TrainingLog(run, training, task.source, max_rejected=options.max_rejected, track=trackers.log)
    if training.step and world.is_main:
        settle_checkpoints(options.out, keep=options.keep, loss=log.epoch_loss)
        task.saved(run)
    with (
        stop_signals(world) as stop,
        closing(progress_bar(total=total, done=done, unit="images", scale=True, quiet=quiet)) as bar,
    ):
        if training.step < training.total_steps:
            with agreed(world):
                log.reject({})  # a resumed run may allow fewer
        for batches in step_batches(job, log):
            schedules = training.schedules()
            loss, noted = task.step(batches)
            indices = [batch.indices for batch in batches]
            seen = health.figures(training.step) if health else {}
            log.add(loss, schedules=schedules, batches=indices, figures=noted | seen)
            bar.update(images)
            regular = training.step % every == 0 or training.step == training.total_steps
            stopped = stop.name()
            saves = regular or stopped is not None
            if saves or training.step % _FLUSH_EVERY == 0:
                with agreed(world):
                    figures = {"loss": f"{log.flush():.4f}", "starved": f"{log.starved:.0%}"}
                    bar.set_postfix(figures | memory_figure(training.device), refresh=False)
            if saves:
                _save(job, log, interim=not regular)
            if stopped is not None and training.step < training.total_steps:
                raise _stopped(job, stopped)
    model = training.spread.whole_model()
    with agreed(world):
        if world.is_main:
            task.draw(run, model.to(training.device))
            trackers.pictures(run.folder / "plots", training.step)


def _save(job: PretrainJob, log: TrainingLog, *, interim: bool) -> None:
    """Write a checkpoint, and what goes with it."""
    options, training = job.options, job.task.training
    with agreed(training.world):
        log.check_weights()
    save_checkpoint(options.out, training, keep=options.keep, loss=log.epoch_loss, interim=interim)
    if training.world.is_main:
        job.task.saved(job.run)


def _stopped(job: PretrainJob, by: str) -> StoppedError:
    training = job.task.training
    training.world.gather(None)  # none ends before the checkpoint is there, for torchrun would end the others
    return StoppedError(
        f"{by} came: the state after step {training.step} of {training.total_steps} is saved, and the same command "
        "goes on with it (pretrain: with --resume)",
        signal.Signals[by],
    )


def _tell_hidden_shares(job: PretrainJob) -> None:
    """Say what the masks hide of the maps, where maps rank the patches."""
    masking, maps = job.settings.masking, job.task.maps
    if not isinstance(maps, JoinedMaps) or not masking.needs_saliency:
        return
    try:
        shares = hidden_shares(masking, maps, job.task.training.model.grid, job.options.seed)
    except (ValueError, OSError) as error:  # nothing that a training needs
        return warn([f"what the masks hide of the maps is not known: {error}"])
    if shares is not None:
        say(shares.line(), err=True)
        warn(shares.warnings())


def _plan(job: PretrainJob) -> str:
    """What a training is about to do, in a line."""
    training, source = job.task.training, job.task.source
    what = "images" if source.videos is None else "videos"
    resumed = f", from step {training.step}" if training.step else ""
    return (
        f"{len(source)} {what}, {training.steps_per_epoch} steps per epoch, {training.total_steps} steps{resumed}; "
        f"{job.config['parameters'] / 1e6:.3g} M parameters on {training.device}"
    )


def step_batches(job: PretrainJob, log: TrainingLog) -> Generator[list[GlobalBatch], None, None]:
    """The batches of every step to the end of training, this process's part of each. Raises UserError."""
    for group in log.waiting_for(_groups(_load(job), job.task.batches_per_step)):
        yield _readable(group, job, log)


def _readable(group: list[ViewBatch], job: PretrainJob, log: TrainingLog) -> list[GlobalBatch]:
    """The batches that a step is made of; UserError if too few images could be read."""
    training, world = job.task.training, job.task.training.world
    batches = gather_batches(group, training.settings.batch_size // world.size, world)
    unreadable = gather_unreadable(batches, world)
    readable = job.task.readable(batches)
    if unreadable:
        with agreed(world):
            log.reject(unreadable)
            if not readable:
                raise UserError(
                    f"too few images of a step could be read to continue; the reasons are in "
                    f"{job.run.folder / REJECTED}"
                )
    return readable


def _load(job: PretrainJob) -> Iterable[ViewBatch]:
    """The batches from the coming step to the end of training, this process's part of each."""
    options, task, training = job.options, job.task, job.task.training
    return training_views(
        task.source,
        task.batches(),
        training.model.image_size,
        clip=job.settings.clip,
        sizes=training.resolutions.sizes() if training.resolutions else None,
        seed=options.seed,
        augment_on=options.augment_on,
        device=training.device,
        workers=options.workers,
        crops=task.crops,
        moving=task.maps is not None and task.maps.moving,
    )


def _groups(loader: Iterable[ViewBatch], size: int) -> Iterator[list[ViewBatch]]:
    iterator = iter(loader)
    while group := list(itertools.islice(iterator, size)):
        yield group
