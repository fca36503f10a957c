"""Writes ``docs/reference/options.md`` and ``python.md`` from the code: ``python tools/reference.py [--check]``.

The options come from the command line itself, the Python names from ``saliency_mae.__all__`` and their docstrings. The
table of columns in ``table.md`` comes from ``saliency.table.columns``; the rest of that page is written by hand. With
``--check`` nothing is written, and the exit code is 1 if a page is not what would be written.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from typer.main import get_command  # noqa: E402

import cli  # noqa: E402
import saliency_mae as sm  # noqa: E402
from saliency.shown import markdown_table  # noqa: E402
from saliency.table.columns import column_rows  # noqa: E402

PAGES = ROOT / "docs" / "reference"
_COLUMNS = ("<!-- Written by tools/reference.py: change saliency/table/columns.py. -->", "<!-- -->")
_NOTE = "<!-- Written by tools/reference.py: change the code, not this page. -->\n"


def options_page() -> str:
    """Every option of every command, in the order and under the headings of ``--help``."""
    commands = get_command(cli.app).commands  # type: ignore[attr-defined]
    lines = ["# Options", "", _NOTE, "`mae-cli COMMAND --help` prints the same on the terminal.", ""]
    lines += [" · ".join(f"[{name}](#{name})" for name in commands), ""]
    for name, command in commands.items():
        arguments = [each for each in command.params if not each.opts[0].startswith("-")]
        words = " ".join(each.name.upper() if each.required else f"[{each.name.upper()}]" for each in arguments)
        words += "".join(f" {each.opts[0]} {each.name.upper()}" for each in command.params
                         if each.required and each not in arguments)  # fmt: skip
        lines += [
            f"## {name}",
            "",
            inspect.cleandoc(command.help),
            "",
            "```console",
            f"mae-cli {name} {words}".rstrip(),
        ]
        lines += ["```", ""]
        for panel, options in groupby(command.params, key=lambda each: each.rich_help_panel):
            lines += [*([f"**{panel}**", ""] if panel else []), "| option | default | meaning |", "|---|---|---|"]
            lines += [*map(_row, options), ""]
    return "\n".join(lines)


def _row(option: Any) -> str:
    """An option as a row: names with the values it takes, default, meaning."""
    text = option.help.replace("\\[", "[")
    text, _, default = text.partition(" [default: ")
    default = default.removesuffix(".").removesuffix("]") or ("required" if option.required else "")
    if option.default is True:
        default = option.opts[0]
    values = (option.metavar or "").strip("[]").replace("|", r"\|")
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    names = names if option.opts[0].startswith("-") else f"`{option.name.upper()}`"
    told = f" `{values}`" if values and "<" not in values else ""
    text = text if text.endswith(".") else f"{text}."
    return f"| {names}{told} | {_cell(default)} | {_cell(text)} |"


def _cell(text: str) -> str:
    return re.sub(r"(--[a-z][a-z-]+)", r"`\1`", text.replace("|", r"\|")).replace("``", "`")


def python_page() -> str:
    """Every name of ``saliency_mae`` with its signature and docstring."""
    names = sorted(sm.__all__, key=str.casefold)
    functions = [name for name in names if inspect.isfunction(getattr(sm, name))]
    classes = [name for name in names if inspect.isclass(getattr(sm, name))]
    lines = ["# Python", "", _NOTE, "`import saliency_mae as sm`. The guide is [In Python](../guide/python.md).", ""]
    for title, found in (("Functions", functions), ("Results and types", classes)):
        lines += [f"## {title}", "", " · ".join(f"[{name}](#sm{name.lower()})" for name in found), ""]
        for name in found:
            lines += [f"### sm.{name}", "", *_described(name, getattr(sm, name))]
    return "\n".join(lines)


def _described(name: str, what: Any) -> Iterator[str]:
    if not issubclass(what, Exception) if inspect.isclass(what) else True:
        yield from ("```text", _signature(f"sm.{name}", what), "```", "")
    yield from _prose(inspect.getdoc(what) or "")
    if inspect.isclass(what):
        for each, member in vars(what).items():
            if each.startswith("_") or not (isinstance(member, property) or inspect.isfunction(member)):
                continue
            call = each if isinstance(member, property) else _signature(each, member)
            yield from (f"**`{call}`**", "", *_prose(inspect.getdoc(member) or ""))


def _signature(name: str, what: Any) -> str:
    """A call with its parameters; those that are options of a command are left to the text below."""
    parameters = [each for each in inspect.signature(what).parameters.values() if each.name != "self"]
    shown = [_parameter(each) for each in parameters[:8]] + (["…"] if len(parameters) > 8 else [])
    return f"{name}({', '.join(shown)})"


def _parameter(each: inspect.Parameter) -> str:
    star = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
    known = each.default is not each.empty
    return f"{star}{each.name}" + (f"={each.default!r}" if known else "")


def _prose(text: str) -> Iterable[str]:
    """A docstring as Markdown: code in single backticks, examples fenced, the list of options pointed to."""
    text, _, options = text.partition("\nOptions\n-------\n")
    if options:
        text += "\nKeywords are the options of the command: [Options](options.md).\n"
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    lines, fenced = [], False
    for line in text.splitlines():
        if line.lstrip().startswith(">>> ") and not fenced:
            lines, fenced = [*lines, "```pycon"], True
        elif fenced and not line.strip():
            lines, fenced = [*lines, "```"], False
        lines.append(line)
    return [*lines, *(["```"] if fenced else []), ""]


def table_page() -> str:
    """The page of the table as it is, with the table of its columns as the code has it."""
    before, _, rest = (PAGES / "table.md").read_text().partition(_COLUMNS[0])
    _, _, after = rest.partition(_COLUMNS[1])
    table = "\n".join(markdown_table(column_rows()))
    return f"{before}{_COLUMNS[0]}\n\n{table}\n\n{_COLUMNS[1]}{after}"


def main() -> int:
    """Writes or checks the pages."""
    stale = 0
    for name, text in (("options.md", options_page()), ("python.md", python_page()), ("table.md", table_page())):
        page, text = PAGES / name, text.rstrip() + "\n"
        if "--check" not in sys.argv:
            page.write_text(text)
        elif not page.exists() or page.read_text() != text:
            print(f"{page.relative_to(ROOT)} is stale: run python tools/reference.py")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
