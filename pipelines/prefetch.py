"""Work done ahead, or behind, by threads, in order, and no further than it is told."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Full, Queue
from typing import TypeVar

_PATIENCE = 0.1  # seconds between looks whether the consumer is still there

T = TypeVar("T")
R = TypeVar("R")


def prefetch(
    executor: Executor, function: Callable[[T], R], items: Iterable[T], *, depth: int
) -> Generator[R, None, None]:
    """``map`` over threads, in order, with at most ``depth`` results under way.

    The items are drawn by a thread of their own, so that a slow source (a stream from the network) does not hold up
    whoever consumes the results. An error of the items is raised behind the results that came before it.
    """
    waiting: Queue[Future[R] | BaseException | None] = Queue(depth)
    left = threading.Event()

    def put(entry: Future[R] | BaseException | None) -> None:
        while not left.is_set():
            try:
                return waiting.put(entry, timeout=_PATIENCE)
            except Full:
                continue

    def feed() -> None:
        try:
            for item in items:
                if left.is_set():
                    return
                put(executor.submit(function, item))
            put(None)
        except BaseException as error:
            put(error)

    threading.Thread(target=feed, name="feeder", daemon=True).start()
    try:
        while (entry := waiting.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry.result()
    finally:
        left.set()


@contextmanager
def one_behind(*, depth: int) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Gives a function that hands work to a thread, which does it in order, at most ``depth`` pieces under way.

    An error of a piece is raised at a later one or at the end of the block, which waits for all of it.
    """
    waiting: deque[Future[object]] = deque()

    def put(work: Callable[[], object]) -> None:
        waiting.append(thread.submit(work))
        while waiting and (len(waiting) > depth or waiting[0].done()):
            waiting.popleft().result()

    with ThreadPoolExecutor(1) as thread:
        try:
            yield put
            while waiting:
                waiting.popleft().result()
        finally:
            thread.shutdown(cancel_futures=True)
