"""``pretrain``: images (and their maps) in, a run folder with a masked autoencoder out.

It joins maps to images once, by key and caption, draws one view for image and map together, and feeds the training
step of ``mae.training.training``. A run stopped at any moment goes on with ``--resume`` from its newest checkpoint, and
on one CPU process ends with the same losses to the bit. Under torchrun all processes do one run together: each reads
its part of every batch, and the main one alone writes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing

from tqdm import tqdm

from mae.distributed import World
from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder
from mae.training.checkpoints import save_checkpoint
from mae.training.determinism import NotDeterministicError, deterministic
from mae.training.training import Batch
from pipelines.commandline.terminal import warn
from pipelines.errors import UserError
from pipelines.plots import contact_sheet, loss_curve
from pipelines.pretrain.clip_reconstructions import clip_sheet
from pipelines.pretrain.global_batches import GlobalBatch, gather_batches, gather_unreadable, to_batch
from pipelines.pretrain.job import PretrainJob, open_pretraining
from pipelines.pretrain.multilevel import pretrain_multilevel
from pipelines.pretrain.processes import agreed, one_world
from pipelines.pretrain.reconstructions import reconstruction_sheet
from pipelines.pretrain.settings import MULTILEVEL, PretrainOptions
from pipelines.pretrain.trackers import Tracking, tracking
from pipelines.pretrain.training_log import TrainingLog
from pipelines.run_folder import REJECTED, RunFolder
from pipelines.views.clip_views import ClipViews
from pipelines.views.device_views import CutViews, load_on_device, views_on_device
from pipelines.views.image_views import EpochBatches, ViewBatch, Views, load_views

_FLUSH_EVERY = 20  # steps between two looks at the losses, each of which waits for the device
_PICTURED = 8
_PICTURED_CLIPS = 3


def pretrain(options: PretrainOptions, *, quiet: bool = False, world: World | None = None) -> RunFolder:
    """Train a masked autoencoder; returns its run folder. Raises UserError for a mistake in options or input.

    ``world`` are the processes that do it together; those that torchrun started if it is not given.
    """
    if world is None:
        with one_world(options.device) as world:
            return pretrain(options, quiet=quiet, world=world)
    try:
        with deterministic(options.deterministic), ExitStack() as stack:
            if options.masking_name == MULTILEVEL:
                return pretrain_multilevel(options, world, quiet=quiet)
            job = open_pretraining(options, world)
            with agreed(world):
                names = options.track if world.is_main else ()
                trackers = stack.enter_context(tracking(names, job.run, job.config, job.training.step))
            _train(job, trackers, quiet or not world.is_main)
            return job.run
    except NotDeterministicError as error:
        with agreed(world):
            raise UserError(error) from error
    raise AssertionError  # the error above is raised


def _train(job: PretrainJob, trackers: Tracking, quiet: bool) -> None:
    options, training, run = job.options, job.training, job.run
    settings, world = training.settings, training.world
    images_per_step = settings.batch_size * settings.accumulate
    total, done = training.total_steps * images_per_step, training.step * images_per_step
    every = options.checkpoint_every or training.steps_per_epoch
    warn([] if quiet else job.source.warnings)
    log = TrainingLog(run, training, job.source, max_rejected=options.max_rejected, track=trackers.log)
    with closing(tqdm(total=total, initial=done, unit="img", unit_scale=True, disable=quiet, smoothing=0.05)) as bar:
        if training.step < training.total_steps:
            with agreed(world):
                log.reject({})  # a resumed run may allow fewer
        for group in log.waiting_for(_groups(_load(job), settings.accumulate)):
            readable = _readable(group, job, log)
            rate, ratio = training.learning_rate(), training.masking.ratio_at(training.progress)
            loss = training.update([_to_batch(batch, job) for batch in readable])
            log.add(loss, learning_rate=rate, salient_ratio=ratio, batches=[batch.indices for batch in readable])
            bar.update(images_per_step)
            saves = training.step % every == 0 or training.step == training.total_steps
            if saves or training.step % _FLUSH_EVERY == 0:
                with agreed(world):
                    bar.set_postfix(loss=f"{log.flush():.4f}", starved=f"{log.starved:.0%}", refresh=False)
            if saves:
                with agreed(world):
                    log.check_weights()
                save_checkpoint(options.out, training, keep=options.keep, loss=log.epoch_loss)
    model = training.spread.whole_model()
    with agreed(world):
        if world.is_main:
            _draw_pictures(job, model.to(training.device))
            trackers.pictures(run.folder / "plots", training.step)


def _readable(group: list[ViewBatch], job: PretrainJob, log: TrainingLog) -> list[GlobalBatch]:
    """The batches of a step in which enough images could be read; UserError if there is none."""
    training, world = job.training, job.training.world
    batches = gather_batches(group, training.settings.batch_size // world.size, world)
    unreadable = gather_unreadable(batches, world)
    readable = [batch for batch in batches if len(batch.indices) >= training.masking.least_batch]
    if unreadable:
        with agreed(world):
            log.reject(unreadable)
            if not readable:
                raise UserError(
                    f"too few images of a step could be read to go on; the reasons are in {job.run.folder / REJECTED}"
                )
    return readable


def _to_batch(batch: GlobalBatch, job: PretrainJob) -> Batch:
    """This process's part of a batch, with the maps of its views."""
    training = job.training
    saliency = job.maps.on_views(batch.views, training.grid, training.device) if job.maps else None
    return to_batch(batch, saliency, training.world, shuffled=training.masking.strategy == "shuffled")


