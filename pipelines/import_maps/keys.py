"""Which map belongs to which pair: by the key of the pair and the name of the map, each with or without its suffix.

``images/7.jpg`` is matched by ``images/7.jpg`` or by ``images/7``. If no key matches like this, file names alone are
compared, so that ``masks/7.png`` is found for ``images/7.jpg``. A name that fits several keys, or several maps, fits
none: a map must not come to an image that it was not made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UserError
from pipelines.sources.images import PICTURE_LIKE, SUFFIXES
from pipelines.sources.names import composed
from pipelines.sources.source import Source

MAP_SUFFIXES = (".png", ".npy", ".npz")
"""Of files that hold a map each."""
_SUFFIXES = frozenset((*SUFFIXES, *PICTURE_LIKE, *MAP_SUFFIXES))
_AMBIGUOUS = -2


@dataclass(frozen=True)
class Matches:
    """``rows`` int64 [n]: the number of each pair's map, −1 where it has none."""

    rows: NDArray[np.int64]
    unmatched: list[str]
    """The names of the maps that no pair has."""
    warnings: list[str]


def match(source: Source, names: Sequence[str], what: str) -> Matches:
    """Match the maps with these different ``names`` to the pairs of a source; UserError if not one fits."""
    distinct = source.keys.unique()
    keys: list[str] = distinct.to_pylist()
    found, warnings = _matched(keys, names, lambda name: name), list[str]()
    if not (found >= 0).any():
        found = _matched(keys, names, lambda name: name.rpartition("/")[2])
        warnings = [f"maps are matched by file names alone: {names[0]} lies in another folder"] if names else []
    if not (found >= 0).any():
        first = f"the maps' first is {names[0]!r}" if names else "it holds no maps"
        raise UserError(f"{what} has no map of any image of {source.name}: its first key is {keys[0]!r}, {first}")
    codes = np.asarray(source.keys.dictionary_encode().indices, np.int64)
    unused = np.ones(len(names), bool)
    unused[found[found >= 0]] = False
    return Matches(found[codes], [names[i] for i in np.flatnonzero(unused).tolist()], warnings)


def without_suffix(name: str) -> str:
    """The name of an image or a map without the suffix of its file; what is no such suffix stays."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in _SUFFIXES and stem.rpartition("/")[2] else name


def _matched(keys: Sequence[str], names: Sequence[str], part: Callable[[str], str]) -> NDArray[np.int64]:
    """The number of the name that each of different keys matches, −1 for none."""
    exact, stems = _numbered(names, part), _numbered(names, lambda name: without_suffix(part(name)))
    of_keys, of_stems = _numbered(keys, part), _numbered(keys, lambda key: without_suffix(part(key)))
    found = np.full(len(keys), -1, np.int64)
    for i, key in enumerate(keys):
        whole = part(composed(key.replace("\\", "/")))
        stem = without_suffix(whole)
        if whole in exact and of_keys[whole] >= 0:
            found[i] = max(exact[whole], -1)
        elif stem in stems and of_stems[stem] >= 0:
            found[i] = max(stems[stem], -1)
    return found


def _numbered(names: Sequence[str], form: Callable[[str], str]) -> dict[str, int]:
    """The place of each form of a name, or that there are several."""
    places: dict[str, int] = {}
    for i, name in enumerate(names):
        formed = form(composed(name.replace("\\", "/")))
        places[formed] = _AMBIGUOUS if formed in places else i
    return places
