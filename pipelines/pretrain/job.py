"""A pretraining that is ready to begin or to go on: every option checked, everything opened, the checkpoint loaded."""

from __future__ import annotations

import importlib
import platform
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from mae.distributed import World
from mae.mask_learners.custom import file_and_name
from mae.training.any_training import Trained, training_facts
from mae.training.checkpoints import load_training
from pipelines.commandline.effects import idle_options
from pipelines.errors import UserError, user_errors
from pipelines.outputs import check_apart, one_writer
from pipelines.pretrain.model import new_model
from pipelines.pretrain.options import FREE_ON_RESUME, PretrainOptions, defaults_before
from pipelines.pretrain.processes import agreed, check_processes, in_turn, newest_of_all
from pipelines.pretrain.record.trackers import check_trackers
from pipelines.pretrain.settings import PretrainSettings, settings_of, settle_levels
from pipelines.pretrain.task import Task, TaskModule
from pipelines.run_folder import RunFolder
from pipelines.sources.source import hash_pairs
from pipelines.views.joined_maps import JoinedMaps
from saliency import __version__
from saliency.files import write_text_atomically


@dataclass(frozen=True)
class PretrainJob:
    """What a pretraining works with."""

    options: PretrainOptions
    settings: PretrainSettings
    task: Task
    run: RunFolder
    config: dict[str, Any]
    """What ``config.json`` holds of a run that begins."""


def open_pretraining(options: PretrainOptions, world: World, stack: ExitStack) -> PretrainJob:
    """The job as it was after its newest checkpoint, its folder ready to go on; all processes call this. UserError.

    While ``stack`` is open, no other run writes to the folder.
    """
    with agreed(world), user_errors():
        check_apart(options.out, [options.source, options.saliency])
        check_trackers(options.track)
        check_processes(options, world)
        options = settle_levels(options)
        settings = settings_of(options)
        torch.manual_seed(options.seed)
        model = new_model(options)
        if settings.resolutions:
            settings.resolutions.check(model.image_size, model.patch_size)
    kind = _task_module(settings)
    data = in_turn(world, lambda: kind.open_data(options, settings))
    with agreed(world), user_errors():
        task = kind.new_task(options, settings, data, model, world.device(options.device), world)
    run = RunFolder(options.out, write=world.is_main)
    with agreed(world):
        if world.is_main:
            stack.enter_context(one_writer(options.out))
        newest = newest_of_all(options.out, world)
    config = run_config(options, settings, task, world)
    with agreed(world):
        resume = options.resume or world.restarts > 0  # torchrun repeats the command as it was
        free = FREE_ON_RESUME.union(name for name, _ in idle_options(options))
        run.begin(config, resume=resume, free=free, defaults=defaults_before())
        if newest:
            load_newest(newest, task.training)
        if world.is_main and options.masks is not None:
            keep_copy(options.masks, options.out)
    run.rewind(task.training.step)
    return PretrainJob(options, settings, task, run, config)


def keep_copy(masks: str, out: Path) -> None:
    """Put the file of the user's scores into the run folder, so that the run can be repeated. ValueError."""
    path = file_and_name(masks)[0]
    copy = out / "masks" / path.name
    if copy.resolve() != path.resolve():
        copy.parent.mkdir(exist_ok=True)
        write_text_atomically(copy, path.read_text("utf-8"))


def load_newest(checkpoint: Path, training: Trained) -> None:
    """Put a checkpoint into the training; UserError if it is damaged or does not fit."""
    try:
        load_training(checkpoint, training)
    except ValueError as error:
        raise UserError(f"{error}; once that folder is deleted, --resume continues from the one before it") from error


def run_config(options: PretrainOptions, settings: PretrainSettings, task: Task, world: World) -> dict[str, Any]:
    """What ``config.json`` is to hold of a run."""
    maps = task.maps
    return {
        "options": options.recorded(),
        "images": len(task.source),
        "keys_sha256": hash_pairs(task.source, captions=False),
        "maps": {**maps.table.metadata, "images_without_map": maps.missing} if isinstance(maps, JoinedMaps) else None,
        "masking": _recorded_masking(settings),
        **training_facts(task.training),
        "versions": {"saliency-mae": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "processes": world.size,
    } | task.facts()


def _recorded_masking(settings: PretrainSettings) -> dict[str, Any]:
    if settings.learner is None:
        return asdict(settings.masking)
    own = {name: getattr(settings.masking, name) for name in ("mask_ratio", "mask_granularity")}
    return {"strategy": settings.strategy.name} | own | asdict(settings.learner)


def _task_module(settings: PretrainSettings) -> TaskModule:
    name = "multilevel.task" if settings.strategy.levels else "plain"
    return cast(TaskModule, importlib.import_module(f"pipelines.pretrain.{name}"))