def _load(job: PretrainJob) -> Iterable[ViewBatch]:
    """The batches from the coming step to the end of training, this process's part of each."""
    options, training, settings = job.options, job.training, job.training.settings
    batches = EpochBatches(
        len(job.source),
        settings.batch_size,
        training.steps_per_epoch * settings.accumulate,
        settings.epochs,
        seed=options.seed,
        start=training.step * settings.accumulate,
        part=training.world.part(settings.batch_size),
    )
    size, sizes = training.model.image_size, training.resolutions.sizes() if training.resolutions else None
    if options.clip is not None:
        clips = ClipViews(job.source, size, options.clip, augment=True, seed=options.seed, sizes=sizes)
        return load_views(clips, batches, workers=options.workers, pin=training.device.type == "cuda")
    if views_on_device(options.augment_on, training.device):
        cut = CutViews(job.source, size, augment=True, seed=options.seed, sizes=sizes)
        return load_on_device(cut, batches, training.device, workers=options.workers)
    views = Views(job.source, size, augment=True, seed=options.seed, sizes=sizes)
    return load_views(views, batches, workers=options.workers, pin=training.device.type == "cuda")


def _groups(loader: Iterable[ViewBatch], size: int) -> Iterator[list[ViewBatch]]:
    iterator = iter(loader)
    while group := list(itertools.islice(iterator, size)):
        yield group


def _draw_pictures(job: PretrainJob, model: MaskedAutoencoder) -> None:
    """``plots/loss.png`` and ``plots/reconstructions.png``."""
    metrics = job.run.metrics()
    if metrics:
        losses = {"loss": ([line["step"] for line in metrics], [line["loss"] for line in metrics])}
        loss_curve(job.run.folder / "plots" / "loss.png", losses)
    if isinstance(model, VideoMaskedAutoencoder) and job.options.clip is not None:
        sheet = clip_sheet(job.source, job.maps, model, job.training.pick_masks, job.options.clip, _PICTURED_CLIPS)
    else:
        sheet = reconstruction_sheet(job.source, job.maps, model, job.training.pick_masks, _PICTURED)
    if sheet:
        contact_sheet(job.run.folder / "plots" / "reconstructions.png", sheet)
