"""Text of strangers, made fit to be shown: a name, a key, a caption or a reason may hold anything at all.

``one_line`` is for messages and terminals, ``code_span`` and ``markdown`` are for cards and reports.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

LONGEST_WORD = 400
"""Characters; a longer run without a blank, such as an image in base64, is shown by its ends."""
LONGEST_LINE = 4000
"""Characters of one line."""

_MARKDOWN = re.compile(r"([\\`*\[\]~$|]|(?<![^\W_])_|_(?![^\W_]))")
_BARE_BAR = re.compile(r"(?<!\\)\|")
_TURNS_TEXT = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


def one_line(text: object, longest: int = LONGEST_LINE) -> str:
    """A text as one line of at most about ``longest`` characters that can do nothing to a terminal.

    Runs of blanks and line breaks become one blank; control characters, halves of surrogate pairs and marks that turn
    the direction of text are spelled out, ``\\x1b`` for an escape; what is too long keeps its two ends.
    """
    line = " ".join(_LONG_WORD.sub(lambda word: _ends(word[0], LONGEST_WORD), str(text)).split())
    line = _ends(line, longest)
    return line if line.isascii() and line.isprintable() else "".join(map(_spelled, line))


def code_span(text: object) -> str:
    """A text as code in Markdown, whatever backticks and line breaks it holds."""
    line = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    room = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{room}{line}{room}{fence}"


def markdown(text: object) -> str:
    """A text as plain words in Markdown: no markup, HTML, picture, formula or table cell of its own comes to life."""
    line = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", line)


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown, the first row its heading. Cells are Markdown of one line each."""
    head, *body = rows
    cells = (head, ["---"] * len(head), *body)
    return ["| " + " | ".join(_BARE_BAR.sub(r"\\|", cell) for cell in row) + " |" for row in cells]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines in which the columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def _ends(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    tail = longest // 4
    return f"{text[: longest - tail]}…[{len(text) - longest} characters more]…{text[-tail:]}"


def _spelled(character: str) -> str:
    if character in _TURNS_TEXT or unicodedata.category(character) in ("Cc", "Cs"):
        return ascii(character)[1:-1]
    return character
