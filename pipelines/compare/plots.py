"""The pictures of a comparison: means and paired differences with intervals, loss by arm, and each arm's masks."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mae.mask_learners.learner import Look, look_noise
from mae.pixels import normalise
from pipelines.compare.statistics import Mean
from pipelines.compare.unit import Unit
from pipelines.errors import UserError
from pipelines.plots import contact_sheet, grey_out, overlay, save_figure
from pipelines.pretrain.mask_learners import trained_learner
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.plain import open_training
from pipelines.pretrain.settings import settings_of
from pipelines.run_folder import RunFolder
from pipelines.sources.source import Source
from pipelines.views.clip_motion import ClipMotion
from pipelines.views.image_views import ViewBatch
from pipelines.views.joined_maps import join_maps
from pipelines.views.loaders import first_views

Panel = Mapping[str, tuple[Sequence[float], Mean]]
"""Arm → the values of its seeds, and their mean with its interval; in per cent or percentage points."""

_SHEET_IMAGES = 6
_SHEET_SEED = 0
_IMAGE, _MAP = "the image", "the map"  # with a space, which no arm's name has: `image` is an arm


def forest(path: Path, panels: Mapping[str, Panel], *, title: str, unit: str, zero: str | None = None) -> None:
    """A row an arm and a panel a protocol: a faint dot a seed, the mean, and its interval where there is one.

    ``zero`` draws a line at 0 and says what it stands for.
    """
    from matplotlib.figure import Figure

    arms = list(dict.fromkeys(arm for panel in panels.values() for arm in panel))
    size = (1.6 + 3.6 * len(panels), 1.3 + 0.36 * len(arms))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (name, panel) in zip(axes, panels.items(), strict=True):
        for row, arm in enumerate(arms):
            if arm not in panel:
                continue
            values, mean = panel[arm]
            axis.plot(values, [row] * len(values), "o", color="tab:grey", alpha=0.45, markersize=4, linewidth=0)
            axis.errorbar(mean.mean, row, xerr=mean.half_width, fmt="D", color="tab:blue", markersize=5, capsize=3)
        if zero is not None:
            axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel(unit if zero is None else f"{unit}\n0 = {zero}", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
        axis.margins(x=0.08)
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].set_ylim(len(arms) - 0.5, -0.5)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def losses(path: Path, curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> None:
    """Loss against epoch by arm, the running mean of (epochs, losses)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    for number, (arm, (epochs, values)) in enumerate(curves.items()):
        window = max(1, len(values) // 40)
        smooth = np.convolve(values, np.ones(window) / window, "valid")
        axis.plot(epochs[window - 1 :], smooth, label=arm, color=f"C{number % 10}", linestyle=("-", "--")[number > 9])
    axis.set_xlabel("epoch")
    axis.set_ylabel("loss on hidden patches")
    axis.set_title("Mean over seeds. Masks differ, so levels do not compare between arms", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9, frameon=False)
    save_figure(figure, path)


def loss_curves(units: Sequence[Unit]) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Epochs and mean losses of every arm, over the seeds that have a step logged."""
    curves = {}
    for arm in dict.fromkeys(unit.arm for unit in units):
        runs = [RunFolder(unit.pretrain.out).metrics() for unit in units if unit.arm == arm]
        steps = min(map(len, runs))
        if steps:
            epochs = np.asarray([line["epoch"] for line in runs[0][:steps]])
            curves[arm] = (epochs, np.mean([[line["loss"] for line in run[:steps]] for run in runs], axis=0))
    return curves


def mask_sheet(path: Path, units: Sequence[Unit]) -> None:
    """A contact sheet: the same images with the masks of every arm (of its first unit), half-way through training.

    All arms draw theirs from the same noise; one that learned them, as it does at the end. Of clips the middle frame is
    shown.
    Nothing is drawn where fewer than two images can be read.
    """
    first = {unit.arm: unit for unit in reversed(units)}
    seen: dict[str, list[Any]] = {}
    drawn: dict[str, list[Any]] = {}
    for arm in dict.fromkeys(unit.arm for unit in units):
        options = first[arm].pretrain
        source, batch = _sample(options, RunFolder(options.out).config())
        if len(batch.images) < 2:
            return
        pictures = batch.images if batch.images.ndim == 4 else batch.images[:, :, batch.images.shape[2] // 2]
        images = [picture.permute(1, 2, 0).numpy() for picture in pictures]
        seen.setdefault(_IMAGE, images)
        hidden, maps = _masks(options, source, batch)
        if maps is not None:
            seen.setdefault(_MAP, [overlay(image, cells) for image, cells in zip(images, maps, strict=True)])
        drawn["\n".join(textwrap.wrap(arm, 20))] = [
            grey_out(image, cells) for image, cells in zip(images, hidden, strict=True)
        ]
    contact_sheet(
        path,
        seen | drawn,
        title="What each arm hides of the same images (one draw, half-way; if learned, at the end)",
    )


def _sample(options: PretrainOptions, config: dict[str, Any]) -> tuple[Source, ViewBatch]:
    """Some images of the source, evenly spaced, seen as the run sees them but whole."""
    source = open_training(options)
    chosen = np.unique(np.linspace(0, len(source) - 1, _SHEET_IMAGES).round().astype(np.int64))
    source = source.select(chosen)
    rows, columns = config["options"]["image_size"] * (2 if len(config["options"]["image_size"]) == 1 else 1)
    settings = settings_of(options)
    moving = "motion" in settings.strategy.needs
    return source, first_views(source, (rows, columns), len(source), settings.clip, moving=moving)


def _masks(
    options: PretrainOptions, source: Source, batch: ViewBatch
) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
    """What an arm hides, bool [B, h, w], and the maps [B, h, w] that it goes by, if any; of clips the middle slot's."""
    grid = tuple(RunFolder(options.out).config()["grid"])
    maps = None
    if options.strategy is not None and "motion" in options.strategy.needs:
        maps = ClipMotion(options.masking_name).on_views(batch, grid)
    elif options.saliency is not None:
        maps = join_maps(options.saliency, source, on_missing="random").on_views(batch, grid)
    generator = torch.Generator().manual_seed(_SHEET_SEED)
    try:
        if learner := trained_learner(options):
            noise = look_noise(generator, len(batch.images), torch.device("cpu"))
            images = normalise(batch.images)
            mask = learner.draw(Look(images, grid, options.hidden_share, noise, maps, progress=1.0))
        else:
            masking = settings_of(options).masking
            mask = masking(len(batch.images), grid, generator=generator, saliency=maps, progress=0.5)
    except ValueError as error:
        raise UserError(f"the masks of {options.out} can't be drawn: {error}") from error
    shape = (len(batch.images), -1, *grid[-2:])
    hidden, seen = (None if each is None else each.cpu().reshape(shape).numpy() for each in (mask.hidden, maps))
    assert hidden is not None
    middle = hidden.shape[1] // 2
    return hidden[:, middle], None if seen is None else seen[:, middle]
