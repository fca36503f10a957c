"""Options that have no effect are refused: a row says when an option has one, and which other option decides that.

An options dataclass lists its rows as the class variable ``effects``. They are checked where a user's words become
options: on the command line, in the Python face, in a plan. What a saved run holds is not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.commandline.option import declared_options


@dataclass(frozen=True)
class Effect:
    """When some options of a dataclass have an effect."""

    options: tuple[str, ...]
    when: Callable[[Any], bool]
    """Whether they have one, by all options."""
    without: str
    """Why they have none, such as ``without --test``; ``{name}`` is the value of another option, here and below."""
    advice: str = "leave it out"


def idle_options(options: Any) -> Iterator[tuple[str, Effect]]:
    """The names of the options that have no effect, each with the row that says so."""
    for effect in getattr(type(options), "effects", ()):
        if not effect.when(options):
            yield from ((name, effect) for name in effect.options)


def check_effects(options: Any, given: Collection[str]) -> None:
    """ValueError, naming both options, if one that was ``given`` has no effect. A flag that is off is not given."""
    declared = {each.name: each for each in declared_options(type(options))}
    for name, effect in idle_options(options):
        option, value = declared[name], getattr(options, name)
        if name in given and not (isinstance(value, bool) and value == option.default):
            why = f"{effect.without}; {effect.advice}".format_map(_Shown(options))
            raise ValueError(f"{option.flag} has no effect {why}")


class _Shown(dict[str, Any]):
    """The values of options and properties, as a text names them."""

    def __init__(self, options: Any) -> None:
        self._options = options

    def __missing__(self, name: str) -> Any:
        return getattr(self._options, name)
