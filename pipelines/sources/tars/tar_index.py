"""Where the members of a tar lie, read from its headers: no image is touched, no archive unpacked.

The header reader understands ustar, PAX and GNU long names and is several times faster than ``tarfile``, which
matters at millions of samples. A damaged or cut tar gives its members up to the damage, and a warning; whatever a
header says, no more than a megabyte is held of a tar, and every step leads on by a block.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.errors import UserError
from pipelines.sources.compressed import ENOUGH, unpacking_tool
from pipelines.sources.images import SUFFIXES
from saliency.files import open_regular

IMAGE_KINDS = ("jpg", "jpeg", "png", "webp", *sorted(s[1:] for s in SUFFIXES - {".jpg", ".jpeg", ".png", ".webp"}))
TEXT_KINDS = ("txt", "json", "cls")

_BLOCK = 512
_WINDOW = 8192
"""Bytes read at a time: a sample's text members and the headers around them."""
_MAX_TEXT = 1 << 20
_DIGITS = 20
"""More than a number of 64 bits has."""
_WITHOUT_DATA = b"123456"
_REGULAR = b"0\x007"
_STORED_OTHERWISE = b"12S"
"""Links, hard and symbolic, and files with holes."""


@dataclass
class Shard:
    """What the members of one tar say, one entry a sample in each list."""

    path: Path
    keys: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    """Which of the image kinds was found; len(kinds) for none."""
    texts: dict[str, list[bytes | None]] = field(default_factory=lambda: {kind: [] for kind in TEXT_KINDS})
    other_kinds: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)

    def add(self, key: str, rank: int) -> int:
        """A new sample without image or text; returns its number."""
        self.keys.append(key)
        self.offsets.append(-1)
        self.sizes.append(0)
        self.ranks.append(rank)
        for texts in self.texts.values():
            texts.append(None)
        return len(self.keys) - 1


def index_tar(path: Path, kinds: tuple[str, ...] = IMAGE_KINDS) -> Shard:
    """The samples of one tar; of several images in a sample, the kind that comes first in ``kinds``."""
    shard = Shard(path)
    ranks = {kind: rank for rank, kind in enumerate(kinds)}
    samples: dict[str, int] = {}
    for name, offset, size, data in read_members(path, shard.warnings):
        folder, slash, base = name.rpartition("/")
        stem, dot, kind = base.partition(".")
        if not stem or not dot:
            continue
        kind = kind.lower()
        prefix = folder + slash + stem
        sample = samples.get(prefix)
        rank = ranks.get(kind)
        if sample is not None and (
            shard.ranks[sample] == rank or (data is not None and shard.texts[kind][sample] is not None)
        ):
            sample = None  # A second image of the same kind: another sample of the same key.
        if sample is None:
            sample = samples[prefix] = shard.add(prefix, len(kinds))
        if rank is not None and rank < shard.ranks[sample]:
            shard.offsets[sample], shard.sizes[sample], shard.ranks[sample] = offset, size, rank
        elif data is not None:
            shard.texts[kind][sample] = data
        else:
            shard.other_kinds.add(kind)
    return shard


def read_members(path: Path, warnings: list[str]) -> Iterator[tuple[str, int, int, bytes | None]]:
    """Name, offset and size of each regular member, and its bytes if it is a small text.

    A member that the tar ends inside of has a size that leads just past the end, whatever its header says. Images and
    texts that are links or sparse files, whose bytes are not in one piece, are left out with a warning. OSError for
    what is no regular file, UserError for a compressed one.
    """
    left_out: list[str] = []
    yield from _members(path, warnings, left_out)
    if left_out:
        warnings.append(
            f"{path}: {len(left_out)} members are links or sparse files and are left out; the first is {left_out[0]}: "
            "pack the files themselves (tar --dereference --hard-dereference, without --sparse)"
        )


