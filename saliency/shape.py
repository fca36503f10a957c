"""The declared shape of a file of a stranger: a ``TypedDict``, and the one function that holds JSON against it.

A reader says what it needs as a ``TypedDict`` of JSON's types, with ``Annotated[int, Between(1, 1024)]`` for a range
and ``Required`` for what can't be left out, and calls :func:`fitting` once. Names that are not declared are kept: a
later version may write more.
"""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from saliency.files import LARGEST_JSON, read_json
from saliency.shown import one_line

LARGEST = 2**63 - 1
"""Of whole numbers that are not declared to be smaller."""

_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}

Shape = TypeVar("Shape")


@dataclass(frozen=True)
class Between:
    """The range of a number, both ends included; NaN is in no range."""

    least: float
    most: float


def fitting(content: Any, shape: type[Shape]) -> Shape:
    """What JSON said, which is known to have the ``shape``; ValueError that names the first place that has not.

    Text anywhere in it can be written as UTF-8.
    """
    wrong = next(_misfits(content, shape, ""), None)
    if wrong is None and not _is_utf8(content):
        wrong = "it holds half of a surrogate pair, which is no text"
    if wrong is not None:
        raise ValueError(wrong)
    return cast(Shape, content)


def read_fitting(path: Path, shape: type[Shape], most: int = LARGEST_JSON) -> Shape:
    """:func:`fitting` for a JSON file of at most ``most`` bytes; ValueError, whose text does not name the file."""
    return fitting(read_json(path, most), shape)


def _misfits(value: Any, hint: Any, place: str) -> Iterator[str]:
    """What is not as declared; ``place`` is where, '' for all of it."""
    origin, arguments = get_origin(hint), get_args(hint)
    where = place or "it"
    if hint is Any:
        return
    if origin in (Required, NotRequired):
        yield from _misfits(value, arguments[0], place)
    elif origin is Annotated:
        wrong = next(_misfits(value, arguments[0], place), None)
        bounds = arguments[1]
        if wrong is not None:
            yield wrong
        elif not bounds.least <= value <= bounds.most:
            yield f"{where} is {one_line(value, 40)}, not from {bounds.least:g} to {bounds.most:g}"
    elif origin in (Union, types.UnionType):
        found = [next(_misfits(value, argument, place), None) for argument in arguments]
        if None not in found:
            yield str(found[0])
    elif origin is Literal:
        if value not in arguments:
            yield f"{where} is {one_line(repr(value), 60)}, not one of: {', '.join(map(str, arguments))}"
    elif is_typeddict(hint) or origin is dict:
        yield from _misfits_of_an_object(value, hint, place)
    elif origin is list:
        if not isinstance(value, list):
            yield f"{where} is no list"
        else:
            for number, item in enumerate(value):
                yield from _misfits(item, arguments[0], f"{place}[{number}]")
    elif origin is tuple:
        if not isinstance(value, list) or len(value) != len(arguments):
            yield f"{where} is no list of {len(arguments)}"
        else:
            for number, (item, inner) in enumerate(zip(value, arguments, strict=True)):
                yield from _misfits(item, inner, f"{place}[{number}]")
    elif not _is(value, hint):
        yield f"{where} is {one_line(repr(value), 60)}, not {_NAMES[hint]}"


def _misfits_of_an_object(value: Any, hint: Any, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place or 'it'} is no object of names and values"
        return
    if not is_typeddict(hint):
        declared = dict.fromkeys(value, get_args(hint)[1])
    else:
        declared, required = _declared(hint)
        yield from (f"{_below(place, name)} is missing" for name in required if name not in value)
    for name, inner in declared.items():
        if name in value:
            yield from _misfits(value[name], inner, _below(place, name))


@functools.cache
def _declared(shape: Any) -> tuple[dict[str, Any], list[str]]:
    """What a TypedDict says of each name, and the names that it requires, which it knows only of text annotations."""
    hints = get_type_hints(shape, include_extras=True)
    usual = Required if shape.__total__ else NotRequired
    marks = {name: get_origin(hint) for name, hint in hints.items()}
    return hints, [
        name for name, mark in marks.items() if (mark if mark in (Required, NotRequired) else usual) is Required
    ]


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _is(value: Any, kind: type) -> bool:
    """Whether JSON's value is of a kind: 1 is a number, true is none, and 10**30 is nothing to count with."""
    if type(value) is int and abs(value) > LARGEST:
        return False
    return type(value) is kind or (kind is float and type(value) is int)


def _is_utf8(content: Any) -> bool:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
