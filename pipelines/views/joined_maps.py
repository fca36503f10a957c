"""The maps of a source's images: joined by key and caption once, looked up by batch, brought onto views."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae.devices import copy_to
from mae.masks.masking import check_saliency
from pipelines.errors import UserError, user_errors
from pipelines.hub import find_maps
from pipelines.sources.source import Source
from pipelines.views.geometry import view_maps
from pipelines.views.image_views import ViewBatch
from saliency.table.table import SaliencyTable

ON_MISSING = ("error", "random")


@dataclass(frozen=True)
class JoinedMaps:
    """The maps of a source's pairs: ``rows[i]`` is the table's row for pair i, −1 where it has none."""

    table: SaliencyTable
    rows: NDArray[np.int64]

    @property
    def missing(self) -> int:
        """How many pairs have no map."""
        return int((self.rows < 0).sum())

    def on_views(self, batch: ViewBatch, grid: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
        """The mean raw saliency of every patch of every view of a batch, float32 [B, N]; 0 where there is no map.

        It is looked up here and resampled on ``device``, without waiting for it. A clip's map is that of every slot of
        a ``grid`` of (slots, rows, columns).
        """
        *slots, height, width = grid
        rows = self.rows[batch.indices]
        maps, covered = torch.from_numpy(self.table.raw_maps(rows)), torch.from_numpy(self.table.boxes(rows))
        place = torch.device(device)
        maps, covered, boxes, flips = (copy_to(tensor, place) for tensor in (maps, covered, batch.boxes, batch.flips))
        return view_maps(maps, covered, boxes, flips, (height, width)).repeat(1, math.prod(slots))


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
