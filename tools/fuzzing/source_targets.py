"""Tars, tables and captions as inputs, and what is held of their readers."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.images import BadImage, EncodedImage
from pipelines.sources.open_source import open_source
from pipelines.sources.source import Source
from pipelines.sources.tars.tar_index import index_tar, read_members
from pipelines.sources.text_files import BadText, decode_text, open_lines, read_text
from tests.pipelines.sources.tars import test_hostile_tars as hostile
from tests.pipelines.sources.tars.test_tars import BLUE, RED
from tools.fuzzing.worker import Lost

BLOCK = 512
"""Bytes."""


def tars() -> list[bytes]:
    """Tars in each dialect, those of the tests whose headers lie, and compressed ones."""
    texts = [
        ("b.json", json.dumps({"caption": "é", "label": 3, "url": "http://x/y", "key": "k"}).encode()),
        ("a.cls", b"7"),
    ]
    files = [
        ("a.png", RED),
        ("a.txt", b"a red thing"),
        ("d/b.jpg", BLUE),
        *((f"d/{name}", text) for name, text in texts),
    ]
    files += [("long/" * 30 + "c.png", RED), ("d/é.png", BLUE), ("only.txt", b"no image")]
    found = []
    for dialect in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=dialect) as archive:
            for name, data in files:
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(data), 1.5 if dialect == tarfile.PAX_FORMAT else 1
                archive.addfile(info, io.BytesIO(data))
        found.append(buffer.getvalue().rstrip(b"\0") + b"\0" * 1024)
    found += [hostile.GOOD + block + hostile.LATER for block, _ in hostile.LIES.values()]
    found += [
        hostile.GOOD + hostile.pax(hostile.record(b"path", b"p.png")) + hostile.member("x", RED),
        gzip.compress(found[0]),
    ]
    return found


def tar_checksums(data: bytes) -> bytes:
    """The tar with right checksums in all blocks that look like headers."""
    blocks = [bytearray(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
    for block in blocks:
        if len(block) == BLOCK and (block[257:262] == b"ustar" or block[100:107] == b"0000644"):
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(map(bytes, blocks))


def read_tar(data: bytes, folder: Path) -> None:
    """Opens a tar and reads all that is in it; every image among its members is the image of a sample."""
    path = folder / "a.tar"
    path.write_bytes(data)
    source = open_source(str(path))
    walk(source)
    members = list(read_members(path, []))
    shard = index_tar(path)
    found = {(offset, size) for offset, size in zip(shard.offsets, shard.sizes, strict=True) if offset >= 0}
    pictures = {
        (offset, size) for name, offset, size, _ in members if name.lower().endswith(".png") and "." not in name[:-4]
    }
    pictures -= {(offset, size) for name, offset, size, _ in members if name.rpartition("/")[2].startswith(".")}
    if not pictures <= found or len(source) != len(shard.keys):
        raise Lost(f"{len(pictures - found)} images of {len(pictures)} are in no sample")


def walk(source: Source) -> None:
    """Every row of a source: an image or a reason, and its caption, label, mask and fault."""
    if not len(source):
        raise Lost("a source without rows")
    captions = None if source.captions is None else source.captions.to_pylist()
    for column in (captions, source.labels, source.urls, source.originals):
        if column is not None and len(column) != len(source):
            raise Lost(f"a column of {len(column)} for {len(source)} rows")
    for i in range(min(len(source), 50)):
        source.fault(i)
        with contextlib.suppress(BadImage, OSError):
            EncodedImage(source.read_image(i)).decode()
            source[i]
        with contextlib.suppress(BadImage, OSError):
            source.read_mask(i)
    source.repeated  # noqa: B018 (it is computed)


_ROWS = [
    {"file_name": "a.png", "caption": "a red thing", "label": "x", "url": "http://h/1"},
    {"file_name": "b.png", "caption": 'two, "quoted"', "label": "y", "url": "http://h/2"},
    {"file_name": "lost.png", "caption": "", "label": "x", "url": ""},
    {"file_name": "a.png", "caption": "é\tmore", "label": "y", "url": "http://h/3"},
]


def _delimited(mark: str) -> list[bytes]:
    found = []
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(_ROWS[0]), delimiter=mark, quoting=quoting)
        writer.writeheader()
        writer.writerows(_ROWS * (1 if quoting == csv.QUOTE_ALL else 10))
        found.append(buffer.getvalue().encode())
    numbers = (
        mark.join(("image", "text", "label", "mask"))
        + "\n"
        + "".join(f"a.png{mark}x{i}{mark}{i}{mark}b.png\n" for i in range(9))
    )
    return [
        *found,
        numbers.encode(),
        numbers.encode("utf-16"),
        b"\xef\xbb\xbf" + numbers.replace("\n", "\r\n").encode(),
        b"",
    ]


def csvs() -> list[bytes]:
    """Tables with commas and semicolons, quoted and not, in UTF-8 and UTF-16."""
    return [*_delimited(","), *_delimited(";")]


def tsvs() -> list[bytes]:
    """Tables with tabs."""
    return _delimited("\t")


def jsonls() -> list[bytes]:
    """Lines of objects: of texts, numbers, lists, boxes and mixtures."""
    rows = [
        _ROWS,
        [
            {"file_name": "a.png", "captions": ["one", "two"], "box": [0, 0, 2, 2.5], "id": i, "label": i}
            for i in range(4)
        ],
        [{"image": "a.png", "text": value, "label": value} for value in ("x", 1, None, 0.5, ["y"], {"z": 1}, True)],
        [{"image": "a.png", "mask": "b.png", "caption": "c", "source_sha256": "ab"}],
    ]
    return ["".join(json.dumps(row) + "\n" for row in each).encode() for each in rows]


def parquets() -> list[bytes]:
    """Tables that name files, with and without compression, lists and dictionaries; and such that hold the images."""
    named = pa.Table.from_pylist(_ROWS)
    lists = pa.table({"file_name": ["a.png", "b.png"], "captions": [["x", "y"], []], "box": [[0, 0, 1, 1], None]})
    labels = pa.table(
        {"file_name": pa.array(["a.png"] * 3).dictionary_encode(), "label": [0, 1, None], "text": ["a", None, "c"]}
    )
    inside = pa.table(
        {"image": [{"bytes": RED, "path": "a.png"}, {"bytes": None, "path": "b.png"}], "caption": ["a", "b"]}
    )
    plain = pa.table({"jpg": [RED, BLUE, None], "txt": ["a", "b", "c"], "key": [1, 2, 3]})
    found = []
    for table, options in (
        (named, {"compression": "none"}),
        (lists, {}),
        (labels, {"compression": "zstd"}),
        (inside, {}),
        (plain, {}),
    ):
        buffer = io.BytesIO()
        pq.write_table(table, buffer, **options)
        found.append(buffer.getvalue())
    return found


def _opened(data: bytes, folder: Path, name: str) -> Source:
    for image, content in (("a.png", RED), ("b.png", BLUE)):
        if not (folder / image).exists():
            (folder / image).write_bytes(content)
    (folder / name).write_bytes(data)
    source = open_source(str(folder / name), captions="all")
    assert isinstance(source, Source)
    return source


def read_csv(data: bytes, folder: Path, name: str = "t.csv") -> None:
    """A table of text; where no quote mark is in it, every line but the first is a row."""
    source = _opened(data, folder, name)
    walk(source)
    text = decode_text(data)
    rows = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line]
    if '"' not in text and len(source) != len(rows) - 1:
        raise Lost(f"{len(source)} pairs of {len(rows) - 1} lines")
    first = open_source(str(folder / name))
    if len(first) > len(source):
        raise Lost(f"{len(first)} pairs with their first captions, {len(source)} with all")


def read_tsv(data: bytes, folder: Path) -> None:
    """As a table with commas."""
    read_csv(data, folder, "t.tsv")


def read_jsonl(data: bytes, folder: Path) -> None:
    """A table of objects: every line that is not blank is at least a pair."""
    source = _opened(data, folder, "t.jsonl")
    walk(source)
    with open_lines(folder / "t.jsonl") as lines:
        count = sum(bool(line.strip().removeprefix("\ufeff")) for line in lines)
    if len(source) < count:
        raise Lost(f"{len(source)} pairs of {count} lines")


def read_parquet(data: bytes, folder: Path) -> None:
    """A Parquet table: every row is at least a pair."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    try:
        source = _opened(data, folder, "t.parquet")
        walk(source)
        rows = pq.read_metadata(folder / "t.parquet").num_rows
        if len(source) < rows:
            raise Lost(f"{len(source)} pairs of {rows} rows")
    finally:
        shutil.rmtree(folder / "cache", ignore_errors=True)


