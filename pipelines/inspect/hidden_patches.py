"""Which patches a pretraining would hide by these maps, and how much of the maps and of true objects they hold.

Nothing is trained and no image is decoded. Crops and flips are those of ``pretrain`` in its first epochs
(:func:`pipelines.views.image_views.training_view`); the maps are laid on them, and the masks drawn, by the functions
that a step calls. Where every pair of the source is looked at, the masks are those of a training with the same seed.
True masks are averaged by area over the same patches.

Shapes: n pairs, V views of each, N patches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae.masks.masking import Masking, check_saliency, salient_set
from mae.masks.strategies import SALIENT_OF
from mae.randomness import seed_of
from pipelines.errors import user_errors
from pipelines.inspect.hidden_verdict import MAP_FIGURES, OBJECT_FIGURES, RANDOM, WHOLE, HiddenPatches, Spread
from pipelines.inspect.map_scores import Skipped, estimates, evenly_spaced, joined_pairs, true_masks
from pipelines.inspect.map_verdict import Estimate
from pipelines.inspect.options import InspectOptions
from pipelines.pretrain.model import new_model
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.settings import settings_of
from pipelines.progress import progress_bar
from pipelines.sources.source import Source
from pipelines.views.geometry import stack_views, view_maps
from pipelines.views.image_views import EpochBatches, ViewBatch, training_view
from pipelines.views.joined_maps import JoinedMaps
from saliency.maps import FULL
from saliency.table.table import SaliencyTable

CONTROLS = (RANDOM, "block", "grid", "center")
"""Masks that see no map, next to which the readings stand."""

_OPTIONS = (
    *("mask_ratio", "salient_ratio", "salient_pick", "salient_mass", "salient_cap", "temperature"),
    *("mask_granularity", "image_size", "patch_size", "seed"),
)
"""Those of ``inspect`` that ``pretrain`` has by the same name."""

Shares = dict[str, NDArray[np.float64]]
"""Figures [n, V] by their names, NaN where a view has none."""


@dataclass(frozen=True)
class Masks:
    """The masks to look at: of each row's name the settings, on a grid of patches."""

    rows: dict[str, Masking]
    grid: tuple[int, int]
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Sample:
    """The pairs that are looked at, and their views.

    ``pairs`` int [n]: their numbers in the source, or in the table where no source is at hand. ``rows`` int [n]: their
    rows of the table. ``images`` int [n]: which pairs share one. ``boxes`` float32 [n, V, 4] and ``flips`` bool [n, V]:
    the views.
    """

    pairs: NDArray[np.int64]
    rows: NDArray[np.int64]
    images: NDArray[np.int64]
    boxes: Tensor
    flips: Tensor


