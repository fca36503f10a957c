"""Signals that ask a training to stop, as Slurm sends them: it ends after the step that it is at, with its state saved.

SIGTERM comes before a job is killed, SIGUSR1 and SIGUSR2 where ``sbatch --signal`` asks for them. With several
processes it is enough that one of them gets it. A program that handles these signals itself keeps its handlers.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mae.distributed import World

_NAMES = ("SIGTERM", "SIGUSR1", "SIGUSR2")


class StopSignal:
    """Whether a process of the training was asked to stop."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._number = 0

    def note(self, number: int, _frame: Any) -> None:
        """The handler of the signals."""
        self._number = number

    def name(self) -> str | None:
        """The signal that came to any process, None if none came; all processes call this together."""
        number = int(self._world.gather_array(np.asarray([self._number], np.int64)).max())
        return signal.Signals(number).name if number else None


@contextmanager
def stop_signals(world: World) -> Iterator[StopSignal]:
    """Notes the signals, in the main thread of a program, where they would end it at once."""
    noted = StopSignal(world)
    numbers = [signal.Signals[name] for name in _NAMES if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, noted.note)
    try:
        yield noted
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
