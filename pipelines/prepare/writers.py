"""The files of a prepared folder: images with all that is known of them, as Parquet or as WebDataset tars.

Parquet has images as ``datasets`` keeps them ({bytes, path}), uncompressed since JPEGs do not shrink, in row groups
that the Hub's viewer opens. A tar has ``NAME.jpg``, ``NAME.txt``, ``NAME.json`` and ``NAME.cls`` for every image; the
key is in the json, since a WebDataset name ends at its first dot. The same pictures give the same bytes.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.prepare.entries import Columns
from pipelines.sources.tables.columns import ORIGINAL_NAME

SUFFIX = {"parquet": "parquet", "webdataset": "tar"}

_ROW_GROUP = 16 << 20
"""Bytes of images after which a row group ends."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
_COMPRESSED = ("key", "image.path", "caption", "captions.list.element", "url", ORIGINAL_NAME)


@dataclass(frozen=True)
class Picture:
    """One image with what its source says of it; ``rows`` of the source are in it."""

    key: str
    image: bytes
    caption: str | None
    captions: tuple[str, ...]
    label: int | str | None
    url: str | None
    mask: bytes | None
    box: tuple[float, ...] | None
    width: int
    """Of the upright original."""
    height: int
    source_sha256: str
    """Of the encoded original."""
    source_bytes: int
    kept: bool
    rows: int

    @property
    def path(self) -> str:
        """The file name that goes with the image."""
        name = self.key.rpartition("/")[2]
        return f"{name.rpartition('.')[0] or name or 'image'}.jpg"


Writer = Callable[[BinaryIO, Iterable[Picture], Columns], None]


def schema(columns: Columns) -> pa.Schema:
    """The Arrow schema of a Parquet file, with the types of ``datasets`` for images and classes."""
    embedded = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    label = pa.string() if columns.label == "name" else pa.int64()
    kinds = {
        "caption": pa.string(),
        "captions": pa.list_(pa.string()),
        "label": label,
        "url": pa.string(),
        "mask": embedded,
        "box": pa.list_(pa.float32()),
    }
    fields = [("key", pa.string()), ("image", embedded), *((name, kinds[name]) for name in columns.names())]
    fields += [("width", pa.int32()), ("height", pa.int32()), (ORIGINAL_NAME, pa.string())]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if columns.truth == "mask":
        features["mask"] = {"_type": "Image"}
    if columns.label == "index":
        features["label"] = {"names": list(columns.label_names), "_type": "ClassLabel"}
    return pa.schema(fields, {b"huggingface": json.dumps({"info": {"features": features}}).encode()})


def write_parquet(file: BinaryIO, pictures: Iterable[Picture], columns: Columns) -> None:
    """Write the pictures as they come, a row group at a time."""
    shape = schema(columns)
    compression = dict.fromkeys(_COMPRESSED, "zstd")
    options: dict[str, Any] = {"compression": compression, "use_dictionary": False, "write_statistics": ["key"]}
    with pq.ParquetWriter(file, shape, **options) as writer:
        waiting: list[dict[str, Any]] = []
        size = 0
        for picture in pictures:
            waiting.append(_row(picture, shape.names))
            size += len(picture.image) + len(picture.mask or b"")
            if size >= _ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(waiting, shape))
                waiting, size = [], 0
        if waiting:
            writer.write_table(pa.Table.from_pylist(waiting, shape))


def _row(picture: Picture, names: list[str]) -> dict[str, Any]:
    values = {name: getattr(picture, name) for name in names}
    values["image"] = {"bytes": picture.image, "path": picture.path}
    if "mask" in values:
        values["mask"] = None if picture.mask is None else {"bytes": picture.mask, "path": None}
    return values


def write_tar(file: BinaryIO, pictures: Iterable[Picture], columns: Columns) -> None:
    """Write the pictures as they come; true masks and boxes have no place in a tar."""
    used: set[str] = set()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number, picture in enumerate(pictures):
            name = picture.key
            if not _PLAIN_NAME.fullmatch(name) or name in used:
                name = f"{number:06d}"
                while name in used:
                    name += "_"
            used.add(name)
            for kind, content in _members(picture, columns):
                member = tarfile.TarInfo(f"{name}.{kind}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _members(picture: Picture, columns: Columns) -> Iterable[tuple[str, bytes]]:
    yield "jpg", picture.image
    described: dict[str, Any] = {"key": picture.key, "width": picture.width, "height": picture.height}
    described[ORIGINAL_NAME] = picture.source_sha256
    if columns.url:
        described["url"] = picture.url
    if columns.captions:
        described["caption"] = picture.caption
        if columns.all_captions:
            described["captions"] = list(picture.captions)
        # readers strip a txt: a caption with blanks around it would not be found again
        if picture.caption is not None and picture.caption == picture.caption.strip():
            yield "txt", picture.caption.encode()
    if columns.label is not None:
        number = -1 if picture.label is None else picture.label
        if columns.label == "index" and isinstance(number, int):
            described["label"] = None if number < 0 else columns.label_names[number]
        elif columns.label == "name":
            described["label"] = picture.label
        if isinstance(number, int):
            yield "cls", str(number).encode()
    yield "json", json.dumps(described, ensure_ascii=False).encode()


WRITERS: dict[str, Writer] = {"parquet": write_parquet, "webdataset": write_tar}