@dataclass
class Drawn:
    """The masks of the first view of some pairs, for pictures: ``positions`` int [k] in the sample.

    ``saliency`` float32 [k, h, w]; ``hidden`` and ``forced`` bool [k, h, w] by row, the latter where a map forces any.
    """

    positions: NDArray[np.int64]
    saliency: NDArray[np.float32]
    hidden: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    forced: dict[str, NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """What was found, and what pictures are drawn of."""

    found: HiddenPatches
    sample: Sample
    drawn: Drawn


def look_at_masks(
    table: SaliencyTable, source: Source | None, options: InspectOptions, *, clips: bool = False, quiet: bool = True
) -> Look:
    """Draw the masks of at most ``options.limit`` pairs, evenly spaced, and measure what they hide. UserError.

    ``clips``: the pairs are videos, whose usual mask ratio is another one; their masks are the same in every time slot.
    """
    with user_errors():
        masks = asked_masks(options, clips=clips)
        check_saliency(torch.from_numpy(table.strengths))
        sample = take_sample(table, source, options)
    skipped = Skipped()
    areas = None
    if source is not None and source.has_masks:
        areas = object_areas(source, sample, masks.grid, skipped, quiet=quiet)
    shown = evenly_spaced(np.arange(len(sample.pairs)), options.gallery_size if options.gallery else 0)
    shares, sets, drawn = measure(table, sample, masks, areas, shown)
    return Look(_summary(shares, sets, sample, masks, areas, skipped), sample, drawn)


def asked_masks(options: InspectOptions, *, clips: bool = False) -> Masks:
    """The masks that ``pretrain`` would draw with the same options, and its controls. ValueError."""
    given = {name: getattr(options, name) for name in _OPTIONS}
    asked = PretrainOptions(options.what, Path(), saliency=options.what, frames=2 if clips else None, **given)
    grid = new_model(replace(asked, model="mini", frames=None)).grid  # every size of model has the same
    readings = (options.salient_of,) if options.salient_of else SALIENT_OF
    wanted = {name: ("salient", name) for name in readings} | {name: (name, readings[0]) for name in CONTROLS}
    rows = {
        name: settings_of(replace(asked, masking=strategy, salient_of=of)).masking
        for name, (strategy, of) in wanted.items()
    }
    for masking in rows.values():
        masking.hidden(grid)  # which are refused now where they can't be
    return Masks(rows, (grid[0], grid[1]), asked.batch_size, asked.seed)


def take_sample(table: SaliencyTable, source: Source | None, options: InspectOptions) -> Sample:
    """At most ``options.limit`` pairs that have a map, with their views. UserError, ValueError."""
    pairs = rows = np.arange(len(table))
    if source is not None:
        pairs, rows = joined_pairs(table, source)
    pairs = evenly_spaced(pairs, options.limit)
    sizes = table.image_sizes()[rows[pairs]]
    views = [
        stack_views([training_view(options.seed, epoch, pair, *size) for epoch in range(options.views)])
        for pair, size in zip(pairs.tolist(), sizes.tolist(), strict=True)
    ]
    boxes, flips = ([view[part] for view in views] for part in (0, 1))
    images = pairs if source is None or source.rows is None else source.rows[pairs]
    return Sample(
        pairs,
        rows[pairs],
        images,
        torch.stack(boxes) if boxes else torch.zeros(0, options.views, 4),
        torch.stack(flips) if flips else torch.zeros(0, options.views, dtype=torch.bool),
    )


def object_areas(
    source: Source, sample: Sample, grid: tuple[int, int], skipped: Skipped, *, quiet: bool = True
) -> Tensor:
    """The share of each patch of each view that the true object covers, float32 [n, V, N]; NaN without a true mask.

    Masks are read one at a time; those that can't be read go to ``skipped``.
    """
    count, views = sample.flips.shape
    areas = torch.full((count, views, math.prod(grid)), math.nan)
    whole = torch.tensor([FULL]).expand(views, 4)
    with progress_bar(total=count, unit="pairs", name="objects", part=True, quiet=quiet) as bar:
        for position, mask in enumerate(true_masks(source, sample.pairs, skipped)):
            if mask is not None and mask.any():
                maps = torch.from_numpy(mask).float().expand(views, *mask.shape)
                areas[position] = view_maps(maps, whole, sample.boxes[position], sample.flips[position], grid)
            bar.update()
    return areas


def measure(
    table: SaliencyTable, sample: Sample, masks: Masks, areas: Tensor | None, shown: NDArray[np.int64]
) -> tuple[dict[str, Shares], NDArray[np.float64], Drawn]:
    """What each row's masks hide of every view; the share of patches in the salient set, [n, V]; and pictures.

    ``shown`` int [k]: the positions in the sample whose masks of the first view are kept.
    """
    shape = tuple(sample.flips.shape)
    shares: dict[str, Shares] = {row: {} for row in masks.rows}
    sets = np.full(shape, math.nan)
    drawn = Drawn(shown, np.zeros((len(shown), *masks.grid), np.float32))
    for epoch, chosen, seed in _batches(len(sample.pairs), shape[1], masks):
        saliency = _saliency(table, sample, epoch, chosen, masks.grid)
        area = None if areas is None else areas[chosen, epoch]
        mass = next(iter(masks.rows.values())).salient_mass
        sets[chosen, epoch] = salient_set(saliency, torch.zeros_like(saliency), mass).double().mean(1).numpy()
        kept = np.isin(shown, chosen) & (epoch == 0)
        places = [int(np.flatnonzero(chosen == position)[0]) for position in shown[kept]]
        drawn.saliency[kept] = saliency[places].view(-1, *masks.grid).numpy()
        for row, masking in masks.rows.items():
            generator = torch.Generator().manual_seed(seed)  # all rows draw with the noise of the same step
            draw = masking.draw(len(chosen), masks.grid, generator=generator, saliency=saliency)
            hidden = masking.mask(draw).hidden
            forced = masking.forced(draw) if masking.strategy == "salient" else None
            for name, values in _figures(saliency, area, hidden, forced).items():
                shares[row].setdefault(name, np.full(shape, math.nan))[chosen, epoch] = values.numpy()
            _keep(drawn.hidden, row, hidden[places], kept, masks.grid)
            if forced is not None:
                _keep(drawn.forced, row, forced[places], kept, masks.grid)
    return shares, sets, drawn


def _batches(count: int, views: int, masks: Masks) -> Iterator[tuple[int, NDArray[np.int64], int]]:
    """The batches of a training on the sample: epoch, positions [B], seed. The short end of an epoch is not dropped."""
    size, whole = masks.batch_size, count // masks.batch_size
    every = math.ceil(count / size)
    for number, batch in enumerate(EpochBatches(count, size, every, views, seed=masks.seed) if count else ()):
        epoch, place = divmod(number, every)
        # The noise of a step of training, which has no step for the short end.
        numbers = (epoch * whole + place, 0) if place < whole else (epoch, place, 0)
        yield epoch, np.asarray([position for _, position in batch], np.int64), seed_of(masks.seed, *numbers)


def _saliency(
    table: SaliencyTable, sample: Sample, epoch: int, chosen: NDArray[np.int64], grid: tuple[int, int]
) -> Tensor:
    """The saliency of every patch of a batch, float32 [B, N], as a training step has it."""
    none = torch.empty(len(chosen), 3, 0, 0, dtype=torch.uint8)
    batch = ViewBatch(
        none, sample.boxes[chosen, epoch], sample.flips[chosen, epoch], chosen, [], np.arange(len(chosen))
    )
    return JoinedMaps(table, sample.rows).on_views(batch, grid)


def _figures(saliency: Tensor, area: Tensor | None, hidden: Tensor, forced: Tensor | None) -> dict[str, Tensor]:
    """What masks ``hidden`` [B, N], of which ``forced`` are hidden because of a map, hide of each view: [B] by name."""
    found = {"map": _share(saliency, hidden)}
    if forced is not None:
        found |= {"map_forced": _share(saliency, forced), "forced": forced.double().sum(1)}
    if area is not None:
        inside = _share(area, hidden)
        found |= {"object": inside, "whole_object": torch.where(inside.isnan(), inside, (inside >= WHOLE).double())}
    return found


def _share(values: Tensor, chosen: Tensor) -> Tensor:
    """The share of each row's sum of ``values`` [B, N] that the ``chosen`` patches hold, float64 [B]; NaN for 0."""
    wide = values.double()
    return (wide * chosen).sum(1) / wide.sum(1)


def _keep(
    into: dict[str, NDArray[np.bool_]], row: str, found: Tensor, kept: NDArray[np.bool_], grid: tuple[int, int]
) -> None:
    pictures = into.setdefault(row, np.zeros((len(kept), *grid), np.bool_))
    pictures[kept] = found.view(-1, *grid).numpy()


def _summary(
    shares: dict[str, Shares],
    sets: NDArray[np.float64],
    sample: Sample,
    masks: Masks,
    areas: Tensor | None,
    skipped: Skipped,
) -> HiddenPatches:
    """What was found, over all views."""
    figures, differences = _estimated(shares, sample, masks.seed)
    settings, empty = masks.rows[RANDOM], np.isnan(shares[RANDOM]["map"])
    judged = np.zeros(sets.shape, bool) if areas is None else ~areas[..., 0].isnan().numpy()
    without = judged & np.isnan(shares[RANDOM]["object"]) if areas is not None else judged
    asked = ("mask_ratio", "mask_granularity", *_OPTIONS[1:6])
    return HiddenPatches(
        pairs=len(sample.pairs),
        images=len(np.unique(sample.images)),
        views=sets.shape[1],
        grid=masks.grid,
        hidden=settings.hidden(masks.grid),
        asked={name: getattr(settings, name) for name in asked} | {"seed": masks.seed},
        figures=figures,
        differences=differences,
        spread={row: Spread.of(found["map"]) for row, found in shares.items()},
        salient_set=Spread.of(np.where(empty, math.nan, sets)),
        forced={row: Spread.of(found["forced"]) for row, found in shares.items() if "forced" in found},
        views_without_map=int(empty.sum()),
        views_judged=int(judged.sum()),
        views_without_object=int(without.sum()),
        skipped=tuple(skipped),
    )


Estimates = dict[str, dict[str, Estimate]]


def _estimated(shares: dict[str, Shares], sample: Sample, seed: int) -> tuple[Estimates, Estimates]:
    """Means over the views with their intervals over the images: of every row, and of its difference from random."""
    images = np.repeat(sample.images[:, None], sample.flips.shape[1], axis=1)
    figures: Estimates = {row: {} for row in shares}
    differences: Estimates = {row: {} for row in shares if row != RANDOM}
    for names in (MAP_FIGURES, OBJECT_FIGURES):
        there = ~np.isnan(shares[RANDOM].get(names[0], np.full(images.shape, math.nan)))
        if not there.any():
            continue
        columns = {(row, name): found[name][there] for row, found in shares.items() for name in names if name in found}
        apart = {
            (row, name): column - columns[RANDOM, name]
            for (row, name), column in columns.items()
            if row != RANDOM and (RANDOM, name) in columns
        }
        for into, values in ((figures, columns), (differences, apart)):
            for (row, name), estimate in estimates(values, images[there], seed).items():
                into[row][name] = estimate
    return figures, differences
