"""Pictures that are nearly the same, upright or mirrored: perceptual hashes, and finding near ones among millions.

Candidates are pictures whose perceptual hashes (pHash, 64 bits: which of the 8 × 8 lowest frequencies of a 32 × 32 grey
version lie above their median) differ in at most RADIUS bits. They are found by multi-index hashing (Norouzi et al.
2012, CVPR): of four parts of 16 bits, one differs in at most one bit. The nearest candidate is nearly the same picture
if 16 × 16 grey versions correlate by ALIKE. An image without contrast has no hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

RADIUS = 7
"""Bits, at most 7."""
ALIKE = 0.95
"""Least correlation of grey versions."""
_FLAT = 4.0  # deviation of the grey version, of 255
_GREY, _SIDE = 32, 16
_PARTS, _VALUES = 4, 1 << 16
_AT_ONCE = 1 << 22  # candidates
_BITS = np.array([bin(value).count("1") for value in range(_VALUES)], np.uint8)


@dataclass(frozen=True)
class Hashes:
    """Of pictures: ``rows`` int64 [n] says which, and by picture what is compared."""

    rows: NDArray[np.int64]
    near: NDArray[np.uint64]
    mirrored: NDArray[np.uint64]
    """The hash of the mirror image."""
    small: NDArray[np.uint8]
    """Grey versions [n, 16, 16]."""
    exact: list[str] = field(default_factory=list)
    """What is equal only where all pixels are, such as a sha256; empty: not known."""

    @property
    def flat(self) -> NDArray[np.bool_]:
        """Without contrast: ``near`` and ``mirrored`` say nothing."""
        return np.asarray(self.small.std((1, 2)) < _FLAT, bool)

    @classmethod
    def of(cls, rows: NDArray[np.int64], greys: NDArray[np.uint8]) -> Hashes:
        """The hashes of pictures whose grey versions, uint8 [n, 32, 32], are :func:`grey_version`'s."""
        lowest = dctn(greys.astype(np.float64), axes=(1, 2), norm="ortho")[:, :8, :8]
        turned = lowest * np.where(np.arange(8) % 2, -1.0, 1.0)  # the mirror image's: odd frequencies change their sign
        small = greys.reshape(-1, _SIDE, 2, _SIDE, 2).mean((2, 4)).round().astype(np.uint8)
        return cls(rows, _above_median(lowest), _above_median(turned), small)

    @classmethod
    def joined(cls, parts: Sequence[Hashes]) -> Hashes:
        """All of them, one after the other."""
        if not parts:
            return cls.of(np.empty(0, np.int64), np.empty((0, _GREY, _GREY), np.uint8))
        near, mirrored = ([getattr(part, name) for part in parts] for name in ("near", "mirrored"))
        rows, small = np.concatenate([part.rows for part in parts]), np.concatenate([part.small for part in parts])
        exact = [digest for part in parts for digest in part.exact]
        return cls(rows, np.concatenate(near), np.concatenate(mirrored), small, exact)


def grey_version(image: Image.Image) -> NDArray[np.uint8]:
    """The whole of an RGB image in 32 × 32 grey pixels, uint8; much of the time that hashing takes goes here."""
    return np.asarray(image.resize((_GREY, _GREY), Image.Resampling.BOX, reducing_gap=1.0).convert("L"))


