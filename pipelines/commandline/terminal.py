"""What the user sees: what the commands found as tables, and what went wrong as one line with an exit code."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saliency import __version__
from saliency.caches import cache_fault
from saliency.shown import LONGEST_LINE, one_line


def plain(text: object) -> Text:
    """A text for a table or a line on the terminal, in which no markup or escape code of a stranger comes to life.

    Line breaks stay.
    """
    lines = str(text).split("\n")
    return Text("\n".join(line if _is_plain(line) else one_line(line) for line in lines))


def _is_plain(line: str) -> bool:
    return len(line) <= LONGEST_LINE and line.isprintable()


def print_facts(facts: dict[str, Any], title: str | None = None) -> None:
    """Two columns: what, and how it is."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    for name, value in facts.items():
        table.add_row(plain(name), plain(value))
    Console().print(table)


def say(text: object, *, err: bool = False) -> None:
    """A text on stdout, or on stderr, as :func:`plain` shows it."""
    typer.echo(plain(text).plain, err=err)


def warn(lines: Iterable[str]) -> None:
    """What only costs some samples, a line each on stderr."""
    for line in lines:
        say(f"warning: {one_line(line)}", err=True)


def say_next(*words: object, when: str = "", quiet: bool = False) -> None:
    """A hint on stderr: the ``mae-cli`` command that most users run next. Words in capitals are theirs to fill in."""
    if not quiet:
        say(f"next{when}: {shlex.join(['mae-cli', *map(str, words)])}", err=True)


_ADVICE = dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG), "give another --out"
) | dict.fromkeys(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    "free some space: files written so far are complete, and the same command resumes (pretrain: add --resume)",
)
"""What to do about an error of the disk or of its permissions; any other OSError is a bug."""


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Mistakes of the user and of the disk as one line with exit code 2; Ctrl-C as one line with 130.

    A signal that a command stops at is one line with 128 and its number.
    """
    from pipelines.errors import StoppedError, ToldElsewhereError, UserError

    try:
        yield
    except ToldElsewhereError as error:
        raise typer.Exit(2) from error
    except UserError as error:
        fail(str(error), 2)
    except OSError as error:
        if fault := cache_fault(error):
            fail(fault, 2)
        if error.errno not in _ADVICE:
            raise
        where = f": {error.filename}" if error.filename else ""
        fail(f"{error.strerror}{where}; {_ADVICE[error.errno]}", 2)
    except StoppedError as error:
        fail(str(error), 128 + error.number, "stopped")
    except KeyboardInterrupt:
        fail("interrupted; run the same command again to resume (pretrain: add --resume)", 130)


def fail(message: str, code: int, kind: str = "error") -> None:
    """One line on stderr, and the exit code."""
    say(f"{kind}: {one_line(message)}", err=True)
    raise typer.Exit(code)


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """The command, with mistakes of the user and of the disk as one line and exit code 2, and Ctrl-C as 130."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> None:
        with _plain_errors():
            function(*args, **kwargs)

    return call


def print_version(asked: bool) -> None:
    """Prints the version and ends the command, if it was asked for."""
    if asked:
        typer.echo(f"saliency-mae {__version__}")
        raise typer.Exit


def run_app(app: typer.Typer, name: str, words: Sequence[str] | None = None) -> int:
    """Runs a command line under a name and returns its exit code; a mistake in how it is used is one line, too."""
    try:
        code = app(words, prog_name=name, standalone_mode=False)
    except Exception as error:
        # The base of typer's own errors is not public, and another one from version to version; this is what they have.
        if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
            raise
        if message := _usage_mistake(error):
            command = getattr(getattr(error, "ctx", None), "command_path", name)
            say(f"error: {message}; see {command} --help", err=True)
        code = error.exit_code
    return code if isinstance(code, int) else 0


def _usage_mistake(error: Any) -> str:
    """In a line; empty for a command line without words, of which the help is shown already."""
    if close := getattr(error, "possibilities", None):  # the nearest first
        return f"no such option: {error.option_name} (did you mean {close[0]}?)"
    message = " ".join(error.format_message().split()).rstrip(".")
    return message[:1].lower() + message[1:]
