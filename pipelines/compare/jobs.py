"""Units of a comparison one after the other in this process, or several at a time in processes of their own.

A process that dies, of memory for instance, costs its own unit and no other. Ctrl-C ends all of them at once, and none
outlives the command, not even when that is killed: what a unit was doing is gone on with next time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from pipelines.compare.unit import Unit, UnitOutcome, attempt


def outcomes(units: Sequence[Unit], jobs: int) -> Iterator[UnitOutcome]:
    """What becomes of every unit, in the order in which they end; ``jobs`` of them at a time."""
    if jobs == 1:
        yield from map(attempt, units)
        return
    waiting, working = list(units), dict[Connection, _Job]()
    threads = max(1, cores() // jobs)
    try:
        while waiting or working:
            free = [slot for slot in range(jobs) if slot not in {job.slot for job in working.values()}]
            for slot in free[: len(waiting)]:
                job = _start(_placed(waiting.pop(0), slot), slot, threads)
                working[job.answer] = job
            for answer in wait(list(working)):
                assert isinstance(answer, Connection)
                yield _finish(working.pop(answer))
    finally:
        for job in working.values():
            job.process.terminate()
        for job in working.values():
            job.process.join()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class _Job:
    unit: Unit
    slot: int
    process: BaseProcess
    answer: Connection
    started: float


def _placed(unit: Unit, slot: int) -> Unit:
    """The unit on the device of a slot: where ``cuda`` is asked for, the visible ones in turn."""
    if unit.pretrain.device != "cuda" or torch.cuda.device_count() < 2:
        return unit
    return unit.on(f"cuda:{slot % torch.cuda.device_count()}")


def _start(unit: Unit, slot: int, threads: int) -> _Job:
    context = multiprocessing.get_context("spawn")  # forked, CUDA and its threads would not work
    answer, question = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(unit, threads, question))
    with _without_interrupts():
        process.start()
    question.close()  # its only other end is the process's, so that its death ends the wait
    return _Job(unit, slot, process, answer, time.monotonic())


def _finish(job: _Job) -> UnitOutcome:
    try:
        outcome: UnitOutcome = job.answer.recv()
    except EOFError:
        job.process.join()
        code = job.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = "; is there memory enough for so many --jobs?" if code == -signal.SIGKILL else ""
        return UnitOutcome(job.unit, None, time.monotonic() - job.started, failed=f"its process {how}{hint}")
    job.process.join()
    return outcome


def _work(unit: Unit, threads: int, answer: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with suppress(KeyboardInterrupt):  # the parent ends this process, whose state is saved
        answer.send(attempt(unit))
    answer.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # a killed run leaves only whole files, and the next command may be at work on this one


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started meanwhile ignores Ctrl-C, which reaches all processes of a terminal: the parent ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
