"""Seeded changes to the bytes of a file: of single bytes, of stretches, of the numbers and the JSON in it.

``mutate`` needs nothing but a ``random.Random``, so an input can be made again from its seed alone.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

LARGEST = 4 << 20
"""Bytes of an input; what grows beyond is cut."""

_SIZES = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**40,
    2**63 - 1,
    2**64 - 1,
)
_NUMBERS = (
    *(b"0", b"-1", b"1", b"-0", b"65536", b"4294967296", b"1099511627776", b"9223372036854775808", b"%d" % 2**70),
    *(b"1e999", b"-1e999", b"1e-999", b"nan", b"NaN", b"Infinity", b"0.5", b"0x10", b"1_0", b"9" * 20, b"9" * 5000),
)
_TOKENS = (
    *(b"", b"\0", b"\n", b"\r", b"\r\n", b'"', b"'", b",", b"\t", b"\\", b"\x1b[2J", b"\xef\xbb\xbf", b"\xff\xfe"),
    *(b"\xfe\xff", b"\xed\xa0\x80", b"\xff", b"{}", b"[]", b"null", b"true", b'"\\ud800"', b"../../x", b"/etc/passwd"),
    *(b"a" * 5000, b"\xe2\x80\xae", b"\xcc\x81", b"\xe2\x80\xa8"),
)
_DEEP = (b"[" * 100_000, b'{"a":' * 50_000, b"[" * 5000 + b"]" * 5000, b"(" * 10_000)
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**40,
        2**63,
        2**70,
        10**3000,
        -(2**70),
        0.5,
        float("nan"),
        float("inf"),
        1e308,
    ),
    *("", "x", "\0", "\ud800", "\x1b[2J", "../x", "/etc/passwd", "9" * 5000, "é", "1", [], {}, [[]], [None], {"": {}}),
    *([1, "a", None, {}], {"bytes": None, "path": None}, "NaN", "a\nb"),
)

Change = Callable[[bytearray, random.Random], None]


def mutate(data: bytes, rng: random.Random, others: Sequence[bytes], words: Sequence[bytes] = ()) -> bytes:
    """``data`` with one to eight changes; ``others`` are files to cross it with, ``words`` what such files hold."""
    for _ in range(min(8, 1 + int(rng.expovariate(0.7)))):
        choice = rng.random()
        if choice < 0.08:
            data = _crossed(data, rng, others)
        elif choice < 0.2 and (changed := _json_changed(data, rng)) is not None:
            data = changed
        else:
            piece = bytearray(data)
            if words and choice < 0.35:
                _overwrite(piece, rng, rng.choice(words))
            else:
                rng.choices(_CHANGES, _WEIGHTS)[0](piece, rng)
            data = bytes(piece)
    return data[:LARGEST]


def _place(data: bytearray, rng: random.Random) -> int:
    """A place in the file; its beginning and its end, where headers and footers are, more often than their share."""
    choice = rng.random()
    if choice < 0.25:
        return rng.randrange(min(len(data), 64) + 1)
    if choice < 0.4:
        return len(data) - rng.randrange(min(len(data), 64) + 1)
    return rng.randrange(len(data) + 1)


def _length(rng: random.Random) -> int:
    return int(2 ** rng.uniform(0, 12))


def _overwrite(data: bytearray, rng: random.Random, piece: bytes) -> None:
    at = _place(data, rng)
    data[at : at + (len(piece) if rng.random() < 0.5 else 0)] = piece


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[min(_place(data, rng), len(data) - 1)] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random) -> None:
    if data:
        data[min(_place(data, rng), len(data) - 1)] = rng.randrange(256)


def _noise(data: bytearray, rng: random.Random) -> None:
    _overwrite(data, rng, rng.randbytes(int(2 ** rng.uniform(0, 8))))


def _size(data: bytearray, rng: random.Random) -> None:
    width = rng.choice((1, 2, 4, 8))
    number = (rng.choice(_SIZES) + rng.randrange(-1, 2)) % (1 << 8 * width)
    at = _place(data, rng)
    data[at : at + width] = number.to_bytes(width, rng.choice(("big", "little")))


def _drop(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    del data[at : at + _length(rng)]


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _copy(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    _overwrite(data, rng, bytes(data[at : at + _length(rng)]))


def _repeat(data: bytearray, rng: random.Random) -> None:
    at, length = _place(data, rng), _length(rng)
    piece = bytes(data[at : at + length])
    data[at : at + length] = piece * min(int(2 ** rng.uniform(1, 16)), LARGEST // max(len(piece), 1))


def _token(data: bytearray, rng: random.Random) -> None:
    _overwrite(data, rng, rng.choice(_TOKENS))


def _deep(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    data[at:at] = rng.choice(_DEEP)


def _number(data: bytearray, rng: random.Random) -> None:
    """Another number in the place of one that is written in digits."""
    at = _place(data, rng)
    found = re.compile(rb"[0-9]+").search(data, at) or re.compile(rb"[0-9]+").search(data)
    if found is not None:
        data[found.start() : found.end()] = rng.choice(_NUMBERS)


_WEIGHTED: dict[Change, float] = {
    _flip: 4, _set: 3, _noise: 2, _size: 4, _drop: 2, _cut: 1, _copy: 2, _token: 2, _number: 2, _repeat: 0.5, _deep: 0.2
}  # fmt: skip
_CHANGES, _WEIGHTS = list(_WEIGHTED), list(_WEIGHTED.values())


def _crossed(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """The beginning of one file and the end of another."""
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _json_changed(data: bytes, rng: random.Random) -> bytes | None:
    """The JSON, or one of the lines that are JSON, with another value somewhere; None if there is none."""
    if data.lstrip()[:1] not in (b"{", b"["):
        return None
    lines = [data] if rng.random() < 0.5 else data.split(b"\n")
    at = rng.randrange(len(lines))
    try:
        content = json.loads(lines[at])
    except (ValueError, RecursionError):
        return None
    try:
        lines[at] = json.dumps(_value_changed(content, rng)).encode()
    except (ValueError, RecursionError):
        return None
    return b"\n".join(lines)


def _value_changed(value: Any, rng: random.Random) -> Any:
    """The value with a change at one place, the deeper the rarer."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        choice = rng.random()
        if choice < 0.1:
            del value[key]
        elif choice < 0.2 and isinstance(value, dict):
            value[str(rng.choice(_VALUES))[:50]] = value.pop(key)
        elif choice < 0.25 and isinstance(value, list):
            value.extend([value[key]] * rng.choice((1, 2, 1000)))
        else:
            value[key] = _value_changed(value[key], rng)
        return value
    return rng.choice(_VALUES)