def _members(path: Path, warnings: list[str], left_out: list[str]) -> Iterator[tuple[str, int, int, bytes | None]]:
    """See :func:`read_members`; ``left_out`` takes the names."""
    with open_regular(path) as file:
        end = os.fstat(file.fileno()).st_size
        window, base = b"", 0

        def read(offset: int, size: int) -> bytes:
            nonlocal window, base
            if offset < base or offset + size > base + len(window):
                window, base = os.pread(file.fileno(), max(size, _WINDOW), offset), offset
            return window[offset - base : offset - base + size]

        if tool := unpacking_tool(read(0, ENOUGH)):
            raise UserError(f"{path} is compressed: unpack it first ({tool}), images gain nothing from it")
        offset = 0
        following = _Following()
        while offset < end:
            header = read(offset, _BLOCK)
            if header[0] == 0 and not header.strip(b"\0"):
                return
            if len(header) < _BLOCK or not _is_header(header):
                what = "ends inside a header" if len(header) < _BLOCK else "has a damaged header"
                warnings.append(f"{path} {what} at byte {offset}: what follows is lost")
                return
            kind = header[156:157]
            start = offset + _BLOCK
            size = _number(header[124:136]) if kind not in _WITHOUT_DATA else 0
            if kind in b"xL":
                if size > _MAX_TEXT:
                    warnings.append(
                        f"{path} has {size:,} bytes about one member at byte {offset}: they are passed over"
                    )
                else:
                    following.read(kind, read(start, size))
                offset = start + _padded(size)
                continue
            if kind == b"S":  # its map goes on in blocks of its own, before the data
                more = header[482]
                while more and start < end:
                    more = read(start, _BLOCK)[504:505] not in (b"", b"\0")
                    start += _BLOCK
            size = size if following.size is None or kind in _WITHOUT_DATA else following.size
            offset = start + _padded(size)
            name = (following.name if following.name is not None else _name(header)).removeprefix("./")
            ending = name.rpartition("/")[2].partition(".")[2].lower()
            is_text = ending in TEXT_KINDS
            if kind in _STORED_OTHERWISE or following.is_sparse:
                if is_text or ending in IMAGE_KINDS:
                    left_out.append(name)
            elif kind in _REGULAR:
                if start + size > end:
                    warnings.append(f"{path} ends inside {name}: what follows is lost")
                elif is_text and size > _MAX_TEXT:
                    warnings.append(f"{path}: {name} has {size:,} bytes, too many for a text, and is not read")
                text = read(start, size) if is_text and size <= _MAX_TEXT and start + size <= end else None
                yield name, start, min(size, end + 1 - start), text
            if kind not in b"gK":
                following = _Following()


@dataclass
class _Following:
    """What extended headers say of the member that follows them."""

    name: str | None = None
    size: int | None = None
    is_sparse: bool = False

    def read(self, kind: bytes, data: bytes) -> None:
        """Take in GNU's long name, or the path and size of PAX records and whether they tell of holes."""
        if kind == b"L":
            self.name = _decoded(data.rstrip(b"\0"))
            return
        place = 0
        while (blank := data.find(b" ", place, place + _DIGITS)) >= 0:
            length = data[place:blank]
            if not length.isdigit() or int(length) <= blank - place:
                return
            record, place = data[blank + 1 : place + int(length) - 1], place + int(length)
            if record.startswith(b"GNU.sparse."):
                self.is_sparse = True
                self.name = _decoded(record[16:]) if record.startswith(b"GNU.sparse.name=") else self.name
            elif record.startswith(b"path=") and not self.is_sparse:  # a sparse file's path is a made-up one
                self.name = _decoded(record[5:])
            elif record.startswith(b"size=") and record[5:].isdigit() and len(record) < _DIGITS:
                self.size = int(record[5:])


def _padded(size: int) -> int:
    return (size + _BLOCK - 1) // _BLOCK * _BLOCK


def _is_header(header: bytes) -> bool:
    """Whether the header's numbers are numbers and its checksum is right."""
    try:
        stated = _number(header[148:156])
        _number(header[124:136])
    except ValueError:
        return False
    return sum(header) - sum(header[148:156]) + 256 == stated


def _number(digits: bytes) -> int:
    """A number of a header; ValueError for what is none, or is negative."""
    if digits[0] == 0x80:  # GNU's binary form, for more than 8 GiB
        return int.from_bytes(digits[1:], "big")
    octal = digits.split(b"\0", 1)[0].strip() or b"0"
    if octal.strip(b"01234567"):
        raise ValueError(f"{octal!r} is no octal number")
    return int(octal, 8)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    return _decoded(name)


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
