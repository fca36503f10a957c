"""What gives the maps of a source's pairs, and how a map at any resolution comes onto the grid.

A reader matches its maps to the pairs when it is opened, so that what fits nothing is known before work starts. It
raises UserError for what is wrong with the whole, and BadImage, while it is called, for what costs one pair.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.import_maps.keys import Matches
from pipelines.sources.images import MAX_PIXELS, BadImage
from saliency.files import open_regular
from saliency.maps import FULL, Box
from saliency.resample import area_resample


class MapOfPair(Protocol):
    """Gives the raw map of a pair: float32 [G, G] ≥ 0, and the part of the image that it covers."""

    def __call__(self, pair: int, size: tuple[int, int], grid: int) -> tuple[NDArray[np.float32], Box]:
        """``size`` is the upright image's (width, height). Raises BadImage or OSError for what costs this pair."""


class Asked(Protocol):
    """What readers ask of the options; see ``pipelines.import_maps.options``."""

    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def maps_from(self) -> str: ...  # noqa: D102
    @property
    def place(self) -> Path: ...  # noqa: D102
    @property
    def map_column(self) -> str | None: ...  # noqa: D102
    @property
    def key_column(self) -> str | None: ...  # noqa: D102
    @property
    def array(self) -> str | None: ...  # noqa: D102
    @property
    def units(self) -> str | None: ...  # noqa: D102
    @property
    def sigma(self) -> float: ...  # noqa: D102
    @property
    def off_picture(self) -> str: ...  # noqa: D102
    @property
    def allow_outside(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Reader:
    """The maps that were given for a source."""

    read: MapOfPair
    facts: dict[str, Any] = field(default_factory=dict)
    """What decides the maps, beside the pairs and the grid; they become settings of the table."""
    warnings: list[str] = field(default_factory=list)
    unmatched: Sequence[str] = ()
    """The names of maps that no pair has."""


def on_grid(values: NDArray[Any], grid: int) -> NDArray[np.float32]:
    """The mean of a map [H, W] of any size over each cell, float32 [G, G]; BadImage for values that no map has."""
    if values.ndim != 2 or not values.size:
        raise BadImage(f"its map has the shape {shown_shape(values.shape)}, and not height × width")
    if values.size > MAX_PIXELS:
        raise BadImage(f"its map is too large: {shown_shape(values.shape)}")
    with np.errstate(over="ignore"):
        raw = np.array(values, np.float32, order="C")  # a copy, for what a file holds can't be written to
    if not np.isfinite(raw).all():
        raise BadImage("its map holds a value that is not finite")
    if raw.min() < 0:
        raise BadImage(f"its map holds a negative value ({raw.min():g})")
    if raw.shape == (grid, grid):
        return raw
    means = area_resample(torch.from_numpy(raw)[None], (grid, grid))[0].numpy()
    return np.asarray(means.clip(raw.min(), raw.max()))  # which a mean passes by rounding alone


def whole(values: NDArray[Any], grid: int) -> tuple[NDArray[np.float32], Box]:
    """:func:`on_grid` of a map that covers the whole image."""
    return on_grid(values, grid), FULL


def check_size(mask: NDArray[Any], size: tuple[int, int]) -> None:
    """BadImage if a mask [H, W] has not its image's ``size`` (width, height)."""
    height, width = mask.shape
    if (width, height) != size:
        raise BadImage(f"its mask has {width}×{height} pixels, and its image {size[0]}×{size[1]}")


def shown_shape(shape: Iterable[int]) -> str:
    """``480×640``, as arrays are called."""
    return "×".join(map(str, shape)) or "of a single number"


def found_map(matches: Matches, pair: int) -> int:
    """The number of a pair's map; BadImage if it has none."""
    number = int(matches.rows[pair])
    if number < 0:
        raise BadImage("no map has its key")
    return number


def hash_file(path: Path) -> str:
    """sha256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path, names: Sequence[str]) -> str:
    """sha256 of the names and contents of files in a folder, in order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(os.fsencode(name) + f"\0{hash_file(folder / name)}\n".encode())
    return digest.hexdigest()
