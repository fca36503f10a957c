"""``compare``: arms × seeds of pretraining that differ in their masks alone, judged, with what can be said of them.

Everything is checked before anything runs. Each run is an ordinary run folder under ``OUT/runs/ARM/seed-S``; what is
finished is not run again, what was stopped goes on, and an arm that fails is reported while the others go on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipelines.compare.comparison import Comparison, summarise
from pipelines.compare.jobs import cores, outcomes
from pipelines.compare.plan import ComparePlan
from pipelines.compare.report import write_report
from pipelines.compare.unit import FINISHED, NEW, Unit, UnitOutcome, attempt, state_of, units_of
from pipelines.errors import UserError, user_errors
from pipelines.estimates import shown_time
from pipelines.evaluate.data import open_test
from pipelines.evaluate.protocol import load
from pipelines.evaluate.table import PROTOCOLS
from pipelines.outputs import check_apart, one_writer
from pipelines.pretrain.model import new_model
from pipelines.pretrain.plain import open_training
from pipelines.pretrain.settings import settings_of
from pipelines.run_folder import RunFolder
from pipelines.sources.source import Source, hash_pairs
from pipelines.views.joined_maps import join_maps
from saliency.files import remove_leftovers, write_text_atomically
from saliency.shown import one_line


def compare(
    plan: ComparePlan,
    out: Path,
    *,
    jobs: int = 1,
    device: str | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> Comparison:
    """Run what is not finished yet, ``jobs`` at a time, and write the report; UserError for a mistake in the plan.

    ``device`` and ``workers`` (of a run) stand in for the plan's. What failed is in the result's ``failed``, and with
    a bug its traceback in ``OUT/failed``.
    """
    units = _ready(plan, out, jobs, device, workers)
    with one_writer(out):
        return _compare(plan, units, out, jobs, quiet)


def _compare(plan: ComparePlan, units: list[Unit], out: Path, jobs: int, quiet: bool) -> Comparison:
    remove_leftovers(out)
    states = check(units)
    todo = [unit for unit, state in zip(units, states, strict=True) if state != FINISHED]
    found = [attempt(unit) for unit, state in zip(units, states, strict=True) if state == FINISHED]
    if found and not quiet:
        print(f"{len(found)} of {len(units)} runs are finished already", flush=True)
    at_once, spent = min(jobs, max(1, len(todo))), 0.0
    for done, outcome in enumerate(outcomes(todo, at_once), 1):
        found.append(outcome)
        _keep_trace(outcome, out)
        if not quiet:
            spent += outcome.seconds
            print(_line(outcome, done, len(todo), spent / done / at_once), flush=True)
    comparison = summarise(plan, found)
    write_report(comparison, out, device=units[0].pretrain.device, jobs=jobs)
    return comparison


def dry_run(
    plan: ComparePlan, out: Path, *, jobs: int = 1, device: str | None = None, workers: int | None = None
) -> list[tuple[Unit, str]]:
    """What :func:`compare` would find or do: every unit with its state. Checks as much, writes nothing."""
    units = _ready(plan, out, jobs, device, workers)
    return list(zip(units, check(units), strict=True))


def check(units: Sequence[Unit]) -> list[str]:
    """The state of every unit. UserError if one could not run: options, images, maps, labels, an earlier run's."""
    _check_clips(units)
    states = [state_of(unit) for unit in units]
    sources: dict[Any, Source] = {}
    for unit, state in zip(units, states, strict=True):
        options = unit.pretrain
        place = (options.source, options.limit, options.split)
        if place not in sources:
            sources[place] = open_training(options)
        if state != NEW:
            _check_same_images(unit, sources[place])
    for unit in {(unit.arm, unit.limit): unit for unit in units}.values():
        options = unit.pretrain
        _check_arm(unit, sources[options.source, options.limit, options.split])
    _check_labels(units[0])
    _check_maps(units)
    return states


