"""Commands of the command line, made of options that are declared elsewhere; see ``pipelines.commandline.option``."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import MISSING
from functools import wraps
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from pipelines.commandline.option import Argument, Declared, declared_as, declared_options

Command = Callable[..., None]

_WIDEST_METAVAR = 24
"""Characters; wider ones would leave the help texts no room on a terminal of 80."""


def with_options(function: Command, kind: type[Any] | None = None, *, before: str | None = None) -> Command:
    """``function`` as typer takes it: its parameters, and the fields of the dataclass ``kind``, are options.

    With a ``kind``, the function's first argument is what the command line took for its fields, {name: value} with
    None or an empty list where nothing was given: see ``pipelines.commandline.option.given_values``. The function's
    further parameters are options of its own, listed ``before`` the field of that name or, without one, last.
    """
    own = list(_own_options(function, skip=0 if kind is None else 1))
    options = [] if kind is None else declared_options(kind)
    place = next((index for index, each in enumerate(options) if each.name == before), len(options))
    names = {each.name for each in own}

    @wraps(function)
    def call(**typed: Any) -> None:
        mine = {name: typed.pop(name) for name in names}
        function(*([] if kind is None else [typed]), **mine)

    parameters = [_parameter(each) for each in (*options[:place], *own, *options[place:])]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call


def _own_options(function: Command, *, skip: int) -> Iterator[Declared]:
    hints = get_type_hints(function, include_extras=True)
    empty = inspect.Parameter.empty
    for name, parameter in list(inspect.signature(function).parameters.items())[skip:]:
        yield declared_as(name, hints[name], MISSING if parameter.default is empty else parameter.default)


def _parameter(declared: Declared) -> inspect.Parameter:
    """An option as the parameter that typer makes one of."""
    option, default = declared.option, _default(declared)
    told: dict[str, Any] = {"help": _escaped(_help(declared)), "min": option.least, "rich_help_panel": option.panel}
    if declared.choices:
        told |= {"metavar": _metavar(declared), "autocompletion": lambda: list(declared.choices)}
    argument = isinstance(option, Argument)
    info = typer.Argument(default, **told) if argument else typer.Option(default, *_flags(declared), **told)
    typed = _typed(declared) if default is not None else _typed(declared) | None
    return inspect.Parameter(declared.name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=typed)


def _metavar(declared: Declared) -> str | None:
    """A few choices in the place of the type; None for more."""
    text = f"[{'|'.join(declared.choices)}]"
    return text if len(text) <= _WIDEST_METAVAR else None


def _help(declared: Declared) -> str:
    """The help text, with the choices that are too many to stand in the place of the type."""
    if not declared.choices or _metavar(declared):
        return declared.option.help
    return f"{declared.option.help} One of: {', '.join(declared.choices)}."


def _default(declared: Declared) -> Any:
    """What is shown, and taken where nothing is given: ``...`` is required, None left to the field or the command."""
    if declared.default is MISSING:
        return ...
    if declared.option.settled or declared.option.parse or isinstance(declared.default, tuple):
        return declared.option.written
    return declared.default


def _typed(declared: Declared) -> Any:
    """The type that the command line reads: the field's, but texts where it is one of several, and lists of tuples."""
    if declared.option.parse is not None:
        return str
    either = get_origin(declared.type) in (Union, types.UnionType)
    kinds = [each for each in get_args(declared.type) if each is not type(None)] if either else [declared.type]
    if str in kinds or get_origin(kinds[0]) is Literal:
        return str
    return list[get_args(kinds[0])[0]] if get_origin(kinds[0]) is tuple else kinds[0]  # type: ignore[misc]


def _flags(declared: Declared) -> tuple[str, ...]:
    """The names of an option, where typer would not derive them: a flag that is off has none to turn it off."""
    if declared.option.flags or declared.default is not False:
        return declared.option.flags
    return (f"--{declared.name.replace('_', '-')}",)


def _escaped(text: str) -> str:
    """A help text, in which rich would take brackets for markup."""
    return text.replace("[", "\\[")
