"""CSV and TSV as columns of text: every value as it stands in the file, every row by itself.

A quote mark belongs to the text unless it opens a field and another one closes it before a delimiter or the end of a
line. In a TSV a quoted field runs over several lines only where these are no rows by themselves, so a stray quote mark
swallows nothing. A row with another number of fields than the header is an error that names its line.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from pipelines.sources.text_files import decode_text
from saliency.files import open_regular

_BLOCK = 16 << 20
_CHUNK = 1 << 16
"""Rows that are held as Python texts at a time."""
_NOTHING = ("nan", "NaN")
"""How pandas and NumPy write a number that is missing; within quotes it is a word."""
_LINE_END = re.compile(r"\r\n|\n|\r|\Z")

Row = list[str | None]


def read_delimited(path: Path) -> pa.Table:
    """The rows of a table, all columns strings, null where a cell is a bare NaN. ValueError, OSError or ArrowException.

    The delimiter is a tab in a ``.tsv``, else whichever of comma, tab, semicolon and bar the first line has most of.
    """
    with open_regular(path) as file:
        text = decode_text(file.read())
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",\t;|", key=_line(text, 0)[0].count)
    rows = _Rows(text, delimiter)
    names = [(name or "").strip() for name in rows.header]
    if len(set(names)) < len(names):
        raise ValueError(f"its header names a column twice: {', '.join(names)}")
    body = text[rows.start :]
    if not body.strip() or not _is_plain(body, delimiter, len(names)):
        return _table(names, rows)
    # Arrow reads a table many times as fast, and of one that is not plain anything.
    return pa.csv.read_csv(
        pa.BufferReader(body.encode()),
        read_options=pa.csv.ReadOptions(block_size=_BLOCK, column_names=names),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=list(_NOTHING),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _is_plain(text: str, delimiter: str, width: int) -> bool:
    """Whether every quote mark is where a strict reader wants it; in a TSV, moreover, no quoted field has lines."""
    if '"' not in text:
        return True
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    count = 0
    try:
        for row in reader:
            count += 1
            if len(row) not in (0, width):
                return False
    except csv.Error:
        return False
    return delimiter != "\t" or reader.line_num == count


def _table(names: list[str], rows: Iterable[Row]) -> pa.Table:
    schema = pa.schema([(name, pa.string()) for name in names])
    pieces = []
    todo = iter(rows)
    while chunk := list(itertools.islice(todo, _CHUNK)):
        arrays = [pa.array(column, pa.string()) for column in zip(*chunk, strict=True)]
        pieces.append(pa.Table.from_arrays(arrays, schema=schema))
    return pa.concat_tables(pieces) if pieces else schema.empty_table()


class _Rows:
    """The rows of a text below its header; iterating raises ValueError for a row of another width."""

    def __init__(self, text: str, delimiter: str) -> None:
        self._text, self._delimiter = text, delimiter
        mark = re.escape(delimiter)
        # Possessive, so that a field without an end costs one pass over what follows it, not many.
        self._field = re.compile(rf'"([^"]*+(?:""[^"]*+)*+)"(?=[{mark}\r\n]|\Z)|([^{mark}\r\n]*+)')
        at, self.first_line = 0, 1
        while at < len(text) and not _line(text, at)[0]:
            at, self.first_line = _line(text, at)[1], self.first_line + 1
        if at == len(text):
            raise ValueError("it is empty")
        self.header, end = self._quoted(at, None)
        self.start, self.first_line = self._behind(at, end, self.first_line)
        self._tabs = delimiter == "\t"

    def __iter__(self) -> Iterator[Row]:
        at, number, width = self.start, self.first_line, len(self.header)
        while at < len(self._text):
            line, following = _line(self._text, at)
            if '"' in line:
                fields, end = self._read(at, line, width)
                following, after = self._behind(at, end, number)
            else:
                fields, after = self._plain(line), number + 1
            if line and len(fields) != width:
                raise ValueError(f"line {number}: Expected {width} columns, got {len(fields)}: {line[:60]!r}")
            if line:
                yield fields
            at, number = following, after

    def _read(self, at: int, line: str, width: int) -> tuple[Row, int]:
        """The row that begins at ``at``, and where it ends: with its quotes read as quotes if that gives a row."""
        fields, end = self._quoted(at, width)
        swallows = self._tabs and end > at + len(line) and self._are_rows(at, end, width)
        if len(fields) == width and not swallows:
            return fields, end
        plain = self._plain(line)
        return (plain, at + len(line)) if len(plain) == width or swallows else (fields, end)

    def _plain(self, line: str) -> Row:
        return [_known(field) for field in line.split(self._delimiter)]

    def _quoted(self, at: int, width: int | None) -> tuple[Row, int]:
        """The fields from ``at`` on up to the end of a row, or to one more than ``width``, and where they end."""
        fields: Row = []
        while True:
            found = self._field.match(self._text, at)
            assert found is not None  # the second form matches nothing as well
            fields.append(_known(found[2]) if found[1] is None else found[1].replace('""', '"'))
            at = found.end()
            if self._text[at : at + 1] != self._delimiter or (width is not None and len(fields) > width):
                return fields, at
            at += 1

    def _are_rows(self, at: int, end: int, width: int) -> bool:
        """Whether every line from ``at`` to ``end`` is a row without those around it."""
        while at < end:
            line, following = _line(self._text, at)
            quoted, stop = self._quoted(at, width)
            alone = len(quoted) == width and stop == at + len(line)
            if line and not alone and line.count(self._delimiter) != width - 1:
                return False
            at = following
        return True

    def _behind(self, at: int, end: int, number: int) -> tuple[int, int]:
        """Where the line behind a row begins, and its number."""
        following = _line(self._text, end)[1]
        return following, number + len(_LINE_END.findall(self._text, at, end)) - 1 + (following > end)


def _line(text: str, at: int) -> tuple[str, int]:
    """The rest of the line, without its end, and where the next one begins."""
    found = _LINE_END.search(text, at)
    assert found is not None
    return text[at : found.start()], found.end()


def _known(field: str) -> str | None:
    return None if field in _NOTHING else field
