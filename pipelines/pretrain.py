"""``pretrain``: images (and their maps) in, a run folder with a masked autoencoder out.

It joins maps to images once, by key and caption, draws one view for image and map together, and feeds the training
step of ``mae.training``. A run stopped at any moment goes on with ``--resume`` from its newest checkpoint, and on one
CPU process ends with the same losses to the bit. Under torchrun all processes do one run together: each reads its part
of every batch, and the main one alone writes.
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

from mae.checkpoints import load_training, save_checkpoint
from mae.determinism import NotDeterministicError, deterministic
from mae.distributed import World
from mae.training import Training
from mae.vit import MaskedAutoencoder
from pipelines.errors import UserError, user_errors
from pipelines.global_batches import GlobalBatch, gather_batches, gather_unreadable, to_batch
from pipelines.joined_maps import JoinedMaps, join_maps
from pipelines.pairs import hash_pairs
from pipelines.plots import contact_sheet, loss_curve
from pipelines.pretrain_options import FREE_ON_RESUME, PretrainOptions, option_defaults
from pipelines.processes import agreed, check_processes, in_turn, newest_of_all, one_world
from pipelines.random_access import open_images
from pipelines.reconstructions import reconstruction_sheet
from pipelines.runs import REJECTED, RunFolder
from pipelines.samples import Source
from pipelines.training_log import TrainingLog
from pipelines.views import EpochBatches, ViewBatch, Views, load_views
from saliency import __version__

_FLUSH_EVERY = 20  # steps between two looks at the losses, each of which waits for the device
_PICTURED = 8


def pretrain(options: PretrainOptions, *, quiet: bool = False, world: World | None = None) -> RunFolder:
    """Train a masked autoencoder; returns its run folder. Raises UserError for a mistake in options or input.

    ``world`` are the processes that do it together; those that torchrun started if it is not given.
    """
    if world is None:
        with one_world(options.device) as world:
            return pretrain(options, quiet=quiet, world=world)
    try:
        with deterministic(options.deterministic):
            training, source, maps, run = _begin(options, world)
            _train(options, source, maps, training, run, quiet)
            return run
    except NotDeterministicError as error:
        with agreed(world):
            raise UserError(error) from error
    raise AssertionError  # the error above is raised


def _begin(options: PretrainOptions, world: World) -> tuple[Training, Source, JoinedMaps | None, RunFolder]:
    """Everything that a run needs, as it was after its newest checkpoint, and its folder ready to go on."""
    with agreed(world), user_errors():
        masking, settings = options.masks(), options.training()
        check_processes(options, world)
        torch.manual_seed(options.seed)
        size = options.image_size[0] if len(options.image_size) == 1 else options.image_size
        model = MaskedAutoencoder.from_size(options.model, size, options.patch_size, options.norm_pix)
    source, maps = in_turn(world, lambda: _open(options, masking.needs_saliency))
    with agreed(world), user_errors():
        steps_per_epoch = len(source) // (settings.batch_size * settings.accumulate)
        training = Training(model, masking, settings, steps_per_epoch, world.device(options.device))
        # masks that can't be drawn are the settings' fault, and better known now than at the first step
        training.draw_masks(options.batch_size, torch.ones(options.batch_size, math.prod(model.grid)), 0)
    run = RunFolder(options.out, write=world.is_main)
    with agreed(world):
        newest = newest_of_all(options.out, world)
    config = _config(options, source, maps, training, world)
    resume = options.resume or world.restarts > 0  # torchrun repeats the command as it was
    with agreed(world):
        run.begin(config, resume=resume, free=FREE_ON_RESUME, defaults=option_defaults())
    training.distribute(world, parts=options.shard_model)
    with agreed(world):
        if newest:
            _load_newest(newest, training)
    run.rewind(training.step)
    return training, source, maps, run


def _open(options: PretrainOptions, with_maps: bool) -> tuple[Source, JoinedMaps | None]:
    source = open_images(options)
    images_per_step = options.batch_size * options.accumulate
    if len(source) < images_per_step:
        raise UserError(
            f"{options.source} has {len(source)} images, fewer than one step takes ({images_per_step}): "
            "lower --batch-size"
        )
    return source, _join(options, source) if with_maps else None


def _load_newest(checkpoint: Path, training: Training) -> None:
    try:
        load_training(checkpoint, training)
    except ValueError as error:
        raise UserError(f"{error}; once that folder is deleted, --resume goes on from the one before it") from error


def _join(options: PretrainOptions, source: Source) -> JoinedMaps:
    if options.saliency is None:
        raise UserError(f"--masking {options.masking} needs maps: --saliency MAPS, made with build-saliency")
    return join_maps(options.saliency, source, on_missing=options.on_missing)


def _config(
    options: PretrainOptions, source: Source, maps: JoinedMaps | None, training: Training, world: World
) -> dict[str, Any]:
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
        "versions": {"saliency-mae": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "processes": world.size,
    }


def _train(
    options: PretrainOptions, source: Source, maps: JoinedMaps | None, training: Training, run: RunFolder, quiet: bool
) -> None:
    settings, world = training.settings, training.world
    images_per_step = settings.batch_size * settings.accumulate
    total, done = training.total_steps * images_per_step, training.step * images_per_step
    every = options.checkpoint_every or training.steps_per_epoch
    log = TrainingLog(run, training, source, max_rejected=options.max_rejected)
    hidden = quiet or not world.is_main
    with closing(tqdm(total=total, initial=done, unit="img", unit_scale=True, disable=hidden, smoothing=0.05)) as bar:
        if training.step < training.total_steps:
            with agreed(world):
                log.reject({})  # a resumed run may allow fewer
        for group in _groups(_load(options, source, training), settings.accumulate):
            readable = _readable(group, training, log, run)
            batches = [
                to_batch(
                    batch,
                    maps.on_views(batch.views, training.model.grid) if maps else None,
                    world,
                    shuffled=training.masking.strategy == "shuffled",
                )
                for batch in readable
            ]
            rate, ratio = training.learning_rate(), training.masking.ratio_at(training.progress)
            indices = [batch.indices for batch in readable]
            log.add(training.update(batches), learning_rate=rate, salient_ratio=ratio, batches=indices)
            bar.update(images_per_step)
            saves = training.step % every == 0 or training.step == training.total_steps
            if saves or training.step % _FLUSH_EVERY == 0:
                with agreed(world):
                    bar.set_postfix(loss=f"{log.flush():.4f}", refresh=False)
            if saves:
                with agreed(world):
                    log.check_weights()
                save_checkpoint(options.out, training, keep=options.keep, loss=log.epoch_loss)
    model = training.spread.whole_model()
    with agreed(world):
        if world.is_main:
            _draw_pictures(run, source, maps, training, model.to(training.device))


def _readable(group: list[ViewBatch], training: Training, log: TrainingLog, run: RunFolder) -> list[GlobalBatch]:
    """The batches of a step in which enough images could be read; UserError if there is none."""
    world = training.world
    batches = gather_batches(group, training.settings.batch_size // world.size, world)
    unreadable = gather_unreadable(batches, world)
    readable = [batch for batch in batches if len(batch.indices) >= training.masking.least_batch]
    if unreadable:
        with agreed(world):
            log.reject(unreadable)
            if not readable:
                raise UserError(
                    f"too few images of a step could be read to go on; the reasons are in {run.folder / REJECTED}"
                )
    return readable


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
        part=training.world.part(settings.batch_size),
    )
    views = Views(source, training.model.image_size, augment=True, seed=options.seed)
    return load_views(views, batches, workers=options.workers, pin=training.device.type == "cuda")


def _groups(loader: Iterable[ViewBatch], size: int) -> Iterator[list[ViewBatch]]:
    iterator = iter(loader)
    while group := list(itertools.islice(iterator, size)):
        yield group


def _draw_pictures(
    run: RunFolder, source: Source, maps: JoinedMaps | None, training: Training, model: MaskedAutoencoder
) -> None:
    """``plots/loss.png`` and ``plots/reconstructions.png``."""
    metrics = run.metrics()
    if metrics:
        losses = {"loss": ([line["step"] for line in metrics], [line["loss"] for line in metrics])}
        loss_curve(run.folder / "plots" / "loss.png", losses)
    sheet = reconstruction_sheet(source, maps, model, training.draw_masks, _PICTURED)
    if sheet:
        contact_sheet(run.folder / "plots" / "reconstructions.png", sheet)
