"""A pretraining that is ready to begin or to go on: every option checked, everything opened, the checkpoint loaded."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mae.distributed import World
from mae.formats.foreign import build, foreign_kind, load_foreign
from mae.models.video import VideoMaskedAutoencoder, inflate
from mae.models.vit import MaskedAutoencoder
from mae.multilevel.mlo_training import MultilevelTraining
from mae.training.any_training import Trained
from mae.training.checkpoints import load_model, load_training
from mae.training.flops import training_flops
from mae.training.training import Training
from pipelines.errors import UserError, user_errors
from pipelines.pretrain.mask_learners import new_learner
from pipelines.pretrain.processes import agreed, check_processes, in_turn, newest_of_all
from pipelines.pretrain.settings import FREE_ON_RESUME, MULTILEVEL, PretrainOptions, option_defaults
from pipelines.pretrain.trackers import check_trackers
from pipelines.run_folder import CONFIG, RunFolder
from pipelines.sources.random_access import open_images, open_videos
from pipelines.sources.source import Source, hash_pairs
from pipelines.views.joined_maps import JoinedMaps, join_maps
from saliency import __version__


@dataclass(frozen=True)
class PretrainJob:
    """What a pretraining works with."""

    options: PretrainOptions
    source: Source
    maps: JoinedMaps | None
    training: Training
    run: RunFolder
    config: dict[str, Any]
    """What ``config.json`` holds of a run that begins."""


def open_pretraining(options: PretrainOptions, world: World) -> PretrainJob:
    """The job as it was after its newest checkpoint, its folder ready to go on; all processes call this. UserError."""
    with agreed(world), user_errors():
        check_trackers(options.track)
        check_processes(options, world)
        masking, settings = options.masks(), options.training()
        torch.manual_seed(options.seed)
        model = new_model(options)
        resolutions = options.resolutions(model.image_size, model.patch_size)
    source, maps = in_turn(world, lambda: _open_data(options, options.needs_maps))
    with agreed(world), user_errors():
        steps_per_epoch = len(source) // (settings.batch_size * settings.accumulate)
        device = world.device(options.device)
        learner = new_learner(options, model, device)
        training = Training(model, masking, settings, steps_per_epoch, device, resolutions, learner)
        # masks that can't be drawn are the settings' fault, and better known now than at the first step
        for grid in training.grids:
            flat = torch.ones(options.batch_size, math.prod(grid))
            masking(options.batch_size, grid, generator=torch.Generator(), saliency=flat)
    run = RunFolder(options.out, write=world.is_main)
    with agreed(world):
        newest = newest_of_all(options.out, world)
    config = run_config(options, source, maps, training, world)
    resume = options.resume or world.restarts > 0  # torchrun repeats the command as it was
    with agreed(world):
        run.begin(config, resume=resume, free=FREE_ON_RESUME, defaults=option_defaults())
    with agreed(world), user_errors():
        training.distribute(world, parts=options.shard_model)
    with agreed(world):
        if newest:
            load_newest(newest, training)
    run.rewind(training.step)
    return PretrainJob(options, source, maps, training, run, config)


def new_model(options: PretrainOptions) -> MaskedAutoencoder:
    """The model that is asked for, untrained or inflated. ValueError for sizes that do not fit, UserError."""
    if options.inflate is not None:
        return _inflated(options, options.inflate)
    size = options.image_size[0] if len(options.image_size) == 1 else options.image_size
    arguments: dict[str, Any] = {
        "image_size": size,
        "patch_size": options.patch_size,
        "norm_pix": options.norm_pix,
        "decoder_width": options.decoder_width,
        "decoder_depth": options.decoder_depth,
    }
    if options.frames is None:
        return MaskedAutoencoder.from_size(options.model, **arguments)
    arguments |= {"frames": options.frames, "tubelet": options.tubelet, "positions": options.positions}
    return VideoMaskedAutoencoder.from_size(options.model, **arguments)


def _inflated(options: PretrainOptions, run: str | Path) -> VideoMaskedAutoencoder:
    """The video model that starts from an image model's weights. ValueError, UserError."""
    path = Path(run)
    if not path.exists():
        raise UserError(f"--inflate {run} does not exist; give a run folder or a masked autoencoder's weights")
    model = build(load_foreign(path)) if path.is_file() or foreign_kind(path) else load_model(path)
    if isinstance(model, VideoMaskedAutoencoder):
        raise UserError(f"--inflate {run} is of video already")
    sides = options.image_size * (2 if len(options.image_size) == 1 else 1)
    if sides != model.image_size:
        theirs, asked = ("x".join(map(str, size)) for size in (model.image_size, sides))
        raise UserError(f"--inflate {run} takes images of {theirs} pixels, not {asked}: give --image-size {theirs}")
    assert options.frames is not None
    return inflate(model, options.frames, options.tubelet, norm_pix=options.norm_pix).train()


