"""Compressed files: by their names or first bytes, and with which tool each is unpacked."""

from __future__ import annotations

_TOOLS = {
    ".gz": "gunzip",
    ".tgz": "gunzip",
    ".bz2": "bunzip2",
    ".xz": "unxz",
    ".zst": "unzstd",
    ".zip": "unzip",
}
_STARTS = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"\x28\xb5\x2f\xfd": ".zst", b"PK\x03\x04": ".zip"}

COMPRESSED = tuple(_TOOLS)
"""File name endings, in lower case."""


def unpacking_tool(file: str | bytes) -> str | None:
    """What unpacks a file, known by its name or by its first bytes; None if it is not compressed."""
    if isinstance(file, str):
        return next((tool for suffix, tool in _TOOLS.items() if file.lower().endswith(suffix)), None)
    return next((_TOOLS[suffix] for start, suffix in _STARTS.items() if file.startswith(start)), None)