def captions() -> list[bytes]:
    """Text files: the first byte says what the file beside the image is called."""
    texts = [
        "a red thing\n",
        "",
        "é",
        "two\nlines",
        json.dumps({"caption": "by json"}),
        json.dumps({"captions": ["x", "y"]}),
    ]
    found = [bytes([kind]) + text.encode() for kind in range(4) for text in texts]
    return [
        *found,
        b"\0" + "wide".encode("utf-16"),
        b"\0" + "wide".encode("utf-32"),
        b"\0\xef\xbb\xbfmarked",
        b"\0\xff\xfeodd",
    ]


def read_captions(data: bytes, folder: Path) -> None:
    """An image with a text beside it: it is the caption, or there is a reason, or it says nothing."""
    kind, text = data[:1], data[1:]
    name = ("a.txt", "a.caption", "a.png.txt", "a.json")[kind[0] % 4 if kind else 0]
    for path in folder.iterdir():
        path.unlink()
    (folder / "a.png").write_bytes(RED)
    (folder / "b.png").write_bytes(BLUE)
    (folder / "b.txt").write_text("blue")
    if name == "a.json":
        (folder / "a.txt").write_text("")
    (folder / name).write_bytes(text)
    source = open_source(str(folder))
    walk(source)
    if len(source) != 2:
        raise Lost(f"{len(source)} pairs of two images")
    with contextlib.suppress(BadText):
        if name != "a.json" and read_text(folder / name) != (source.caption(0) or ""):
            raise Lost(f"{source.caption(0)!r} is the caption")
        return
    if source.caption(0) is None and not source.fault(0) and name != "a.json":
        raise Lost("a caption that can't be read, and no reason")