def _above_median(lowest: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Of frequencies [n, 8, 8] which lie above their median, but for the constant one's part in it, as 64 bits."""
    flat = lowest.reshape(-1, 64)
    bits = np.packbits(flat > np.median(flat[:, 1:], axis=1, keepdims=True), axis=1)
    return np.ascontiguousarray(bits).view(">u8").reshape(-1).astype(np.uint64)


@dataclass(frozen=True)
class Leaks:
    """Which images of a second source are in the first, each under the closest kind: (row there, row here)."""

    images: int
    exact: list[tuple[int, int]] = field(default_factory=list)
    near: list[tuple[int, int]] = field(default_factory=list)
    mirrored: list[tuple[int, int]] = field(default_factory=list)


def within(known: NDArray[np.uint64], queries: NDArray[np.uint64], radius: int = RADIUS) -> NDArray[np.int64]:
    """For every query, int64 [m], a place in ``known`` of the fewest differing bits, −1 if that is above ``radius``."""
    if not 0 <= radius <= 7:
        raise ValueError(f"radius {radius} must lie between 0 and 7")
    best, place = np.full(len(queries), 65, np.uint8), np.full(len(queries), -1, np.int64)
    probes = [0, *(1 << bit for bit in range(16))] if radius >= _PARTS else [0]
    for part in range(_PARTS):
        shift = np.uint64(16 * part)
        keys = ((known >> shift) & np.uint64(_VALUES - 1)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange(_VALUES + 1))
        asked = ((queries >> shift) & np.uint64(_VALUES - 1)).astype(np.int64)
        for probe in probes:
            low, high = starts[asked ^ probe], starts[(asked ^ probe) + 1]
            _compare(known, queries, order, low, high - low, best, place)
    place[best > radius] = -1
    return place


def _compare(
    known: NDArray[np.uint64],
    queries: NDArray[np.uint64],
    order: NDArray[np.int64],
    low: NDArray[np.int64],
    counts: NDArray[np.int64],
    best: NDArray[np.uint8],
    place: NDArray[np.int64],
) -> None:
    """Set each query against ``counts`` of the known, from ``low`` on in their order; the best so far are kept."""
    ends = np.cumsum(counts)
    first = 0
    while first < len(queries):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _AT_ONCE, side="right")))
        here = counts[first:last]
        query = np.repeat(np.arange(first, last), here)
        offset = np.arange(len(query)) - np.repeat(np.cumsum(here) - here, here)
        found = order[np.repeat(low[first:last], here) + offset]
        bits = _BITS[(known[found] ^ queries[query]).view(np.uint16).reshape(-1, _PARTS)].sum(1, dtype=np.uint8)
        better = bits < best[query]
        query, found, bits = query[better], found[better], bits[better]
        sort = np.argsort(-bits.astype(np.int16), kind="stable")  # of one query the last one written is the best
        best[query[sort]], place[query[sort]] = bits[sort], found[sort]
        first = last


def find_leaks(known: Hashes, other: Hashes) -> Leaks:
    """Which images of ``other`` are in ``known``; the same pixels count as nearly the same where they are not known."""
    leaks = Leaks(len(other.rows))
    exact = dict(zip(known.exact, known.rows.tolist(), strict=True)) if known.exact else {}
    usable, flat = np.flatnonzero(~known.flat), other.flat
    upright = _alike(known, usable, within(known.near[usable], other.near), other.small)
    mirrored = _alike(known, usable, within(known.near[usable], other.mirrored), other.small[:, :, ::-1])
    for i, (row, digest) in enumerate(zip(other.rows.tolist(), other.exact or [""] * len(other.rows), strict=True)):
        if digest in exact:
            leaks.exact.append((exact[digest], row))
        elif flat[i]:
            continue
        elif upright[i] >= 0:
            leaks.near.append((int(known.rows[upright[i]]), row))
        elif mirrored[i] >= 0:
            leaks.mirrored.append((int(known.rows[mirrored[i]]), row))
    return leaks


def _alike(
    known: Hashes, usable: NDArray[np.int64], places: NDArray[np.int64], small: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """The images of ``known`` at these places among the ``usable``, −1 where there is none or its grey differs."""
    found = np.full(len(places), -1, np.int64)
    for i in np.flatnonzero(places >= 0).tolist():
        mine = int(usable[places[i]])
        if small[i].std() > 0 and np.corrcoef(known.small[mine].ravel(), small[i].ravel())[0, 1] >= ALIKE:
            found[i] = mine
    return found
