"""The one exception that is the user's to mend.

A ``UserError`` holds one clear line: what is wrong, where, and what to do. The command line prints it and exits
with 2; every other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from saliency.shown import one_line

_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
_SHORTEST = 8  # characters of a secret; a shorter one would cut ordinary words
_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")


def without_secrets(text: object) -> str:
    """A text without the tokens that this process knows, and without a name and password in an address."""
    hub = sys.modules.get("huggingface_hub")
    known = [os.environ.get(name) for name in _SECRETS]
    with suppress(OSError):  # of a home that can't be read, which is told of where it matters
        known += [hub.get_token()] if hub else []
    shown = _IN_ADDRESS.sub("…@", str(text))
    for secret in known:
        if secret and len(secret) >= _SHORTEST:
            shown = shown.replace(secret, "…")
    return shown


class UserError(Exception):
    """A mistake in what the user asked for or pointed at; its text is one line without secrets, fit for a terminal."""

    def __init__(self, message: object) -> None:
        super().__init__(one_line(without_secrets(message)))


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
