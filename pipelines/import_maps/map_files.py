"""Maps in files of their own: grey PNG, NPY and NPZ, named like the keys.

A PNG of 8 or 16 bits gives 0 to 1; an array is taken as it is. A file with two values, one of them 0, is a mask and
must have its image's size. Any other is a heatmap, which covers the whole image at whatever size it has. Nothing is
unpickled, and no array is made that its file does not hold.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UserError
from pipelines.import_maps.keys import MAP_SUFFIXES, match
from pipelines.import_maps.reader import Asked, Reader, check_size, found_map, hash_files, shown_shape, whole
from pipelines.sources.folders import files_below
from pipelines.sources.images import LARGEST_FILE, MAX_PIXELS, BadImage, decode_grey
from pipelines.sources.names import composed, text_names
from pipelines.sources.source import Source, read_file
from saliency.maps import Box

_NUMPY, _ZIP = b"\x93NUMPY", b"PK"
_HEADERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
"""By the first number of an NPY file's version; the third is for names of fields, which no map has."""
_NUMBERS = "buif"  # kinds of dtypes: truth values, whole numbers and floats


@dataclass(frozen=True)
class FileMap:
    """A map as its file holds it: ``values`` [H, W]; ``picture`` if it came as a PNG, scaled to 0..1."""

    values: NDArray[Any]
    picture: bool = False

    @property
    def is_mask(self) -> bool:
        """Whether it has exactly two values, one of them 0."""
        low, high = self.values.min(), self.values.max()
        return bool(low == 0 < high and ((self.values == low) | (self.values == high)).all())


def open_map_files(options: Asked, source: Source) -> Reader:
    """The reader of a folder of maps. UserError."""
    folder = options.place
    files = sorted(path for path in files_below(str(folder)) if path.lower().endswith(MAP_SUFFIXES))
    if not files:
        raise UserError(f"--from {options.maps_from} holds no maps: it has no {', '.join(MAP_SUFFIXES)} files")
    names = [path.rpartition(".")[0] for path in text_names(files)]
    _check_once(options.maps_from, files)
    archive = next((path for path in files if path.lower().endswith(".npz")), None)
    if options.array is not None and archive is None:
        raise UserError(f"--array has no effect with --from {options.maps_from}: it has no NPZ files; leave it out")
    if archive is not None:
        _check_arrays(folder / archive, options.array)
    matches = match(source, names, f"--from {options.maps_from}")

    def read(pair: int, size: tuple[int, int], grid: int) -> tuple[NDArray[np.float32], Box]:
        file = files[found_map(matches, pair)]
        found = decode_map(read_file(os.fsencode(folder / file)), options.array)
        if found.values.ndim == 2 and found.values.size and found.is_mask:
            check_size(found.values, size)
        return whole(found.values, grid)

    facts = {"imported_sha256": hash_files(folder, files), "array": options.array}
    return Reader(read, facts, matches.warnings, matches.unmatched)


def decode_map(data: bytes, array: str | None = None) -> FileMap:
    """The map in the bytes of a PNG, NPY or NPZ file; BadImage, whose text says what is wrong with the map."""
    if data.startswith(_NUMPY):
        return FileMap(_flat(_array(data)))
    if data.startswith(_ZIP):
        return FileMap(_flat(_archived(data, array)))
    return FileMap(decode_grey(data), picture=True)


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """An array without axes of length 1 before height and width, or a single channel behind them."""
    while values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 2:
        raise BadImage(f"its map has the shape {shown_shape(values.shape)}, and not height × width")
    return values


def _array(data: bytes) -> NDArray[Any]:
    """The array of an NPY file, without NumPy's own reader: that makes room for whatever a header claims."""
    file = io.BytesIO(data)
    try:
        version, _ = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise BadImage("its NPY file is of a version for named fields")
        shape, in_columns, kind = _HEADERS[version](file)
    except BadImage:
        raise
    except Exception as error:  # the header is Python's source, which fails in every way
        raise BadImage(f"its NPY file is damaged: {error}") from error
    if kind.kind not in _NUMBERS:
        raise BadImage(f"its array holds {kind.name or kind}, and not numbers")
    count = 1
    for length in shape:
        count *= length
    body = memoryview(data)[file.tell() :]
    if count < 0 or count > MAX_PIXELS or count * kind.itemsize != len(body):
        raise BadImage(f"its NPY file is damaged: {len(body)} bytes for {shown_shape(shape)} numbers")
    values = np.frombuffer(body, kind)
    return values.reshape(shape, order="F" if in_columns else "C")


def _archived(data: bytes, array: str | None) -> NDArray[Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            member = _member(archive, array)
            with archive.open(member) as file:
                held = file.read(LARGEST_FILE + 1)
    except BadImage:
        raise
    except Exception as error:  # of damaged archives, and of ways to compress that are not known
        raise BadImage(f"its NPZ file is damaged: {error}") from error
    if len(held) > LARGEST_FILE:
        raise BadImage(f"its array has over {LARGEST_FILE:,} bytes")
    return _array(held)


def _member(archive: zipfile.ZipFile, array: str | None) -> str:
    """The name of the array that is asked for, or of the only one; BadImage that names those there are."""
    members = {name.removesuffix(".npy"): name for name in archive.namelist()}
    listed = ", ".join(list(members)[:10]) or "none"
    if array is not None:
        if array not in members:
            raise BadImage(f"its NPZ file has no array {array!r}: it has {listed}")
        return members[array]
    if len(members) != 1:
        raise BadImage(f"its NPZ file has {len(members)} arrays ({listed}): name one with --array")
    return next(iter(members.values()))


def _check_arrays(path: Path, array: str | None) -> None:
    """UserError if the first NPZ file has not the one array that is wanted: all others are like it."""
    try:
        with zipfile.ZipFile(path) as archive:
            _member(archive, array)
    except BadImage as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, zipfile.BadZipFile):
        return  # it costs the pair alone, whose reason will say so


def _check_once(place: str, files: list[str]) -> None:
    """UserError if two files differ in their suffix alone: which of them is the map?"""
    counted = Counter(composed(path.rpartition(".")[0]) for path in files)
    name, count = counted.most_common(1)[0]
    if count > 1:
        twice = [path for path in files if composed(path.rpartition(".")[0]) == name]
        raise UserError(f"--from {place} has {count} maps of one key: {' and '.join(twice)}; leave one")
