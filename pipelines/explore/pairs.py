"""The pairs that one looks through: searched by text, sorted and chosen by figures, and never loaded all at once.

A figure is computed for all pairs when it is first asked for, in blocks, and kept: some bytes a pair.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.errors import UserError
from saliency.quality import area, degenerate_kinds
from saliency.table.table import SaliencyTable

FLAGS = ("empty", "flat", "one cell")
"""What may be wrong with a map; see :func:`saliency.quality.degenerate_kinds`."""

_BLOCK = 1 << 14
_REMEMBERED = 8
"""Searches whose result is kept, so that the next page of one costs nothing."""


class Pairs:
    """Pairs by number, those of a table of maps or, without one, of a source.

    ``keys`` and ``captions`` are strings [n], the latter null where a pair has none.
    """

    def __init__(self, keys: Any, captions: Any | None, table: SaliencyTable | None = None) -> None:
        self.keys, self.captions, self.table = keys, captions, table
        self._figures: dict[tuple[str, float], NDArray[np.float32]] = {}
        self._flags: NDArray[np.int8] | None = None
        self._found: OrderedDict[tuple[Any, ...], NDArray[np.int64]] = OrderedDict()
        self._lock = Lock()  # requests come in threads

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, number: int) -> str:
        """The key of a pair."""
        return str(self.keys[number].as_py())

    def caption(self, number: int) -> str:
        """The caption of a pair; empty if it has none."""
        return "" if self.captions is None else self.captions[number].as_py() or ""

    @property
    def orders(self) -> dict[str, str]:
        """What pairs can be sorted by: {name: words}."""
        found = {"table": f"order of the {'source' if self.table is None else 'table'}"}
        if self.table is not None:
            if np.isfinite(self.table.clip_scores[:1]).all():
                found["score"] = "CLIP score"
            found |= {
                "mass": "mass that the salient ratio hides",
                "strength": "peak of the map",
                "area": "area of the map",
            }
        return found

    def find(
        self, text: str = "", *, order: str = "table", rising: bool = False, flag: str = "", ratio: float = 0.25
    ) -> NDArray[np.int64]:
        """The numbers of the pairs whose caption or key has every word of ``text``, sorted, int64 [m].

        ``order`` is one of ``orders``, highest first unless ``rising``; pairs without the figure come last. ``flag``
        takes maps of that kind alone, ``any`` of all kinds, ``none`` those without. ``ratio`` 0..1 is of the order
        ``mass``. UserError.
        """
        asked = (text.strip().lower(), order, rising, flag, ratio if order == "mass" else 0.0)
        with self._lock:
            if asked in self._found:
                self._found.move_to_end(asked)
                return self._found[asked]
            chosen = self._matching(asked[0])
            if flag:
                chosen = chosen[self._flagged(flag)[chosen]]
            if order != "table":
                values = self.figure(order, ratio)[chosen]
                chosen = chosen[
                    np.argsort(np.where(np.isnan(values), np.inf, values if rising else -values), kind="stable")
                ]
            elif rising:
                chosen = chosen[::-1]
            self._found[asked] = chosen
            if len(self._found) > _REMEMBERED:
                self._found.popitem(last=False)
            return chosen

    def figure(self, name: str, ratio: float = 0.25) -> NDArray[np.float32]:
        """A figure of every pair, float32 [n], NaN where there is none: one of ``orders``. UserError."""
        if name not in self.orders or self.table is None:
            raise UserError(f"pairs can't be sorted by {name!r}: there are {', '.join(self.orders)}")
        if name == "score":
            return self.table.clip_scores
        if name == "strength":
            return self.table.strengths
        which = (name, ratio if name == "mass" else 0.0)
        if which not in self._figures:
            measure: Callable[[NDArray[np.float32]], Any] = (
                area if name == "area" else lambda maps: top_mass(maps, ratio)
            )
            parts = [np.asarray(measure(maps), np.float32) for maps in self._blocks()]
            self._figures = {kept: values for kept, values in self._figures.items() if kept[0] != name}
            self._figures[which] = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        return self._figures[which]

    def flags(self, number: int) -> list[str]:
        """What is wrong with the map of a pair."""
        if self.table is None:
            return []
        kinds = degenerate_kinds(self.table.raw_maps(np.asarray([number])))
        return [name for name in FLAGS if kinds[name][0]]

    def _flagged(self, flag: str) -> NDArray[np.bool_]:
        """Whether a pair's map is of a kind, bool [n]. UserError."""
        if self.table is None or flag not in (*FLAGS, "any", "none"):
            raise UserError(f"there is no flag {flag!r}: there are {', '.join(FLAGS)}, any and none")
        if self._flags is None:
            parts = []
            for maps in self._blocks():
                kinds = degenerate_kinds(maps)
                parts.append(sum((kinds[name] * np.int8(code) for code, name in enumerate(FLAGS, 1)), np.int8(0)))
            self._flags = np.concatenate(parts) if parts else np.zeros(0, np.int8)
        if flag in FLAGS:
            return np.asarray(self._flags == FLAGS.index(flag) + 1)
        return np.asarray((self._flags > 0) == (flag == "any"))

    def _blocks(self) -> Iterator[NDArray[np.float32]]:
        """The raw maps, [b, G, G], b pairs at a time."""
        assert self.table is not None
        for start in range(0, len(self), _BLOCK):
            yield self.table.raw_maps(np.arange(start, min(start + _BLOCK, len(self))))

    def _matching(self, text: str) -> NDArray[np.int64]:
        """The pairs with every word of a text in small letters."""
        found: Any = None
        for word in text.split():
            has = pc.match_substring(self.keys, word, ignore_case=True)
            if self.captions is not None:
                captioned = pc.fill_null(pc.match_substring(self.captions, word, ignore_case=True), False)
                has = pc.or_(has, captioned)
            found = has if found is None else pc.and_(found, has)
        if found is None:
            return np.arange(len(self))
        return np.flatnonzero(np.asarray(found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found))


def top_mass(maps: NDArray[np.float32], ratio: float) -> NDArray[np.float64]:
    """The share of each map's sum that its ``round(ratio · cells)`` highest cells hold, 0..1, [n]; NaN if it is empty.

    This is what masks with that salient ratio, of the image, hide of a map on its own grid.
    """
    cells = maps.reshape(len(maps), -1)
    count = round(ratio * cells.shape[1])
    sums = cells.sum(1, dtype=np.float64)
    top = np.partition(cells, cells.shape[1] - count, axis=1)[:, cells.shape[1] - count :] if count else cells[:, :0]
    return np.asarray(np.where(sums > 0, top.sum(1, dtype=np.float64) / np.where(sums > 0, sums, 1), np.nan))
