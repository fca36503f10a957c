"""The images of a source with all that it says of each, in order: what ``prepare`` takes in.

Several rows of a source may be one image: a caption a row, the image's name repeated. Rows with the same key that name
the same file are one entry wherever they stand; where images lie inside tables or tars, or come in a stream, rows with
the same key are one entry where they follow each other. Whether they do show one image, their bytes tell.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.sources.hub_stream import StreamSource, stream_dataset
from pipelines.sources.images import decode_mask
from pipelines.sources.open_source import open_asked, open_rows
from pipelines.sources.source import BoxMasks, FileImages, Source, hash_pairs
from pipelines.sources.tables.columns import Wishes

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Columns:
    """What a source says of its images beside their keys."""

    captions: bool
    all_captions: bool
    """Whether every caption is wanted, or the first alone."""
    label: str | None
    """None, or what a label is: a ``number``, the ``name`` itself, or the ``index`` of one of ``label_names``."""
    label_names: tuple[str, ...]
    url: bool
    truth: str | None
    """None, or what says where the object is: a ``mask`` or a ``box``."""

    def names(self) -> list[str]:
        """The optional columns that there are."""
        present = {"caption": self.captions, "captions": self.captions and self.all_captions}
        present |= {"label": self.label is not None, "url": self.url}
        return [name for name, there in present.items() if there] + ([self.truth] if self.truth else [])


@dataclass(frozen=True)
class EntryRow:
    """One row of a source; its image and its mask are read when asked for, raising BadImage or OSError."""

    key: str
    caption: str | None
    """What ``--captions first`` gives."""
    captions: tuple[str, ...]
    """What ``--captions all`` gives."""
    label: int | str | None
    url: str | None
    read: Callable[[], bytes]
    read_mask: Callable[[], Mask | None] | None = None
    box: tuple[float, ...] | None = None
    fault: str | None = None
    """Why its caption can't be read, where it has one."""


@dataclass(frozen=True)
class Entry:
    """Rows of one key; ``one_file`` where they are known to show one image."""

    rows: tuple[EntryRow, ...]
    one_file: bool = False


class Entries(Protocol):
    """The entries of a source in shards of ``shard_size``: of entries, or of rows of a stream."""

    columns: Columns
    warnings: list[str]
    """What the source found wrong with itself."""

    def count(self) -> int | None:
        """How many entries there are; None for a stream."""

    def rows(self) -> int | None:
        """How many rows there are; None for a stream."""

    def fingerprint(self) -> dict[str, Any]:
        """What tells this source from another."""

    def read(self, shards: Iterable[int], shard_size: int) -> Iterator[tuple[int, Entry]]:
        """The entries of some shards in order, each with its shard's number; of a stream all from the first on."""


class SourceEntries:
    """The entries of a source with random access, read with the first and with all captions of every row."""

    def __init__(self, first: Source, every: Source | None) -> None:
        self._first, self._every = first, every
        self.warnings = first.warnings
        truth = None if first.masks is None else "box" if isinstance(first.masks, BoxMasks) else "mask"
        label = None if first.labels is None else "number" if first.label_names is None else "index"
        self.columns = Columns(
            first.has_captions,
            every is not None,
            label,
            tuple(first.label_names or ()) if label else (),
            first.urls is not None,
            truth,
        )
        self._order, self._starts = _grouped(first)

    def count(self) -> int:
        """How many entries there are."""
        return len(self._starts) - 1

    def rows(self) -> int:
        """How many rows there are."""
        return len(self._first)

    def fingerprint(self) -> dict[str, Any]:
        """The number of rows, and the sha256 of all keys and captions."""
        found = {"rows": len(self._first), "rows_sha256": hash_pairs(self._first)}
        return found if self._every is None else found | {"captions_sha256": hash_pairs(self._every)}

    def read(self, shards: Iterable[int], shard_size: int) -> Iterator[tuple[int, Entry]]:
        """See :class:`Entries`."""
        one_file = isinstance(self._first.images, FileImages)
        for shard in shards:
            for number in range(shard * shard_size, min((shard + 1) * shard_size, self.count())):
                members = self._order[self._starts[number] : self._starts[number + 1]]
                yield shard, Entry(tuple(self._row(int(i)) for i in members), one_file)

    def _row(self, i: int) -> EntryRow:
        source = self._first
        box = source.masks.boxes[i].as_py() if isinstance(source.masks, BoxMasks) else None
        return EntryRow(
            source.keys[i].as_py(),
            source.caption(i),
            self._captions(i),
            None if source.labels is None or source.labels[i] < 0 else int(source.labels[i]),
            None if source.urls is None else source.urls[i].as_py(),
            _ReadImage(source, i),
            _ReadMask(source, i) if self.columns.truth == "mask" else None,
            None if box is None else tuple(box),
            source.fault(i),
        )

    def _captions(self, i: int) -> tuple[str, ...]:
        every = self._every
        if every is None or every.captions is None:
            return ()
        first, last = i, i + 1
        if every.rows is not None:  # in order, for a row's captions follow each other
            first, last = np.searchsorted(every.rows, [i, i + 1]).tolist()
        texts = every.captions.slice(first, last - first).to_pylist()
        return tuple(str(text) for text in texts if text is not None)


