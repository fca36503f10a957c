"""Compressed files: by their names or first bytes, and with which tool each is unpacked."""

from __future__ import annotations

import re

_TOOLS = {
    ".gz": "gunzip",
    ".tgz": "gunzip",
    ".bz2": "bunzip2",
    ".xz": "unxz",
    ".zst": "unzstd",
    ".zip": "unzip",
}
_STARTS = {
    re.compile(rb"\x1f\x8b"): ".gz",
    re.compile(rb"BZh[1-9]1AY&SY"): ".bz2",  # a text may begin with the first three alone
    re.compile(rb"\xfd7zXZ\x00"): ".xz",
    re.compile(rb"\x28\xb5\x2f\xfd"): ".zst",
    re.compile(rb"PK\x03\x04"): ".zip",
}
ENOUGH = 10
"""First bytes that tell."""

COMPRESSED = tuple(_TOOLS)
"""File name endings, in lower case."""


def unpacking_tool(file: str | bytes) -> str | None:
    """What unpacks a file, known by its name or by its first bytes; None if it is not compressed."""
    if isinstance(file, str):
        return next((tool for suffix, tool in _TOOLS.items() if file.lower().endswith(suffix)), None)
    return next((_TOOLS[suffix] for start, suffix in _STARTS.items() if start.match(file)), None)
