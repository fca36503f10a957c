"""Images that two sources share: the same pixels, or nearly the same picture, upright or mirrored.

Candidates are pictures whose perceptual hashes (pHash, 64 bits: which of the 8 × 8 lowest frequencies of a 32 × 32 grey
version lie above their median) differ in at most RADIUS bits. They are found by multi-index hashing (Norouzi et al.
2012, CVPR): of four parts of 16 bits, one differs in at most one bit. The nearest candidate is nearly the same picture
if 16 × 16 grey versions correlate by ALIKE. An image without contrast has no hash.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from pipelines.sources.images import BadImage, decode_rgb
from pipelines.sources.source import Source

RADIUS = 7
"""Bits, at most 7."""
ALIKE = 0.95
"""Least correlation of grey versions."""
_FLAT = 4.0  # deviation of the grey version, of 255
_SIDE = 16
_PARTS, _VALUES = 4, 1 << 16
_AT_ONCE = 1 << 22  # candidates
_SHOWN = 5
_BITS = np.array([bin(value).count("1") for value in range(_VALUES)], np.uint8)


@dataclass(frozen=True)
class Hashes:
    """Of the images of a source that can be read: ``rows`` int64 [n], and by image what is compared."""

    rows: NDArray[np.int64]
    exact: list[str]
    """sha256 of size and pixels."""
    near: NDArray[np.uint64]
    mirrored: NDArray[np.uint64]
    """The hash of the mirror image."""
    small: NDArray[np.uint8]
    """Grey versions [n, 16, 16]."""

    @property
    def flat(self) -> NDArray[np.bool_]:
        """Without contrast: ``near`` and ``mirrored`` say nothing."""
        return np.asarray(self.small.std((1, 2)) < _FLAT, bool)


@dataclass(frozen=True)
class Leaks:
    """Which images of a second source are in the first, each under the closest kind: (row there, row here)."""

    images: int
    exact: list[tuple[int, int]] = field(default_factory=list)
    near: list[tuple[int, int]] = field(default_factory=list)
    mirrored: list[tuple[int, int]] = field(default_factory=list)


def perceptual_hash(grey: NDArray[np.float64]) -> int:
    """The 64 bits of a grey image [32, 32]."""
    lowest = dctn(grey, norm="ortho")[:8, :8].flatten()
    bits = np.packbits(lowest > np.median(lowest[1:]))
    return int.from_bytes(bits.tobytes(), "big")


def hash_source(source: Source) -> Hashes:
    """The hashes of every image once; what can't be read is left out."""
    rows, exact, near, mirrored, small = [], [], [], [], []
    for row in np.unique(source.shared_rows(), return_index=True)[1].tolist():
        try:
            image = decode_rgb(source.read_image(row))
        except (BadImage, OSError):
            continue
        grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), np.float64)
        rows.append(row)
        exact.append(hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest())
        near.append(perceptual_hash(grey))
        mirrored.append(perceptual_hash(grey[:, ::-1]))
        small.append(grey.reshape(_SIDE, 2, _SIDE, 2).mean((1, 3)).round().astype(np.uint8))
    return Hashes(
        np.asarray(rows, np.int64),
        exact,
        np.asarray(near, np.uint64),
        np.asarray(mirrored, np.uint64),
        np.asarray(small, np.uint8).reshape(-1, _SIDE, _SIDE),
    )


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
    """Which images of ``other`` are in ``known``."""
    leaks = Leaks(len(other.rows))
    exact = dict(zip(known.exact, known.rows.tolist(), strict=True))
    usable, flat = np.flatnonzero(~known.flat), other.flat
    upright = _alike(known, usable, within(known.near[usable], other.near), other.small)
    mirrored = _alike(known, usable, within(known.near[usable], other.mirrored), other.small[:, :, ::-1])
    for i, (row, digest) in enumerate(zip(other.rows.tolist(), other.exact, strict=True)):
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


def describe_leaks(source: Source, other: Source) -> tuple[dict[str, str], dict[str, Any]]:
    """What images of ``other`` are in ``source``, as lines of text by title, and as plain values with keys."""
    found = find_leaks(hash_source(source), hash_source(other))
    kinds = {"same pixels": found.exact, "nearly the same": found.near, "mirrored": found.mirrored}
    facts, numbers = {}, {}
    for kind, pairs in kinds.items():
        keys = [(source.keys[mine].as_py(), other.keys[theirs].as_py()) for mine, theirs in pairs]
        shown = ", ".join(f"{theirs} is {mine}" for mine, theirs in keys[:_SHOWN])
        more = f" … ({len(keys) - _SHOWN} more)" if len(keys) > _SHOWN else ""
        facts[kind] = f"{len(keys)} of {found.images} images of {other.name}" + (f": {shown}{more}" if keys else "")
        numbers[kind] = [list(pair) for pair in keys]
    return facts, {"leaks": {"images": found.images, **numbers}}
