"""How long calls take, against each other, on a machine that does other things too.

Calls take turns, and of each the shortest time counts: what else runs makes calls longer, never shorter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)

_LEAST_ROUNDS = 5


def shortest_times(
    calls: Mapping[Name, Callable[[], object]], *, rounds: int = 30, seconds: float = 10.0
) -> dict[Name, float]:
    """The shortest time of each call in seconds, of ``rounds`` in turns, fewer if these take longer than ``seconds``.

    Each is called once before, and at least five times in any case.
    """
    for call in calls.values():
        call()
    best = dict.fromkeys(calls, float("inf"))
    begin = time.perf_counter()
    for done in range(rounds):
        if done >= _LEAST_ROUNDS and time.perf_counter() - begin > seconds:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best
