"""The maps of a source's images: joined by key and caption once, looked up by batch, brought onto views."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae.devices import copy_to
from mae.masks.masking import check_saliency
from pipelines.errors import UserError, user_errors
from pipelines.hub import find_maps
from pipelines.sources.source import Source
from pipelines.sources.video.slots import slots_at
from pipelines.views.geometry import view_maps
from pipelines.views.image_views import ViewBatch
from saliency.maps import FULL
from saliency.table.table import SaliencyTable

ON_MISSING = ("error", "random")


class ViewMaps(Protocol):
    """What gives the maps of views: those of a table, or what moves in clips."""

    @property
    def moving(self) -> bool:
        """Whether clips have to be read with the motion of their frames."""

    def on_views(self, batch: ViewBatch, grid: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
        """The saliency of every patch of every view of a batch, float32 [B, N]."""


@dataclass(frozen=True)
class JoinedMaps:
    """The maps of a source's pairs: ``rows[i]`` is the table's row for pair i, −1 where it has none."""

    moving = False

    table: SaliencyTable
    rows: NDArray[np.int64]

    @property
    def missing(self) -> int:
        """How many pairs have no map."""
        return int((self.rows < 0).sum())

    def on_views(self, batch: ViewBatch, grid: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
        """The mean raw saliency of every patch of every view of a batch, float32 [B, N]; 0 where there is no map.

        It is looked up here and resampled on ``device``, without waiting for it. Of clips ``grid`` is (slots, rows,
        columns): a slot has the mean of the maps of its frames' times, or the one map that a clip has.
        """
        *slots, height, width = grid
        rows, place = self.rows[batch.indices], torch.device(device)
        covered = torch.from_numpy(self.table.boxes(rows))
        if slots and self.table.slots > 1 and batch.moments is not None:
            stored = self.table.raw_slot_maps(rows)
            of_frames = stored[np.arange(len(rows))[:, None], slots_at(batch.moments, self.table.slots)]
            return slots_on_views(torch.from_numpy(of_frames), batch, grid, place, covered)
        maps = torch.from_numpy(self.table.raw_maps(rows))
        maps, covered, boxes, flips = (copy_to(tensor, place) for tensor in (maps, covered, batch.boxes, batch.flips))
        return view_maps(maps, covered, boxes, flips, (height, width)).repeat(1, math.prod(slots))


def slots_on_views(
    maps: Tensor, batch: ViewBatch, grid: tuple[int, ...], device: torch.device, covered: Tensor | None = None
) -> Tensor:
    """Maps of the frames of clips [B, T, G, G] on the views of a batch, float32 [B, N]: of each slot its frames' mean.

    ``grid`` is (slots, rows, columns); ``covered`` [B, 4] what the maps cover, by default all of the frames.
    """
    slots, *image_grid = grid
    count, frames, *cells = maps.shape
    means = maps.reshape(count, slots, frames // slots, *cells).mean(2)
    covered = torch.tensor([FULL]).expand(count, -1) if covered is None else covered
    means, *rest = (copy_to(tensor, device) for tensor in (means, covered, batch.boxes, batch.flips))
    covered, boxes, flips = (tensor.repeat_interleave(slots, dim=0) for tensor in rest)
    seen = view_maps(means.flatten(0, 1), covered, boxes, flips, (image_grid[0], image_grid[1]))
    return seen.view(count, -1)


def join_maps(place: Path | str, source: Source, *, on_missing: str) -> JoinedMaps:
    """The maps of every pair of the source, from a maps folder or the id of a published table on the Hub.

    Raises UserError, naming the first five keys, if pairs have no map and ``on_missing`` is ``error``; with ``random``
    their map is flat, which every strategy masks at random. No match at all is an error in both cases.
    """
    folder = find_maps(place)
    with user_errors():
        table = SaliencyTable(folder)
        check_saliency(torch.from_numpy(table.strengths))  # once here: a training step could not look without waiting
    rows = table.join(source.keys, source.captions)
    missing = np.flatnonzero(rows < 0)
    if len(missing) == len(source):
        theirs, ours = table.keys[0].as_py() if len(table) else None, source.keys[0].as_py()
        raise UserError(
            f"no image of {source.name} has a map in {place}: its first key is {ours!r}, the maps' is {theirs!r}"
            f"{_other_captions(table, source, missing)}"
        )
    if len(missing) and on_missing == "error":
        keys = ", ".join(source.keys.take(missing[:1000]).unique()[:5].to_pylist())
        raise UserError(
            f"{len(missing)} of {len(source)} images have no map in {place}, first: {keys}"
            f"{_other_captions(table, source, missing)}; build the missing maps, or mask these images at random: "
            "--on-missing random"
        )
    return JoinedMaps(table, rows)


def _other_captions(table: SaliencyTable, source: Source, missing: NDArray[np.int64]) -> str:
    """A hint for when the keys are known and only the captions differ."""
    known = table.join(source.keys.take(missing[:1000])) >= 0
    return " (their keys have maps of other captions: check --captions and --caption-column)" if known.any() else ""
