"""``explore``: open what was given and serve the app until it is stopped."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from pipelines.errors import UserError
from pipelines.explore.options import LOOPBACK, ExploreOptions

PASSWORD = "MAE_CLI_PASSWORD"
"""The variable of the environment that holds the password: an option would stand in the list of processes."""


def explore(options: ExploreOptions, *, say: Callable[[str], None] = print) -> None:
    """Serve the app; returns when it is interrupted, and says its address first.

    Raises UserError for what can't be opened, an address that is taken, and one that others reach without a password.
    """
    password = None if options.public else os.environ.get(PASSWORD) or None
    if options.host not in LOOPBACK and password is None and not options.public:
        raise UserError(
            f"--host {options.host} can be reached from other machines: set {PASSWORD} to a password, or give "
            "--public if everyone may see it"
        )
    try:
        import uvicorn

        from pipelines.explore.app import app_of
        from pipelines.explore.opened import open_all
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("uvicorn", "starlette"):
            raise
        raise UserError(f"explore needs {error.name}: pip install 'saliency-mae[explore]'") from error
    with listen(options.host, options.port) as listening:
        app = app_of(open_all(options), password=password)
        say(address(options, listening.getsockname()[1], password is not None))
        uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. UserError."""
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port} can't be used: {error.strerror}; --port 0 takes a free port"
        ) from error


def address(options: ExploreOptions, port: int, guarded: bool) -> str:
    """Where to look, and who can."""
    if options.host in LOOPBACK:
        who = "only this machine can reach it"
    else:
        who = "a password is asked for" if guarded else "everyone who can reach this address sees it"
    return f"open http://{options.host}:{port} in a browser ({who}); Ctrl-C ends it"
