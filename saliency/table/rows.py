"""Rows of a maps folder straight from its shards, by number: nothing is written and no more than a row group is held.

``SaliencyTable`` is for a training that looks at every row many times; this is for jobs that look at a few rows once
and leave the folder untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from saliency.table.shard import reading

_HASH_BYTES = 16
_AT_ONCE = 1 << 16  # rows that are Python's bytes for a moment


def read_rows(files: Sequence[Path], rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
    """Some columns of some rows, in the order asked for; rows are numbered in file order, from 0. ShardError."""
    order = np.argsort(rows, kind="stable")
    wanted = rows[order]
    pieces, first = [], 0
    for path in files:
        with reading(path):
            file = pq.ParquetFile(path)
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                inside = wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, first + count)]
                if len(inside):
                    pieces.append(file.read_row_group(group, columns=list(columns)).take(pa.array(inside - first)))
                first += count
    if len(rows) and (wanted[0] < 0 or wanted[-1] >= first):
        raise IndexError(f"rows {wanted[0]} to {wanted[-1]} of {first}")
    if not pieces:
        empty: pa.Table = pq.read_schema(files[0]).empty_table().select(list(columns))
        return empty
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return pa.concat_tables([piece.replace_schema_metadata(None) for piece in pieces]).take(pa.array(back))


def pair_hashes(
    keys: pa.Array | pa.ChunkedArray, captions: pa.Array | pa.ChunkedArray | None = None, *, composed: bool = False
) -> pa.Array:
    """A 16-byte hash of every (key, caption), or of every key where ``captions`` is None; fixed_size_binary(16) [n].

    Sixteen bytes a pair are what finding duplicates and joins among millions of pairs costs. A missing caption counts
    as an empty one. With ``composed``, texts that differ in their Unicode form alone (NFC, NFD) have one hash.
    """
    columns = [keys] if captions is None else [keys, captions]
    batches = pa.table(columns, [str(i) for i in range(len(columns))]).to_batches(max_chunksize=_AT_ONCE)
    return hashes_of(b"".join([_hashes(batch, composed) for batch in batches]))


def hashes_of(digests: bytes) -> pa.Array:
    """The hashes that lie one behind the other in ``digests``, fixed_size_binary(16) [n]."""
    count = len(digests) // _HASH_BYTES
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(_HASH_BYTES), count, [None, pa.py_buffer(digests)])


def later_occurrences(hashes: pa.Array) -> NDArray[np.int64]:
    """The numbers of the rows whose hash stood in an earlier row, ascending."""
    codes = np.asarray(pc.dictionary_encode(hashes).indices)  # numbered as they first appear
    return np.flatnonzero(np.diff(np.maximum.accumulate(codes), prepend=-1) == 0)


def _hashes(batch: pa.RecordBatch, composed: bool) -> bytes:
    texts = [pc.fill_null(column.cast(pa.string()), "") for column in batch.columns]
    texts = [pc.utf8_normalize(column, "NFC") for column in texts] if composed else texts
    identities = pc.binary_join_element_wise(*(column.cast(pa.binary()) for column in texts), b"\x1f")
    return b"".join(map(xxhash.xxh3_128_digest, identities.to_numpy(zero_copy_only=False)))
