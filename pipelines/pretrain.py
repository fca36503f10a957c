"""``pretrain``: images (and their maps) in, a run folder with a masked autoencoder out.

It joins maps to images once, by key and caption, draws one view for image and map together, and feeds the training
step of ``mae.training``. A run stopped at any moment goes on with ``--resume`` from its newest checkpoint, and on one
CPU process ends with the same losses to the bit.
"""

from __future__ import annotations

import itertools
import math
import platform
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mae.checkpoints import list_checkpoints, load_training, save_checkpoint
from mae.determinism import NotDeterministicError, deterministic
from mae.training import Batch, Training
from mae.vit import MaskedAutoencoder
from pipelines.device_views import CutViews, load_on_device, views_on_device
from pipelines.errors import UserError, user_errors
from pipelines.joined_maps import JoinedMaps, join_maps
from pipelines.pairs import hash_pairs
from pipelines.plots import contact_sheet, loss_curve
from pipelines.pretrain_options import FREE_ON_RESUME, PretrainOptions, option_defaults
from pipelines.random_access import open_images
from pipelines.reconstructions import reconstruction_sheet
from pipelines.runs import REJECTED, RunFolder
from pipelines.samples import Source
from pipelines.trackers import Tracking, check_trackers, tracking
from pipelines.training_log import TrainingLog
from pipelines.views import EpochBatches, ViewBatch, Views, load_views
from saliency import __version__

_FLUSH_EVERY = 20  # steps between two looks at the losses, each of which waits for the device
_PICTURED = 8


def pretrain(options: PretrainOptions, *, quiet: bool = False) -> RunFolder:
    """Train a masked autoencoder; returns its run folder. Raises UserError for a mistake in options or input."""
    try:
        with deterministic(options.deterministic):
            return _pretrain(options, quiet)
    except NotDeterministicError as error:
        raise UserError(error) from error


def _pretrain(options: PretrainOptions, quiet: bool) -> RunFolder:
    check_trackers(options.track)
    with user_errors():
        masking, settings = options.masks(), options.training()
        torch.manual_seed(options.seed)
        size = options.image_size[0] if len(options.image_size) == 1 else options.image_size
        model = MaskedAutoencoder.from_size(
            options.model,
            size,
            options.patch_size,
            options.norm_pix,
            decoder_width=options.decoder_width,
            decoder_depth=options.decoder_depth,
        )
        resolutions = options.resolutions(model.image_size, model.patch_size)
    source = open_images(options)
    steps_per_epoch = len(source) // (settings.batch_size * settings.accumulate)
    if steps_per_epoch == 0:
        raise UserError(
            f"{options.source} has {len(source)} images, fewer than one step takes "
            f"({settings.batch_size * settings.accumulate}): lower --batch-size"
        )
    maps = _join(options, source) if masking.needs_saliency else None
    with user_errors():
        training = Training(model, masking, settings, steps_per_epoch, options.device, resolutions)
        # masks that can't be drawn are the settings' fault, and better known now than at the first step
        for grid in training.grids:
            flat = torch.ones(options.batch_size, math.prod(grid))
            masking(options.batch_size, grid, generator=torch.Generator(), saliency=flat)
    run = RunFolder(options.out)
    config = _config(options, source, maps, training)
    run.begin(config, resume=options.resume, free=FREE_ON_RESUME, defaults=option_defaults())
    checkpoints = list_checkpoints(options.out)
    if checkpoints:
        _load_newest(checkpoints[-1], training)
    run.rewind(training.step)
    with tracking(options.track, run, config, training.step) as trackers:
        _train(options, source, maps, training, run, trackers, quiet)
    return run


def _load_newest(checkpoint: Path, training: Training) -> None:
    try:
        load_training(checkpoint, training)
    except ValueError as error:
        raise UserError(f"{error}; once that folder is deleted, --resume goes on from the one before it") from error


def _join(options: PretrainOptions, source: Source) -> JoinedMaps:
    if options.saliency is None:
        raise UserError(f"--masking {options.masking} needs maps: --saliency MAPS, made with build-saliency")
    return join_maps(options.saliency, source, on_missing=options.on_missing)


