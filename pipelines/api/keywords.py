"""Keyword arguments as a command's options, by what its options dataclass declares (``pipelines.commandline.option``).

One mechanism for all commands: :func:`options_of` makes the options, and :func:`declared_by` gives a function the
signature and the documentation that ``help`` shows.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from typing import Any, TypeVar

from pipelines.commandline.effects import check_effects
from pipelines.commandline.machine import settled_options
from pipelines.commandline.option import Declared, declared_options
from pipelines.commandline.option_text import option_values
from pipelines.errors import user_errors

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def declared_by(kind: type[Any]) -> Callable[[F], F]:
    """Gives a function the signature that ``kind`` declares, and below its own text that of the options.

    The function takes some of them by name, ``quiet`` and the others as keyword arguments.
    """

    def dress(function: F) -> F:
        quiet = inspect.signature(function).parameters["quiet"]
        options = declared_options(kind)
        first = [each for each in options if each.name in inspect.signature(function).parameters]
        rest = [each for each in options if each not in first]
        parameters = [_parameter(each, inspect.Parameter.POSITIONAL_OR_KEYWORD) for each in first]
        parameters += [_parameter(each, inspect.Parameter.KEYWORD_ONLY) for each in rest]
        told = "\n".join(map(_told, (*first, *rest)))
        returned = inspect.signature(function).return_annotation
        function.__signature__ = inspect.Signature([*parameters, quiet], return_annotation=returned)  # type: ignore[attr-defined]
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions\n-------\n{told}\n"
        return function

    return dress


def options_of(kind: type[T], given: Mapping[str, Any]) -> T:
    """The options ``kind`` of keyword arguments, with what the machine settles. UserError, worded as by the command."""
    with user_errors():
        values = values_of(kind, given)
        options = kind(**values | settled_options(kind, values))
        check_effects(options, values)
        return options


def values_of(kind: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``kind`` that are given, by their own names or the command line's, None being none. ValueError."""
    options = {each.name: each for each in declared_options(kind)}
    flags = [(flag, each.name) for each in options.values() for flag in (each.flag, *each.option.flags)]
    alias = {flag.removeprefix("--").replace("-", "_"): name for flag, name in flags}
    typed = {
        name: _as_typed(value, options.get(alias.get(name, name))) for name, value in given.items() if value is not None
    }
    values = option_values(kind, typed, barred={}, alias=alias)
    for name, value in values.items():
        options[name].check(value)
    return values


def _as_typed(value: Any, option: Declared | None) -> Any:
    """A value in the form that the command line would have: paths as texts, lists as texts where it takes a text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if option is None or isinstance(value, bool) or hasattr(value, "_fields"):  # a named tuple is what it is
        return value
    if option.choices:
        option.check(value)
    if option.option.parse is not None and isinstance(value, str):
        return option.option.parse(value)
    if option.type in (str, str | None) and isinstance(value, (int, float, list, tuple)):
        parts = value if isinstance(value, (list, tuple)) else [value]
        return ",".join(map(str, parts))
    if isinstance(value, (list, tuple)):
        return [os.fspath(each) if isinstance(each, os.PathLike) else each for each in value]
    return value


def _told(option: Declared) -> str:
    choices = f" One of: {', '.join(map(str, option.choices))}." if option.choices else ""
    return f"{option.name}: {option.option.help}{choices}"


def _parameter(option: Declared, kind: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if option.default is MISSING else option.default
    if option.option.settled:
        default = None
    return inspect.Parameter(option.name, kind, default=default, annotation=option.type)