@dataclass(frozen=True)
class _ReadImage:
    source: Source
    index: int

    def __call__(self) -> bytes:
        return self.source.read_image(self.index)


@dataclass(frozen=True)
class _ReadMask:
    source: Source
    index: int

    def __call__(self) -> Mask | None:
        return self.source.read_mask(self.index)


def _grouped(source: Source) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of each entry: entry e has ``order[starts[e] : starts[e + 1]]``, and stands where its first row does."""
    keys = source.keys
    keys = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    if isinstance(source.images, FileImages):
        paths = source.images.paths.slice(0, len(keys))
        place = pc.dictionary_encode(paths, null_encoding="encode").indices.cast(pa.string())
    else:
        values = np.asarray(pc.dictionary_encode(keys).indices)
        place = pa.array(np.cumsum(np.diff(values, prepend=-1) != 0)).cast(pa.string())
    codes = np.asarray(pc.dictionary_encode(pc.binary_join_element_wise(keys, place, "\x1f")).indices, np.int64)
    # Arrow numbers values as they first come, so sorting by them keeps the order of the entries.
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    return order, np.append(starts, len(codes))


class StreamEntries:
    """The entries of a stream; ``first`` and ``every`` are one dataset, read with the first and with all captions."""

    def __init__(self, first: StreamSource, every: StreamSource | None) -> None:
        self._first, self._every = first, every
        self.warnings = first.warnings
        roles = first.roles
        truth = "mask" if roles.mask else "box" if roles.box else None
        kind = None if roles.label is None else (first.dataset.features or {}).get(roles.label)
        is_text = "string" in str(getattr(kind, "dtype", ""))
        label = None if roles.label is None else "index" if first.label_names else "name" if is_text else "number"
        self.columns = Columns(
            first.has_captions,
            every is not None,
            label,
            tuple(first.label_names or ()) if label else (),
            roles.url is not None or "url" in first.documents,
            truth,
        )

    def count(self) -> None:
        """Not known."""

    def rows(self) -> None:
        """Not known."""

    def fingerprint(self) -> dict[str, Any]:
        """The dataset's name and split."""
        return {"rows": self._first.name, "split": self._first.wishes.split}

    def read(self, shards: Iterable[int], shard_size: int) -> Iterator[tuple[int, Entry]]:
        """See :class:`Entries`; every shard has ``shard_size`` rows, and an entry lies in one shard."""
        start = next(iter(shards)) * shard_size
        limit = self._first.wishes.limit
        dataset = self._first.dataset.skip(start) if start else self._first.dataset
        rows = itertools.islice(enumerate(dataset, start), None if limit is None else max(limit - start, 0))
        described = ((number // shard_size, self._row(number, row)) for number, row in rows)
        for (shard, _), members in itertools.groupby(described, key=lambda item: (item[0], item[1].key)):
            yield shard, Entry(tuple(row for _, row in members))

    def _row(self, number: int, row: dict[str, Any]) -> EntryRow:
        sample = next(self._first.samples(number, row))
        every: Sequence[str | None] = ()
        if self._every is not None and self.columns.captions:
            every = [one.caption for one in self._every.samples(number, row)]
        roles = self._first.roles
        label: int | str | None = sample.label
        if self.columns.label == "name" and roles.label is not None:
            label = row.get(roles.label)
        box = row.get(roles.box) if roles.box and self.columns.truth == "box" else None
        return EntryRow(
            sample.key,
            sample.caption,
            tuple(text for text in every if text is not None),
            label,
            sample.url,
            lambda: sample.image,
            _DecodeMask(self._first, row[roles.mask]) if roles.mask else None,
            None if box is None else tuple(box),
        )


@dataclass(frozen=True)
class _DecodeMask:
    stream: StreamSource
    value: Any

    def __call__(self) -> Mask | None:
        return None if self.value is None else decode_mask(self.stream.read(self.value))


def open_entries(spec: str, wishes: Wishes) -> Entries:
    """The entries of the source that ``spec`` names, with all its captions or, if so wished, the first alone.

    Raises UserError.
    """
    first = open_asked(spec, wishes, captions="first", every_row=True)
    every = replace(wishes, captions="all")
    if isinstance(first, StreamSource):
        return StreamEntries(first, stream_dataset(spec, first.dataset, every) if wishes.captions == "all" else None)
    if wishes.captions == "first" or not first.has_captions:
        return SourceEntries(first, None)
    again = open_rows(spec, every)
    assert isinstance(again, Source)
    return SourceEntries(first, again)
