"""WebDataset tars as a source with random access: each tar is indexed once, its images are read where they lie.

Members with the same path up to the first dot of the file name are one sample, as in WebDataset; captions, labels,
keys and URLs come from its small text members. A sample without an image, or cut off by the end of its tar, is an
unreadable sample, not an error.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.errors import UserError
from pipelines.sources.images import LARGEST_FILE, BadImage
from pipelines.sources.source import NoImage, Source
from pipelines.sources.tables.columns import (
    LABEL_NAMES,
    ORIGINAL_NAME,
    URL_NAMES,
    Wishes,
    as_text,
    caption_values,
    first_field,
    known,
    label_values,
    sample_caption,
    to_array,
)
from pipelines.sources.tars.tar_index import IMAGE_KINDS, TEXT_KINDS, Shard, index_tar
from pipelines.sources.text_files import BadText, decode_text
from saliency.files import parse_json


@dataclass(frozen=True)
class TarImages:
    """Images inside tars: tar number, offset and size of each; offset -1 where a sample has none."""

    paths: list[str]
    tars: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __getitem__(self, row: int) -> bytes:
        offset, size = int(self.offsets[row]), int(self.sizes[row])
        path = self.paths[self.tars[row]]
        if offset < 0:
            raise NoImage(f"its sample in {path} has no image")
        if size > LARGEST_FILE:
            raise BadImage(f"larger than {LARGEST_FILE:,} bytes")
        descriptor = os.open(path, os.O_RDONLY)
        try:
            data = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
        if len(data) < size:
            raise BadImage(f"truncated: {path} ends before it does")
        return data


def open_tars(name: str, files: list[Path], wishes: Wishes) -> Source:
    """The source held by tars, in order; ``name`` is what the user typed.

    ``wishes.image_column`` names the image's kind (``png``, ``seg.png``), ``caption_column`` is ``txt`` or a field of
    the ``json``. Raises UserError if the tars are compressed or hold no images.
    """
    kinds = IMAGE_KINDS if wishes.image_column is None else (wishes.image_column.lower().lstrip("."),)
    described = _Described(wishes)
    shards = []
    for path in files:
        shard = index_tar(path, kinds)
        described.add(shard)
        # Only where the images are is kept of a shard: its texts would fill the memory.
        shard.texts = {}
        shards.append(shard)
        if wishes.limit is not None and len(described.keys) >= wishes.limit:
            break
    warnings = [warning for shard in shards for warning in shard.warnings]
    counts = [len(shard.keys) for shard in shards]
    images = TarImages(
        [str(shard.path) for shard in shards],
        np.repeat(np.arange(len(shards), dtype=np.int32), counts),
        np.asarray([offset for shard in shards for offset in shard.offsets], np.int64),
        np.asarray([size for shard in shards for size in shard.sizes], np.int64),
    )
    if not (images.offsets >= 0).any():
        found = sorted({kind for shard in shards for kind in shard.other_kinds})
        why = warnings[0] if warnings else f"its members are of the kinds {', '.join(found) or 'none'}"
        raise UserError(f"{name} holds no {'images' if wishes.image_column is None else kinds[0]}: {why}")
    return described.source(name, images, warnings)


class _Described:
    """The columns that the text members of all tars give, gathered shard by shard."""

    def __init__(self, wishes: Wishes) -> None:
        self.wishes = wishes
        self.keys: list[str] = []
        self.captions: list[str | list[Any] | None] = []
        self.labels: list[Any] = []
        self.urls: list[str | None] = []
        self.originals: list[str | None] = []
        self.fields: set[str] = set()
        self.faults: dict[int, str] = {}
        self.garbled = False
        """Whether a text is no UTF-8: then there are captions, whatever they say."""

    def add(self, shard: Shard) -> None:
        broken = 0
        for prefix, text, document, cls in zip(shard.keys, *(shard.texts[kind] for kind in TEXT_KINDS), strict=True):
            fields: dict[str, Any] = {}
            faults = []
            if document is not None:
                try:
                    loaded = parse_json(decode_text(document))
                    fields = loaded if isinstance(loaded, dict) else {}
                except ValueError as error:
                    broken += 1
                    faults.append(f"its json: {error}")
            self.fields |= fields.keys()
            caption: str | list[Any] | None = None
            try:
                caption = sample_caption(_stripped(text), fields, self.wishes)
            except BadText as error:
                faults.append(f"its txt: {error}")
                self.garbled = True
            if caption is None and faults:
                self.faults[len(self.keys)] = faults[-1]
            if text is not None:
                self.fields.add("txt")
            self.keys.append(as_text(fields.get("key")) or prefix)
            self.urls.append(as_text(first_field(fields, URL_NAMES)))
            self.originals.append(as_text(fields.get(ORIGINAL_NAME)))
            self.captions.append(caption)
            self.labels.append(_label(fields, cls))
        if broken:
            shard.warnings.append(f"{shard.path}: {broken} json members are not JSON")

    def source(self, name: str, images: TarImages, warnings: list[str]) -> Source:
        """The source of these columns; raises UserError if the named caption column was nowhere."""
        wished = self.wishes.caption_column
        if wished is not None and wished not in self.fields:
            known = ", ".join(map(repr, sorted(self.fields))) or "none"
            raise UserError(f"{name} has no caption column {wished!r}; its samples have the fields {known}")
        texts, rows = None, None
        if wished is not None or self.garbled or any(caption is not None for caption in self.captions):
            texts, rows = caption_values(to_array(self.captions), self.wishes.captions)
        labels, names = None, None
        if any(label is not None for label in self.labels):
            labels, names = label_values(to_array(self.labels), untyped=True)
        urls = pa.array(self.urls, pa.string()) if any(url is not None for url in self.urls) else None
        has_originals = any(original is not None for original in self.originals)
        originals = pa.array(self.originals, pa.string()) if has_originals else None
        source = Source(
            name, to_array(self.keys), images, None, labels, names, urls, originals=originals, warnings=warnings,
            faults=self.faults,
        )  # fmt: skip
        return replace(source, texts=texts) if rows is None else source.with_captions(texts, rows)


def _label(fields: dict[str, Any], cls: bytes | None) -> Any:
    """The label of a sample: a name in its ``json`` says more than the number in its ``cls``."""
    named = known(fields.get("label"))
    if cls is None or isinstance(named, str):
        return first_field(fields, LABEL_NAMES)
    try:
        return None if "label" in fields and named is None else _stripped(cls)
    except BadText:
        return None


def _stripped(text: bytes | None) -> str | None:
    return None if text is None else decode_text(text).strip()
