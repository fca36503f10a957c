"""The preview of a published table: some rows as pictures that the Hub's viewer shows beside their captions.

A picture is the map alone in colours, which holds no pixel of the photo, or the map laid over its photo, at most 256
pixels a side. An image whose bytes are not those that its map was made of gets no picture: it would show another's map.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from pipelines.plots import in_colours, overlay
from pipelines.progress import progress_bar
from pipelines.sources.images import BadImage, decode_rgb
from pipelines.sources.source import Source
from saliency.files import write_atomically
from saliency.quality import as_box, lay_on_image
from saliency.table.rows import pair_hashes, read_rows
from saliency.table.shard import ShardFile

LONGEST_SIDE = 256
"""Pixels of a picture."""

_ROWS = 100  # a row group, and what is held in memory at a time
_COLUMNS = ("key", "url", "caption", "image_sha256", "width", "height", "crop_box", "saliency", "clip_score")
_QUALITY = 88  # of the JPEGs


@dataclass(frozen=True)
class Preview:
    """What ``write_preview`` wrote: how many pictures, and how many rows have none because their image is not there."""

    pictures: int
    skipped: int


def spread(rows: int, count: int) -> NDArray[np.int64]:
    """At most ``count`` row numbers, evenly spaced from the first to the last, int64 ascending."""
    return np.unique(np.rint(np.linspace(0, rows - 1, min(count, rows))).astype(np.int64))


def write_preview(
    path: Path, files: Sequence[Path], rows: NDArray[np.int64], source: Source | None, *, quiet: bool = False
) -> Preview:
    """Write the preview of some rows of the shards ``files`` as one Parquet file.

    With a ``source`` the maps lie over its images, without one they stand alone. Columns: ``picture`` (JPEG; an
    ``Image`` to ``datasets`` and the viewer), ``key``, ``url``, ``caption``, ``clip_score``. A row whose image is not
    in the source, can't be read or has other bytes is passed over.
    """
    known = None if source is None else pair_hashes(source.keys, source.captions)
    grid = ShardFile(files[0]).grid
    written = 0

    def write(file: Any) -> None:
        nonlocal written
        bar = progress_bar(total=len(rows), name="preview", unit="pictures", part=True, quiet=quiet)
        with _writer(file) as writer, closing(bar):
            for start in range(0, len(rows), _ROWS):
                table = read_rows(files, rows[start : start + _ROWS], _COLUMNS)
                shown = _pictured(table, source, known, grid)
                written += len(shown)
                writer.write_table(pa.Table.from_pylist(shown, _schema()))
                bar.update(len(table))

    write_atomically(path, write)
    return Preview(written, len(rows) - written)


def _schema() -> pa.Schema:
    """Arrow's schema with the features as ``datasets`` and the viewer read them."""
    import datasets

    text, number = datasets.Value("string"), datasets.Value("float32")
    columns = {"picture": datasets.Image(), "key": text, "url": text, "caption": text, "clip_score": number}
    schema: pa.Schema = datasets.Features(columns).arrow_schema
    return schema


def _writer(file: Any) -> pq.ParquetWriter:
    """Its pages end where their content says so, so that a preview with a few other pictures uploads those alone."""
    pages: dict[str, Any] = {"use_content_defined_chunking": True, "write_page_index": True}
    return pq.ParquetWriter(file, _schema(), compression="zstd", use_dictionary=False, **pages)


def _pictured(table: pa.Table, source: Source | None, known: pa.Array | None, grid: int) -> list[dict[str, Any]]:
    """The rows that can be shown, with their pictures."""
    places = [-1] * len(table)
    if source is not None:
        hashes = pair_hashes(table["key"], table["caption"] if source.captions is not None else None)
        places = pc.fill_null(pc.index_in(hashes, value_set=known), -1).to_pylist()
    shown = []
    for row, place in zip(table.to_pylist(), places, strict=True):
        slots = np.asarray(row["saliency"], np.float32).reshape(-1, grid, grid)
        values = slots[(len(slots) - 1) // 2]  # the middle frame's
        box = np.asarray(row["crop_box"], np.float32)
        if source is None:
            picture = heat_map(values, box, (row["height"], row["width"]))
        else:
            image = _image(source, place, row["image_sha256"])
            if image is None:
                continue
            picture = overlay(image, lay_on_image(values, (image.shape[0], image.shape[1]), as_box(box)))
        shown.append({"picture": {"bytes": _jpeg(picture), "path": None}} | {name: row[name] for name in _TEXTS})
    return shown


_TEXTS = ("key", "url", "caption", "clip_score")


def heat_map(values: NDArray[np.float32], box: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """A map [h, w] in colours where it lies on an image of that (height, width), RGB uint8 within 256 pixels a side."""
    scale = LONGEST_SIDE / max(shape)
    height, width = (max(1, round(side * scale)) for side in shape)
    return np.asarray(np.rint(in_colours(lay_on_image(values, (height, width), as_box(box)))), np.uint8)


def _image(source: Source, place: int, sha256: str) -> NDArray[np.uint8] | None:
    """A row's image as RGB uint8 within 256 pixels a side; None if it is not the one that the map was made of."""
    if place < 0:
        return None
    try:
        data = source.read_image(place)
        if hashlib.sha256(data).hexdigest() != sha256:
            return None
        image = decode_rgb(data, draft=LONGEST_SIDE)
    except (BadImage, OSError):
        return None
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
