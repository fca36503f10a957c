"""The one exception that is the user's to mend.

A ``UserError`` holds one clear line: what is wrong, where, and what to do. The command line prints it and exits
with 2; every other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from saliency.shown import one_line


class UserError(Exception):
    """A mistake in what the user asked for or pointed at; its text is one line that is fit for a terminal."""

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))


class ToldElsewhereError(UserError):
    """A mistake that another process of the same training prints, so that it is one line."""


class StoppedError(KeyboardInterrupt):
    """A signal asked the command to stop, and its state is saved; ``number`` is the signal's."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns a ValueError of a library room, where a bad value is the caller's, into the user's error."""
    try:
        yield
    except ValueError as error:
        raise UserError(error) from error
