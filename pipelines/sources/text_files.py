"""Text files in the encodings that are told apart for certain: UTF-8 with or without its mark, UTF-16 by its mark.

Everything else is refused by name. A guess would be right for one file and garble the next without a word.
"""

from __future__ import annotations

import codecs
import io
from pathlib import Path
from typing import TextIO

from pipelines.sources.compressed import ENOUGH, unpacking_tool
from saliency.files import open_regular, read_regular

LARGEST_TEXT = 1 << 24
"""Bytes of a caption beside an image."""

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_ADVICE = "save it as UTF-8"


class BadText(ValueError):  # noqa: N818 (it is the file that is bad)
    """The bytes are not text in an encoding that is known for certain; the text says why, without the file's name."""


def decode_text(data: bytes) -> str:
    """The text in ``data``, without its byte order mark. Raises ``BadText``."""
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        raise _bad(error) from error
    if "\0" in text:
        raise BadText(f"it holds zero bytes, as UTF-16 without a byte order mark does: {_ADVICE}")
    return text


def read_text(path: Path) -> str:
    """The text of a small regular file, without blanks around it. Raises ``BadText``, which names it, or OSError."""
    try:
        return decode_text(read_regular(path, LARGEST_TEXT)).strip()
    except BadText as error:
        raise BadText(f"{path.name}: {error}") from error


def open_lines(path: Path) -> TextIO:
    """A text file to be read line by line; what is no text raises UnicodeError there (see ``explain``).

    Raises ``BadText``, or OSError for what is no regular file.
    """
    file = open_regular(path)
    try:
        encoding = _encoding(file.peek(ENOUGH)[:ENOUGH])
    except BaseException:
        file.close()
        raise
    return io.TextIOWrapper(file, encoding=encoding, newline="\n")


def explain(error: UnicodeError) -> BadText:
    """What a line that could not be decoded says of its file."""
    return _bad(error) if isinstance(error, UnicodeDecodeError) else BadText(f"{error}: {_ADVICE}")


def _encoding(start: bytes) -> str:
    if start.startswith(_UTF32):
        raise BadText(f"it is UTF-32: {_ADVICE}")
    if tool := unpacking_tool(start[:ENOUGH]):
        raise BadText(f"it is compressed: unpack it first ({tool})")
    return "utf-16" if start.startswith(_UTF16) else "utf-8-sig"


def _bad(error: UnicodeDecodeError) -> BadText:
    if error.encoding.lower().startswith("utf-16"):
        return BadText(f"it is damaged UTF-16 ({error.reason}): {_ADVICE}")
    return BadText(f"it is not UTF-8 (byte 0x{error.object[error.start]:02x}: {error.reason}): {_ADVICE}")