def open_training(options: PretrainOptions) -> Source:
    """The images that are trained on, or the videos. UserError.

    A run goes on with the pairs that it began with: once, every row was one, also where rows were captions of one
    image.
    """
    if options.frames is not None:
        return open_videos(options)
    source = open_images(options)
    if options.captions == "first" and (options.out / CONFIG).exists():
        begun_with = RunFolder(options.out).config().get("keys_sha256")
        if begun_with != hash_pairs(source, captions=False):
            every = open_images(options, every_row=True)
            return every if begun_with == hash_pairs(every, captions=False) else source
    return source


def _open_data(options: PretrainOptions, with_maps: bool) -> tuple[Source, JoinedMaps | None]:
    source = open_training(options)
    images_per_step = options.batch_size * options.accumulate
    if len(source) < images_per_step:
        raise UserError(
            f"{options.source} has {len(source)} {'images' if options.frames is None else 'videos'}, fewer than one "
            f"step takes ({images_per_step}): "
            "lower --batch-size"
        )
    return source, _join(options, source) if with_maps else None


def _join(options: PretrainOptions, source: Source) -> JoinedMaps:
    if options.maps is None:
        what = "--saliency-weight" if options.saliency_weight else f"--masking {options.masking_name}"
        raise UserError(f"{what} needs maps: --saliency MAPS, made with build-saliency")
    return join_maps(options.maps, source, on_missing=options.on_missing)


def load_newest(checkpoint: Path, training: Trained) -> None:
    """Put a checkpoint into the training; UserError if it is damaged or does not fit."""
    try:
        load_training(checkpoint, training)
    except ValueError as error:
        raise UserError(f"{error}; once that folder is deleted, --resume goes on from the one before it") from error


def _masking(training: Training | MultilevelTraining) -> dict[str, Any]:
    if isinstance(training, MultilevelTraining):
        strategy = {"strategy": MULTILEVEL, "mask_ratio": training.masking.mask_ratio}
        return strategy | asdict(training.multilevel) | {"unroll": list(training.multilevel.unroll)}
    learner = training.learner
    if learner is None:
        return asdict(training.masking)
    return {"strategy": learner.name, "mask_ratio": training.masking.mask_ratio, **asdict(learner.settings)}


def run_config(
    options: PretrainOptions,
    source: Source,
    maps: JoinedMaps | None,
    training: Training | MultilevelTraining,
    world: World,
) -> dict[str, Any]:
    """What ``config.json`` is to hold of a run."""
    resolved = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()}
    resolved["saliency"] = None if options.saliency is None else str(Path(options.saliency))  # maps/ is maps
    resolved["gate_teacher"] = None if options.gate_teacher is None else str(Path(options.gate_teacher))
    resolved["inflate"] = None if options.inflate is None else str(Path(options.inflate))
    resolved["salient_schedule"] = list(options.salient_schedule) if options.salient_schedule else None
    resolved["image_size"] = list(options.image_size)
    return {
        "options": resolved,
        "images": len(source),
        "keys_sha256": hash_pairs(source, captions=False),
        "maps": {**maps.table.metadata, "images_without_map": maps.missing} if maps else None,
        "masking": _masking(training),
        "grid": list(training.model.grid),
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "steps_per_epoch": training.steps_per_epoch,
        "steps": training.total_steps,
        "peak_learning_rate": training.settings.peak_learning_rate,
        "precision": training.precision,
        "flops_per_image": training_flops(training.model, training.masking.mask_ratio, training.settings.decode_ratio),
        "peak_flops": training.peak._asdict() if training.peak else None,
        "versions": {"saliency-mae": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "processes": world.size,
    }