def _ready(plan: ComparePlan, out: Path, jobs: int, device: str | None, workers: int | None) -> list[Unit]:
    """The units with the device and workers that they will run with."""
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; it must be at least 1")
    own = [options.get(name) for options in plan.arms.values() for name in ("source", "saliency")]
    check_apart(out, [plan.source, plan.saliency, *own])
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    if any(not path.name.startswith(".") for path in out.glob("*")) and not (out / "runs").is_dir():
        raise UserError(f"--out {out} is not empty and holds no comparison; give an empty folder")
    decoding = max(0, min(16, cores() // jobs - 1))  # a run that has one core decodes in its own process
    common = {"device": device or ("cuda" if torch.cuda.is_available() else "cpu"), "workers": decoding}
    given = {"device": device, "workers": workers}
    given = {name: value for name, value in given.items() if value is not None}
    placed = replace(plan, pretrain=common | plan.pretrain | given, evaluate=common | plan.evaluate | given)
    return units_of(placed, out, _images(placed) if plan.limits else {})


def _images(plan: ComparePlan) -> dict[str, int]:
    """How many images a run of each arm learns from. UserError."""
    with user_errors():
        asked = {arm: plan.pretrain_options(arm, plan.seeds[0], Path("run")) for arm in plan.arms}
    sources = {options.source: options for options in asked.values()}
    counts = {source: len(open_training(options)) for source, options in sources.items()}
    return {arm: counts[options.source] for arm, options in asked.items()}


def _check_clips(units: Sequence[Unit]) -> None:
    """UserError if arms differ in what they see, images or clips, or are judged by what such models can't be."""
    first = units[0]
    for unit in units:
        if unit.pretrain.frames != first.pretrain.frames:
            raise UserError(
                f"arms: {first.arm} and {unit.arm} differ in frames ({first.pretrain.frames}, {unit.pretrain.frames}): "
                "all must see the same; give frames under pretrain"
            )
        differs = unit.pretrain.frame_stride != first.pretrain.frame_stride
        if differs and unit.pretrain.frames is not None and unit.evaluate.frame_stride is None:
            raise UserError(
                f"arms: {first.arm} and {unit.arm} differ in frame_stride: say which one they are judged with "
                "(evaluate: frame_stride)"
            )
    try:
        first.evaluate.check_model("every arm", video=first.pretrain.frames is not None)
    except ValueError as error:
        raise UserError(f"evaluate: {error}") from error


def _check_same_images(unit: Unit, source: Source) -> None:
    config = RunFolder(unit.pretrain.out).config()
    if config["keys_sha256"] != hash_pairs(source, captions=False):
        raise UserError(f"{unit.name}: the images are not the ones that {unit.pretrain.out} was started with")


def _check_arm(unit: Unit, source: Source) -> None:
    """UserError if the model, the masks on its grid, the maps or the number of images do not fit."""
    options = unit.pretrain
    try:
        with user_errors():
            settings = settings_of(options)
            with torch.device("meta" if options.inflate is None else "cpu"):
                model = new_model(options)
            masking, training = settings.masking, settings.training
            saliency = torch.ones(2, math.prod(model.grid)) if masking.needs_saliency else None
            masking(2, model.grid, generator=torch.Generator().manual_seed(0), saliency=saliency)
        if len(source) < training.batch_size * training.accumulate:
            what = "images" if options.frames is None else "videos"
            raise UserError(f"{options.source} has {len(source)} {what}, fewer than one step takes")
        if options.saliency is not None:
            join_maps(options.saliency, source, on_missing=options.on_missing)
    except UserError as error:
        raise UserError(f"arms: {unit.arm}: {error}") from error


def _check_labels(unit: Unit) -> None:
    """UserError if what the runs are to be judged on can't be opened, or has not the labels or masks that it takes."""
    options, videos = unit.evaluate, unit.pretrain.frames is not None
    opened = [open_test(replace(options, test=None), videos=videos)]
    if options.test is not None:
        opened.append(open_test(options, videos=videos))
    for source in opened:
        if source.labels is None and any(PROTOCOLS[name].labels for name in options.protocols):
            raise UserError(f"evaluate: {source.name} has no labels; give a source that has: evaluate: source: …")
    if not opened[-1].has_masks and any(PROTOCOLS[name].masks for name in options.protocols):
        raise UserError(f"evaluate: {opened[-1].name} has no true masks; give a source that has: evaluate: source: …")


def _check_maps(units: Sequence[Unit]) -> None:
    """UserError if an arm is to be trained with maps that what it is evaluated by must be independent of."""
    options = units[0].evaluate
    arms = {unit.pretrain.saliency: f"arm {unit.arm}" for unit in units if unit.pretrain.saliency}
    for protocol in map(load, options.protocols):
        protocol.check_maps(options, {arm: maps for maps, arm in arms.items()})


def _line(outcome: UnitOutcome, done: int, total: int, each: float) -> str:
    """How a unit ended, what it took, and how long the rest may take at ``each`` seconds."""
    if outcome.record:
        row = outcome.record["result"]["rows"][0]
        figures = ", ".join(f"{name} {100 * row[name]:.1f} %" for name in outcome.unit.evaluate.protocols)
        text = f"{outcome.unit.name}: {figures}"
    else:
        text = f"{outcome.unit.name}: FAILED: {one_line(outcome.failed)}"
    left = f", about {shown_time(each * (total - done))} left" if done < total else ""
    return f"[{done}/{total}] {text} ({shown_time(outcome.seconds)}{left})"


def _keep_trace(outcome: UnitOutcome, out: Path) -> None:
    place = out / "failed" / f"{outcome.unit.arm}-seed-{outcome.unit.seed}.txt"
    if outcome.trace:
        write_text_atomically(place, outcome.trace)
    else:
        place.unlink(missing_ok=True)