def _config(options: PretrainOptions, source: Source, maps: JoinedMaps | None, training: Training) -> dict[str, Any]:
    resolved = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()}
    resolved["saliency"] = None if options.saliency is None else str(Path(options.saliency))  # maps/ is maps
    resolved["salient_schedule"] = list(options.salient_schedule) if options.salient_schedule else None
    resolved["image_size"] = list(options.image_size)
    return {
        "options": resolved,
        "images": len(source),
        "keys_sha256": hash_pairs(source, captions=False),
        "maps": {**maps.table.metadata, "images_without_map": maps.missing} if maps else None,
        "masking": asdict(training.masking),
        "grid": list(training.model.grid),
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "steps_per_epoch": training.steps_per_epoch,
        "steps": training.total_steps,
        "peak_learning_rate": training.settings.peak_learning_rate,
        "precision": training.precision,
        "flops_per_image": training.flops_per_image(),
        "peak_flops": training.peak._asdict() if training.peak else None,
        "versions": {"saliency-mae": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
    }


def _train(
    options: PretrainOptions,
    source: Source,
    maps: JoinedMaps | None,
    training: Training,
    run: RunFolder,
    trackers: Tracking,
    quiet: bool,
) -> None:
    settings = training.settings
    images_per_step = settings.batch_size * settings.accumulate
    total, done = training.total_steps * images_per_step, training.step * images_per_step
    every = options.checkpoint_every or training.steps_per_epoch
    log = TrainingLog(run, training, source, max_rejected=options.max_rejected, track=trackers.log)
    with closing(tqdm(total=total, initial=done, unit="img", unit_scale=True, disable=quiet, smoothing=0.05)) as bar:
        for group in log.waiting_for(_groups(_load(options, source, training), settings.accumulate)):
            log.reject(group)
            readable = [batch for batch in group if len(batch.images) >= training.masking.least_batch]
            if not readable:
                raise UserError(
                    f"too few images of a step could be read to go on; the reasons are in {run.folder / REJECTED}"
                )
            grid, device = training.grid, training.device
            batches = [Batch(b.images, maps.on_views(b, grid, device) if maps else None) for b in readable]
            rate, ratio = training.learning_rate(), training.masking.ratio_at(training.progress)
            log.add(training.update(batches), learning_rate=rate, salient_ratio=ratio, batches=readable)
            bar.update(images_per_step)
            saves = training.step % every == 0 or training.step == training.total_steps
            if saves or training.step % _FLUSH_EVERY == 0:
                bar.set_postfix(loss=f"{log.flush():.4f}", starved=f"{log.starved:.0%}", refresh=False)
            if saves:
                log.check_weights()
                save_checkpoint(options.out, training, keep=options.keep, loss=log.epoch_loss)
    _draw_pictures(run, source, maps, training)
    trackers.pictures(run.folder / "plots", training.step)


def _load(options: PretrainOptions, source: Source, training: Training) -> Iterable[ViewBatch]:
    """The batches from the coming step to the end of training."""
    settings = training.settings
    batches = EpochBatches(
        len(source),
        settings.batch_size,
        training.steps_per_epoch * settings.accumulate,
        settings.epochs,
        seed=options.seed,
        start=training.step * settings.accumulate,
    )
    size, sizes = training.model.image_size, training.resolutions.sizes() if training.resolutions else None
    if views_on_device(options.augment_on, training.device):
        cut = CutViews(source, size, augment=True, seed=options.seed, sizes=sizes)
        return load_on_device(cut, batches, training.device, workers=options.workers)
    views = Views(source, size, augment=True, seed=options.seed, sizes=sizes)
    return load_views(views, batches, workers=options.workers, pin=training.device.type == "cuda")


def _groups(loader: Iterable[ViewBatch], size: int) -> Iterator[list[ViewBatch]]:
    iterator = iter(loader)
    while group := list(itertools.islice(iterator, size)):
        yield group


def _draw_pictures(run: RunFolder, source: Source, maps: JoinedMaps | None, training: Training) -> None:
    """``plots/loss.png`` and ``plots/reconstructions.png``."""
    metrics = run.metrics()
    if metrics:
        losses = {"loss": ([line["step"] for line in metrics], [line["loss"] for line in metrics])}
        loss_curve(run.folder / "plots" / "loss.png", losses)
    sheet = reconstruction_sheet(source, maps, training.model, training.draw_masks, _PICTURED)
    if sheet:
        contact_sheet(run.folder / "plots" / "reconstructions.png", sheet)
