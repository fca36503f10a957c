"""An option, declared once: a field of an options dataclass, whose annotation says the rest.

``tiles: Annotated[int, Option("Look also at N × N overlapping windows.")] = 1`` is all that there is to ``--tiles``:
its name, its type, its default and its help. ``pipelines.commandline.typer_commands`` makes the command line of it.
``mae-cli --help`` reads all modules that declare options, so they import nothing heavy, and leave out ``from __future__
import annotations``: an annotation that is a text would be compiled once more at every start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

LARGEST = 2**62
"""Of a whole number; what is larger does not fit where libraries keep it, once something is added to it."""


@dataclass(frozen=True)
class Option:
    """What a field's name, type and default do not say of an option of the command line.

    A field that is False by default is a flag; one that is True is a pair of them, ``--untrained`` and
    ``--no-untrained``. A field that is a tuple takes an option that may be given several times.
    """

    help: str
    flags: tuple[str, ...] = ()
    """The option's names, where they do not follow from the field's."""
    least: int | None = None
    """Smaller numbers are refused."""
    parse: Callable[[str], Any] | None = None
    """Reads the field's value from a text; ValueError says in a line what is wrong with it."""
    written: str | None = None
    """The field's default as it is typed, for ``parse`` to read."""
    between: str = "x"
    """What stands between the parts of a tuple in the text that ``parse`` reads."""
    settled: bool = False
    """Where it is not given, the command settles it by the machine; the field's default is the library's alone."""
    panel: str | None = None
    """The heading under which ``--help`` lists it."""
    choices: tuple[str, ...] = ()
    """The values it takes, which ``--help`` lists and the shell completes; those of a ``Literal`` need no mention."""


class Argument(Option):
    """An option without a name, told by its place on the command line."""


@dataclass(frozen=True)
class Declared:
    """A field or a parameter that carries an Option."""

    name: str
    type: Any
    """Without what is annotated."""
    default: Any
    """``dataclasses.MISSING`` where there is none: it has to be given."""
    option: Option

    @property
    def flag(self) -> str:
        """The option's name on the command line."""
        return self.option.flags[0] if self.option.flags else f"--{self.name.replace('_', '-')}"

    @property
    def choices(self) -> tuple[str, ...]:
        """The values it takes; empty where there are too many to list."""
        if self.option.choices:
            return self.option.choices
        kinds = [kind for kind in (self.type, *get_args(self.type)) if get_origin(kind) is Literal]
        return get_args(kinds[0]) if kinds else ()

    def check(self, value: Any) -> None:
        """ValueError for a value, or one of several, that is none of ``choices``, or too small or large."""
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if self.choices and each not in self.choices:
                raise ValueError(f"{self.flag} {each!r} is not one of: {', '.join(self.choices)}")
            if self.option.least is not None and each < self.option.least:
                raise ValueError(f"{self.flag} is {each}; it must be at least {self.option.least}")
            if isinstance(each, int) and each > LARGEST:
                raise ValueError(f"{self.flag} is {each}; it must be at most {LARGEST}")

    def value(self, typed: Any) -> Any:
        """What the command line took, as the field's value; ValueError from ``check`` and ``parse``."""
        self.check(typed)
        if self.option.parse is not None:
            return self.option.parse(typed)
        return tuple(typed) if isinstance(typed, list) else typed


def declared_options(kind: type[Any]) -> list[Declared]:
    """The options of a dataclass, in the order of its fields; TypeError for a field that declares none."""
    hints = get_type_hints(kind, include_extras=True)
    return [declared_as(field.name, hints[field.name], field.default) for field in fields(kind)]


def declared_as(name: str, hint: Any, default: Any) -> Declared:
    """A field or parameter by its annotation; TypeError if that has no Option."""
    found = [each for each in get_args(hint)[1:] if isinstance(each, Option)] if get_origin(hint) is Annotated else []
    if len(found) != 1:
        raise TypeError(f"{name} is not declared as Annotated[…, Option(…)]: it would be an option without a help text")
    return Declared(name, get_args(hint)[0], default, found[0])


def check_declared(options: Any) -> None:
    """ValueError for a field of an options dataclass that its Option's ``choices`` or ``least`` refuse."""
    for each in declared_options(type(options)):
        if (value := getattr(options, each.name)) is not None:
            each.check(value)


def given_values(kind: type[Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the dataclass ``kind`` that were given on the command line, as values of their types.

    What was not given, None or a list of nothing, is left to the field's default. Raises ValueError.
    """
    given = {name: value for name, value in typed.items() if value not in (None, [], ())}
    return {each.name: each.value(given[each.name]) for each in declared_options(kind) if each.name in given}
