"""Commands of the command line, made of options that are declared elsewhere; see ``pipelines.commandline.option``."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import MISSING
from functools import wraps
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from pipelines.commandline.config_file import read_config, save_config
from pipelines.commandline.option import Argument, Declared, declared_as, declared_options
from pipelines.errors import StoppedError, UserError
from pipelines.estimates import begin

Command = Callable[..., None]

_WIDEST_CHOICES = 23
"""Characters; wider ones would leave the help texts no room on a terminal of 80."""


def with_options(function: Command, kind: type[Any], *, saved: bool = True) -> Command:
    """``function`` as typer takes it: the fields of the dataclass ``kind``, and its further parameters, are options.

    One more option, ``--config``, names a file with values of these, over which the command line goes; and where the
    command had an ``out`` folder, the options are ``saved`` in it.

    The function's first argument is what the command line took for the fields, {name: value} with None or an empty
    list where nothing was given: see ``pipelines.commandline.option.given_values``. Its further parameters are options
    of its own, listed last.
    """
    own = list(_own_options(function))
    options = [*declared_options(kind), *own]

    @wraps(function)
    def call(**typed: Any) -> None:
        begin()
        del typed["config"]
        mine = {each.name: typed.pop(each.name) for each in own}
        saves = saved and not (mine | typed).get("dry_run")
        try:
            function(typed, **mine)
        except (KeyboardInterrupt, StoppedError):  # it will go on
            if saves:
                save_config(function.__name__, kind, typed)
            raise
        if saves:
            save_config(function.__name__, kind, typed)

    parameters = [*map(_parameter, options), _config(options)]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call


def _config(options: list[Declared]) -> inspect.Parameter:
    """``--config``, which is read first, and gives the options their defaults."""

    def read(context: typer.Context, place: Path | None) -> None:
        if place is not None:
            try:
                context.default_map = {**(context.default_map or {}), **read_config(place, options)}
            except UserError as error:
                raise typer.BadParameter(str(error)) from error

    text = "YAML file of options, or a folder that this command wrote to. The command line overrides it."
    info = typer.Option(None, help=text, callback=read, is_eager=True)
    return inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=info, annotation=Path | None)


def _own_options(function: Command) -> Iterator[Declared]:
    hints = get_type_hints(function, include_extras=True)
    empty = inspect.Parameter.empty
    for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
        yield declared_as(name, hints[name], MISSING if parameter.default is empty else parameter.default)


def _parameter(declared: Declared) -> inspect.Parameter:
    """An option as the parameter that typer makes one of."""
    option = declared.option
    default = ... if declared.default is MISSING else declared.default if declared.type is bool else None
    told: dict[str, Any] = {
        "help": _escaped(_help(declared)),
        "rich_help_panel": option.panel,
        "metavar": _metavar(declared),
    }
    if declared.choices:
        told["autocompletion"] = lambda: list(declared.choices)
    argument = isinstance(option, Argument)
    info = typer.Argument(default, **told) if argument else typer.Option(default, *_flags(declared), **told)
    typed = _typed(declared) if default is not None else _typed(declared) | None
    return inspect.Parameter(declared.name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=typed)


def _metavar(declared: Declared) -> str | None:
    """What stands in the place of the type, where it says more: a few choices, nothing for a flag, one of several."""
    if isinstance(declared.option, Argument):
        return None  # it would stand for the name
    if declared.type is bool:
        return ""
    if _listed(declared):
        return f"[{'|'.join(declared.choices)}]"
    typed = _typed(declared)
    return f"<{get_args(typed)[0].__name__}>..." if get_origin(typed) is list else None


def _listed(declared: Declared) -> bool:
    """Whether the choices are so few that they stand in the place of the type."""
    few = 0 < len("|".join(declared.choices)) <= _WIDEST_CHOICES
    return few and not isinstance(declared.option, Argument)


def _help(declared: Declared) -> str:
    """The help text, with the choices that are too many to stand in the place of the type."""
    text, mark, default = declared.option.help.partition(" [default: ")
    if not mark and (known := _default(declared)):
        mark, default = " [default: ", f"{known}]"
    if declared.choices and not _listed(declared):
        text = f"{text.rstrip('.')}. One of: {', '.join(declared.choices)}."
    return f"{text}{mark}{default}"


def _default(declared: Declared) -> str:
    """The field's default as it is typed; empty where there is none to show."""
    default = declared.default
    if declared.option.written is not None:
        return declared.option.written
    hidden = declared.option.settled or declared.option.parse or isinstance(default, (bool, tuple))
    return "" if hidden or default is None or default is MISSING else str(default)


def _typed(declared: Declared) -> Any:
    """The type that the command line reads: the field's, but texts where it is one of several, and lists of tuples."""
    if declared.option.parse is not None:
        return str
    either = get_origin(declared.type) in (Union, types.UnionType)
    kinds = [each for each in get_args(declared.type) if each is not type(None)] if either else [declared.type]
    if str in kinds or get_origin(kinds[0]) is Literal:
        return str
    if get_origin(kinds[0]) is not tuple:
        return kinds[0]
    item = get_args(kinds[0])[0]
    return list[str] if get_origin(item) is Literal else list[item]  # type: ignore[valid-type]


def _flags(declared: Declared) -> tuple[str, ...]:
    """The names of an option, where typer would not derive them: a flag that is off has none to turn it off."""
    if declared.option.flags or declared.default is not False:
        return declared.option.flags
    return (f"--{declared.name.replace('_', '-')}",)


def _escaped(text: str) -> str:
    """A help text, in which rich would take brackets for markup."""
    return text.replace("[", "\\[")
