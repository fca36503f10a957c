"""A finished maps folder, opened to be looked into row by row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.api.heatmap import Heatmap
from pipelines.errors import user_errors
from pipelines.hub import find_maps
from saliency.quality import as_box
from saliency.table.table import SaliencyTable

_SHOWN = 3  # keys or captions that an error names


class Maps:
    """The rows of a saliency table: ``maps[key]``, ``maps[key, caption]``, ``maps[0]``, ``len``, iteration.

    Rows are :class:`pipelines.api.heatmap.Heatmap`, whose values are those that were stored (to within 1/510 of the
    map's range). A look-up reads through all keys, some milliseconds among a million; to find many rows at once use
    ``table``, whose ``join`` and ``raw_maps`` take arrays.
    """

    def __init__(self, folder: Path) -> None:
        """ValueError for a folder that is no finished table."""
        self.folder = folder
        self.table = SaliencyTable(folder)
        """:class:`saliency.table.table.SaliencyTable`: everything as arrays."""

    @property
    def grid(self) -> int:
        """Cells a side, G."""
        return self.table.grid

    @property
    def metadata(self) -> dict[str, Any]:
        """How the maps were made: ``clip``, ``method``, ``layer``, ``fit``, …"""
        return self.table.metadata

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Heatmap]:
        return (self._row(number) for number in range(len(self)))

    def __contains__(self, which: object) -> bool:
        if isinstance(which, tuple):
            return len(which) == 2 and all(isinstance(each, str) for each in which) and self._find(*which) >= 0
        return isinstance(which, str) and self._find(which, None) >= 0

    def __getitem__(self, which: str | tuple[str, str] | int) -> Heatmap:
        """The row of a key and caption, the first row of a key, or the row of a number from 0 (or −1) on.

        KeyError says which of the two is not there, IndexError that there are not so many rows.
        """
        if isinstance(which, int):
            if not -len(self) <= which < len(self):
                raise IndexError(f"row {which} of {len(self)}")
            return self._row(which % len(self))
        key, caption = which if isinstance(which, tuple) else (which, None)
        number = self._find(key, caption)
        if number < 0:
            raise KeyError(self._missing(key, caption))
        return self._row(number)

    def captions(self, key: str) -> list[str]:
        """All captions that a key has a map of; none for a key that is not there."""
        found: list[str] = self.table.captions.filter(pc.equal(self.table.keys, key)).to_pylist()
        return found

    def __repr__(self) -> str:
        return f"Maps({str(self.folder)!r}, {len(self)} maps of {self.grid}×{self.grid} cells)"

    def _find(self, key: str, caption: str | None) -> int:
        """The number of a row, −1 if there is none."""
        if caption is None:
            return int(pc.index(self.table.keys, pa.scalar(key, pa.string())).as_py())
        both = pc.and_(pc.equal(self.table.keys, key), pc.equal(self.table.captions, caption))
        return int(pc.index(both, pa.scalar(True)).as_py())

    def _missing(self, key: str, caption: str | None) -> str:
        captions = self.captions(key)
        if captions:
            return f"{key!r} has no map of the caption {caption!r}; it has: {_some(captions)}"
        keys = self.table.keys.slice(0, _SHOWN + 1).to_pylist()
        return f"{self.folder} has no map of the key {key!r}; its keys are like: {_some(keys)}"

    def _row(self, number: int) -> Heatmap:
        rows = np.asarray([number], np.int64)
        return Heatmap(
            self.table.raw_maps(rows)[0],
            self.table.captions[number].as_py(),
            float(self.table.clip_scores[number]),
            as_box(self.table.boxes(rows)[0]),
            key=self.table.keys[number].as_py(),
        )


def open_maps(place: str | Path) -> Maps:
    """Open a finished maps folder, or a published table by its Hub dataset id (downloaded once).

    Raises UserError if there is no table, or it is not whole.

    >>> maps = sm.open_maps("maps")
    >>> len(maps), maps.grid
    (16, 12)
    >>> row = maps[0]
    >>> maps[row.key, row.caption].map.shape
    (12, 12)
    """
    with user_errors():
        return Maps(find_maps(place))


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
