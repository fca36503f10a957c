"""Options written in a file or after ``--`` as the values that an options dataclass takes, each checked by its type.

YAML reads ``1e-3`` as a text and ``0:0.5`` as a number of minutes; what is meant is taken where it can be told, and is
one clear line where it can't.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pipelines.commandline.option import LARGEST
from saliency.shown import one_line

MOST_SEEDS = 10_000


def option_values(
    kind: type[Any], given: Mapping[Any, Any], *, barred: Mapping[str, str], alias: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The fields of the dataclass ``kind`` that ``given`` names, with ``-`` or ``_``, as values of their types.

    ``barred`` says of some fields why they can't be given here; ``alias`` gives further names. Raises ValueError.
    """
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)}
    values: dict[str, Any] = {}
    for written, value in given.items():
        name = str(written).replace("-", "_")
        name = (alias or {}).get(name, name)
        if name in barred:
            raise ValueError(f"{written} can't be given here: {barred[name]}")
        if name not in known:
            close = get_close_matches(name, sorted(known - set(barred)), 1)
            raise ValueError(f"unknown option {written!r}{f'; did you mean {close[0]}?' if close else ''}")
        if name in values:
            raise ValueError(f"{written} is given twice")
        try:
            values[name] = fitted(value, hints[name])
        except ValueError as error:
            raise ValueError(f"{written}: {error}") from error
    return values


def fitted(value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint``; ValueError says what is wanted. A type unknown here takes any value."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _fitted_to_one(value, arguments)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{value!r} is not one of: {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        return _fitted_tuple(value, arguments)
    fit = _FITS.get(hint)
    return fit(value) if fit else value


def parse_seeds(value: Any, *, first: int = 0) -> tuple[int, ...]:
    """``3`` is three seeds from ``first`` on; a list, or a text such as ``0,4``, names them. ValueError."""
    shown = one_line(repr(value), 100)
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",")]
        numbers: list[Any] = [int(part) if part.isdecimal() and len(part) < 20 else part for part in parts]
        value = numbers[0] if len(numbers) == 1 else numbers
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_SEEDS:
        value = list(range(first, first + value))
    whole = isinstance(value, list) and all(isinstance(seed, int) and not isinstance(seed, bool) for seed in value)
    if not whole or not value or len(set(value)) < len(value) or not 0 <= min(value) <= max(value) <= LARGEST:
        raise ValueError(f"{shown} is not a number of seeds from 1 to {MOST_SEEDS}, nor different seeds such as 0,1,2")
    return tuple(value)


def words_to_options(words: Sequence[str]) -> dict[str, Any]:
    """``--blr 1e-3 --no-norm-pix`` as {blr: …, norm-pix: False}; ValueError or UserError for anything else."""
    from pipelines.commandline.yaml_text import parse_yaml  # yaml is slow to import

    options: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise ValueError(f"{word!r} stands where an option is expected, such as --epochs 20")
        if name in options:
            raise ValueError(f"--{name} is given twice")
        if equals or (rest and not rest[0].startswith("--")):
            text = value if equals else rest.pop(0)
            options[name] = text if ":" in text else parse_yaml(text, word)
        elif name.startswith("no-"):
            options[name.removeprefix("no-")] = False
        else:
            options[name] = True
    return options


def _fitted_to_one(value: Any, arguments: Sequence[Any]) -> Any:
    if value is None and type(None) in arguments:
        return None
    complaint: ValueError | None = None
    for argument in arguments:
        if argument is not type(None):
            try:
                return fitted(value, argument)
            except ValueError as error:
                complaint = complaint or error
    raise complaint or ValueError(f"takes nothing, not {value!r}")


def _fitted_tuple(value: Any, arguments: Sequence[Any]) -> tuple[Any, ...]:
    kind, endless = arguments[0], len(arguments) == 2 and arguments[1] is Ellipsis
    if isinstance(value, str) and kind is not str:
        value = value.lower().replace("x", " ").replace(":", " ").split()
        value = [_number(part) for part in value]
    parts = list(value) if isinstance(value, (list, tuple)) else [value]
    if not endless and len(parts) != len(arguments):
        raise ValueError(f"takes {len(arguments)} values, such as [0, 0.5], not {value!r}")
    return tuple(fitted(part, kind) for part in parts)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"takes a whole number, not {value!r}")
    if abs(value) > LARGEST:
        raise ValueError(f"takes a whole number of at most {LARGEST}")
    return value


def _real(value: Any) -> float:
    number = _number(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ValueError(f"takes a number, not {value!r}")
    return float(number)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"takes true or false, not {value!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"takes a text, not {value!r}")
    return value


_FITS: dict[Any, Callable[[Any], Any]] = {
    int: _whole,
    float: _real,
    bool: _truth,
    str: _text,
    Path: lambda value: Path(_text(value)),
}
