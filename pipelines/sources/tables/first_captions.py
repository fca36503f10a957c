"""One pair an image, where a source says a caption a row: ``--captions first`` for rows, as it is for lists.

Rows are captions of one image if they have its key, label, URL and mask or box, and name the same file, wherever they
stand; where images lie inside tables, or come in a stream, if they follow each other and have the same bytes. A row
without a caption, or with one that its image has had, is no further caption: it stays, for the consumer to reject. A
sample of a tar is always a pair.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.sources.images import BadImage
from pipelines.sources.source import BoxMasks, DecodedMasks, FileImages, Images, Source
from pipelines.sources.tars.tars import TarImages

Row = TypeVar("Row")


def one_pair_an_image(source: Source) -> Source:
    """The source without the rows that give an image of an earlier row another caption; says in a warning how many."""
    if source.texts is None or callable(source.texts) or isinstance(source.images, TarImages):
        return source
    keys = _codes(source.keys)
    if keys.max(initial=-1) + 1 == len(keys):
        return source
    places = _places(source, keys)
    _, inverse, counts = np.unique(places, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts[inverse] > 1)
    if not len(repeated):
        return source
    first = set(first_rows(repeated.tolist(), lambda i: (int(places[i]), _identity(source, i)), source.caption))
    dropped = [i for i in repeated.tolist() if i not in first]
    if not dropped:
        return source
    chosen = source.select(np.setdiff1d(np.arange(len(source)), dropped))
    chosen.warnings = [
        *source.warnings,
        f"further captions of an image left out: {len(dropped)} (--captions all makes a pair of each)",
    ]
    return chosen


def captions_together(source: Source) -> Source:
    """The source with the pairs of an image side by side, in the order in which images and their captions come.

    Of images in files. Those that lie in tables stay where they are, since there the order is the one to read in.
    """
    if not isinstance(source.images, FileImages):
        return source
    _, first, inverse = np.unique(_places(source, _codes(source.keys)), return_index=True, return_inverse=True)
    order = np.argsort(first[inverse], kind="stable")
    return source if (np.diff(order) == 1).all() else source.select(order)


def first_rows(
    rows: Iterable[Row], identity: Callable[[Row], Hashable], caption: Callable[[Row], str | None]
) -> Iterator[Row]:
    """The rows but for those whose image, told by ``identity``, has had another caption."""
    had: dict[Hashable, str] = {}
    for row in rows:
        text = (caption(row) or "").strip()
        if not text or had.setdefault(identity(row), text) == text:
            yield row


def _places(source: Source, keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for every pair, the same for such that may share an image."""
    if isinstance(source.images, FileImages):
        return keys * len(keys) + _codes(source.images.paths.take(pa.array(source.shared_rows())))
    return np.cumsum(np.diff(keys, prepend=-1) != 0)


def _codes(values: Any) -> NDArray[np.int64]:
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return np.asarray(pc.dictionary_encode(values, null_encoding="encode").indices, np.int64)


def _identity(source: Source, i: int) -> Hashable:
    row = source.row(i)
    label = None if source.labels is None else int(source.labels[i])
    url = None if source.urls is None else source.urls[i].as_py()
    image = _content(source.images, row)
    return label, url, _truth(source, row), row if image is None else image


def _truth(source: Source, row: int) -> Hashable:
    if isinstance(source.masks, BoxMasks):
        return str(source.masks.boxes[row].as_py())
    return _content(source.masks.images, row) if isinstance(source.masks, DecodedMasks) else None


def _content(images: Images, row: int) -> Hashable:
    """The file's path, or what tells the bytes from others; None if there is no image."""
    if isinstance(images, FileImages):
        path: str | bytes | None = images.paths[row].as_py()
        return path
    try:
        return hashlib.sha256(images[row]).digest()
    except (BadImage, OSError):
        return None
