"""``--config FILE.yaml``: the options of a command, by their names, in a file.

One text serves three ends: ``mae-cli config COMMAND`` prints it as a template, a command leaves it in its ``--out``
folder with what it ran with, and ``--config`` reads it.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import Any, get_origin

from pipelines.commandline.effects import idle_options
from pipelines.commandline.option import Declared, declared_options, given_values
from pipelines.commandline.option_text import fitted
from pipelines.errors import UserError, without_secrets

SAVED = "command.yaml"
"""In the folder that a command writes to: the options that it ran with."""

_WIDTH = 100


def read_config(place: Path, options: Iterable[Declared]) -> dict[str, Any]:
    """The values that a file gives to options, by field, as the command line reads them.

    ``place`` is the file, or a folder in which a command left one. A name may be written with ``-`` or ``_``, and an
    empty value is none. Raises UserError, which begins with the file's name.
    """
    from pipelines.commandline.yaml_text import read_yaml  # yaml is slow to import

    file = place / SAVED if place.is_dir() else place
    given = read_yaml(file)
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise UserError(f"{file} has to have lines of the form 'option: value'")
    known = {name: each for each in options for name in _names(each)}
    found: dict[str, Any] = {}
    for written, value in given.items():
        name = str(written).removeprefix("--").replace("_", "-")
        if name not in known:
            close = get_close_matches(name, known, 1)
            raise UserError(f"{file}: unknown option {written!r}{f'; did you mean {close[0]}?' if close else ''}")
        option = known[name]
        if option.name in found:
            raise UserError(f"{file}: {written} is given twice")
        try:
            found[option.name] = None if value is None else _as_typed(value, option)
        except ValueError as error:
            raise UserError(f"{file}: {written}: {error}") from error
    return {name: value for name, value in found.items() if value is not None}


def config_text(command: str, options: Iterable[Declared], values: Mapping[str, Any] | None = None) -> str:
    """A file for ``--config`` that has ``values``, by field, and lists all other options as comments.

    What has to be given, and is not, is left empty.
    """
    values = values or {}
    lines = [
        f"# mae-cli {command} --config FILE.yaml",
        "# An option on the command line overrides the one in this file.",
    ]
    for panel, group in groupby(options, key=lambda each: each.option.panel):
        lines += ["", *([f"# {panel}", ""] if panel else [])]
        for each in group:
            lines += [f"# {line}" for line in textwrap.wrap(_meaning(each), _WIDTH - 2, break_on_hyphens=False)]
            lines += [*_line(each, values), ""]
        lines.pop()
    return "\n".join(lines) + "\n"


def save_config(command: str, kind: type[Any], typed: Mapping[str, Any]) -> None:
    """Leave what a command ran with in the folder that it wrote to, if it wrote to one. Of several processes one does.

    Tokens, and names and passwords in addresses, are left out. The folder stays as it is where the options are refused
    or the disk is full.
    """
    out = typed.get("out")
    if out is None or not Path(out).is_dir() or os.environ.get("RANK", "0") != "0":
        return
    from saliency.files import write_text_atomically

    with suppress(ValueError, OSError):
        text = config_text(command.replace("_", "-"), declared_options(kind), resolved_values(kind, typed))
        write_text_atomically(Path(out) / SAVED, without_secrets(text))


def resolved_values(kind: type[Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """What a command ran with, by field: what was given, as it was typed, and the defaults that had an effect.

    The defaults that the machine settles, such as the device, are left to the next machine. Raises ValueError.
    """
    given = given_values(kind, typed)
    idle = {name for name, _ in idle_options(kind(**given))}
    found = {}
    for each in declared_options(kind):
        if each.name in given and (given[each.name] is not False or each.default is True):
            found[each.name] = typed[each.name]
        elif not (_empty(each.default) or each.option.settled or each.name in idle):
            found[each.name] = each.default
    return found


def _empty(default: Any) -> bool:
    return default is None or default is MISSING or default is False or default == ()


def _names(option: Declared) -> Iterator[str]:
    """Those that are read; the first one is written."""
    yield option.flag.removeprefix("--")
    yield from (flag.removeprefix("--") for flag in option.option.flags[1:] if flag.startswith("--"))
    yield option.name.replace("_", "-")


def _as_typed(value: Any, option: Declared) -> Any:
    """A value of YAML as the command line would have it; ValueError for one that it does not take."""
    if option.option.parse is not None:
        if isinstance(value, list):
            value = option.option.between.join(map(str, value))
        if isinstance(value, (bool, dict)):
            raise ValueError(f"takes a text, not {value!r}")
        try:
            option.option.parse(str(value))
        except ValueError as error:  # YAML reads 0:0.5 as minutes
            raise ValueError(f"{error}{'' if isinstance(value, str) else ', in quotes'}") from error
        return str(value)
    if option.type in (str, str | None) and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    value = fitted(value, option.type)
    option.check(value)
    return [*map(str, value)] if isinstance(value, tuple) else value if isinstance(value, bool) else str(value)


def _line(option: Declared, values: Mapping[str, Any]) -> Iterator[str]:
    """``name: value``, or that of the default as a comment."""
    name = next(_names(option))
    if option.name in values:
        yield f"{name}: {_written(option, values[option.name])}"
    elif option.default is MISSING:
        yield f"{name}:"
    else:
        default = None if option.option.settled else option.option.written or option.default
        yield f"# {name}: {'' if default is None else _written(option, default)}".rstrip()


def _written(option: Declared, value: Any) -> str:
    """A value as YAML on one line."""
    import yaml

    if option.option.parse is not None and isinstance(value, (tuple, list)):
        value = option.option.between.join(map(str, value))
    several = isinstance(value, (tuple, list))
    plain = [_plain(each) for each in value] if several else _plain(value)
    return yaml.safe_dump(plain, default_flow_style=True, width=1 << 16, allow_unicode=True).partition("\n")[0]


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float)) else str(value)


def _meaning(option: Declared) -> str:
    """The help text, with the values that it takes."""
    text = option.option.help
    needed = "Needed. " if option.default is MISSING else ""
    several = " A list." if get_origin(option.type) is tuple and option.option.parse is None else ""
    choices = f" One of: {', '.join(map(str, option.choices))}." if option.choices else ""
    return f"{needed}{text}{several}{choices}"
