"""One reader fed with inputs in a process of its own, within a limit of time and of memory.

Whatever a reader does, a hang, a crash, or memory without end, is a finding, and the campaign goes on in a new process.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import mmap
import multiprocessing
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.fuzzing.mutation import LARGEST, mutate

ROOT = Path(__file__).resolve().parents[2]
_OURS = ("pipelines", "mae", "saliency")
_HEADER = struct.Struct("QdQ")
_GRACE = 3.0
"""Seconds that code which can't be interrupted has beyond its limit."""
_FRESH = 500 << 20
"""Bytes that a process may have grown by before the next input gets a new one."""
_SPACE = 4 << 30
"""Bytes of addresses that an input may take: more is a MemoryError."""


@dataclass(frozen=True)
class Target:
    """A reader: what it is fed with, and the exceptions by which it may refuse a file."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    """Whole files, most of them good ones."""
    run: Callable[[bytes, Path], object]
    """Reads such a file, in a folder that only this target fills. ``Lost`` where a sample is neither there nor told."""
    accepted: tuple[type[Exception], ...]
    repair: Callable[[bytes], bytes] | None = None
    """Makes checksums right again, without which most changes would be refused by them; for every other input."""
    words: Sequence[bytes] = ()
    """What such files hold."""


class Lost(AssertionError):  # noqa: N818 (it is the sample that is lost)
    """A sample is neither there nor recorded, or two readers do not agree."""


class Hang(BaseException):
    """The time of one input is over."""


@dataclass(frozen=True)
class Limits:
    """Of one input."""

    seconds: float = 10
    memory: int = 3 << 29
    """Bytes beyond what the process had."""


@dataclass
class Fault:
    """What one input, or several in the same way, did to a reader."""

    kind: str
    """The exception, or hang, memory, or the signal that ended the process."""
    place: str
    """File and line, of the project where there is one in the traceback."""
    text: str
    data: bytes
    """The smallest such input so far."""
    count: int = 1


@dataclass
class Result:
    """What came of a target."""

    inputs: int = 0
    seconds: float = 0.0
    faults: dict[tuple[str, str], Fault] = field(default_factory=dict)

    def add(self, fault: Fault) -> None:
        """Count a fault; of those of one kind and place the smallest input is kept."""
        known = self.faults.setdefault((fault.kind, fault.place), fault)
        if known is not fault:
            known.count += 1
            if len(fault.data) < len(known.data):
                known.data, known.text = fault.data, fault.text


def input_of(target: Target, seeds: Sequence[bytes], seed: int, index: int) -> bytes:
    """Input number ``index``: first the seeds as they are, then changed ones."""
    if index < len(seeds):
        return seeds[index]
    rng = random.Random(f"{seed} {target.name} {index}")
    data = mutate(rng.choice(seeds), rng, seeds, target.words)
    if target.repair is not None and rng.random() < 0.7:
        with contextlib.suppress(Exception):
            data = target.repair(data)[:LARGEST]
    return data


def campaign(
    target: Target, *, seconds: float = 1e9, inputs: int | None = None, seed: int = 0, limits: Limits = Limits(),
    corpus: Path | None = None,
) -> Result:  # fmt: skip
    """Feed a target for so long, or with so many inputs; with a ``corpus`` folder atheris chooses them."""
    seeds = list(target.seeds())
    result, started = Result(), time.monotonic()
    shared = mmap.mmap(-1, _HEADER.size + LARGEST)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        while True:
            left = seconds - (time.monotonic() - started)
            done = _HEADER.unpack_from(shared)[0]

            def feed(once: Callable[[bytes], None], done: int = done, left: float = left) -> None:
                if corpus is not None:
                    _by_coverage(target, seeds, once, corpus, seed=seed + done, seconds=left)
                    return
                end = time.monotonic() + left
                for index in itertools.count(done):
                    if time.monotonic() > end or (inputs is not None and index >= inputs):
                        return
                    once(input_of(target, seeds, seed, index))

            if left <= 0 or (inputs is not None and done >= inputs):
                break
            goes_on = _watch(target, feed, shared, limits, result, left + limits.seconds + _GRACE, Path(folder))
            if not goes_on or done == _HEADER.unpack_from(shared)[0]:
                break
    result.inputs, result.seconds = _HEADER.unpack_from(shared)[0], time.monotonic() - started
    return result


def _watch(
    target: Target, feed: Any, shared: mmap.mmap, limits: Limits, result: Result, longest: float, folder: Path
) -> bool:
    """Runs ``feed`` in a child process and takes in its faults; whether it ended before its time, and is to go on."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(target, feed, shared, theirs, limits, folder))
    child.start()
    theirs.close()
    last = time.monotonic() + longest
    more, ended = None, False
    while not ended:
        try:
            while ours.poll(0.1):
                message = ours.recv()
                if isinstance(message, Fault):
                    result.add(message)
                else:
                    more = message
        except EOFError:
            ended = True
        began = _HEADER.unpack_from(shared)[1]
        late = not ended and began and time.monotonic() - began > limits.seconds + _GRACE
        if late or (not ended and time.monotonic() > last):
            child.kill()
            child.join()
            if late:
                _blame(shared, result, "hang")
            return bool(late)
    child.join()
    if more is None and _HEADER.unpack_from(shared)[1]:
        code = child.exitcode or 0
        _blame(shared, result, signal.Signals(-code).name if code < 0 else f"exit {code}")
    return more is not False


def _blame(shared: mmap.mmap, result: Result, kind: str) -> None:
    """Counts the input on which the process ended, or had to be ended, as a fault."""
    done, _, size = _HEADER.unpack_from(shared)
    result.add(Fault(kind, "the process ended", "", bytes(shared[_HEADER.size : _HEADER.size + size])))
    _HEADER.pack_into(shared, 0, done + 1, 0.0, 0)


class _Restart(BaseException):
    """The process has grown, and the next input is for another one."""


def _work(target: Target, feed: Any, shared: mmap.mmap, pipe: Any, limits: Limits, folder: Path) -> None:
    """The child: feeds the reader, sends faults, and says at the end whether there is more to do."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # decoders print whatever they like
        os.dup2(null, descriptor)
    signal.signal(signal.SIGALRM, _time_is_over)
    addresses = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE if sys.platform == "linux" else 0
    if addresses:
        resource.setrlimit(resource.RLIMIT_AS, (addresses + _SPACE, resource.RLIM_INFINITY))
    base = _peak()

    def once(data: bytes) -> None:
        data = data[:LARGEST]
        done = _HEADER.unpack_from(shared)[0]
        shared[_HEADER.size : _HEADER.size + len(data)] = data
        _HEADER.pack_into(shared, 0, done, time.monotonic(), len(data))
        fault = attempt(target, data, folder, limits.seconds)
        grown = _peak() - base
        if grown > limits.memory and fault is None:
            fault = Fault("memory", target.name, f"{grown >> 20} MiB", data)
        if fault is not None:
            pipe.send(fault)
        _HEADER.pack_into(shared, 0, done + 1, 0.0, 0)
        if grown > min(_FRESH, limits.memory):
            pipe.send(True)
            raise _Restart

    try:
        feed(once)
        pipe.send(False)
    except _Restart:
        pass
    pipe.close()
    os._exit(0)


def attempt(target: Target, data: bytes, folder: Path, seconds: float) -> Fault | None:
    """Feed a target with one input; the fault, if it is refused in another way than it may be, or takes too long."""
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            target.run(data, folder)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except (Exception, Hang) as error:
        if is_refusal(error, target.accepted):
            return None
        kind = "hang" if isinstance(error, Hang) else type(error).__name__
        text = "".join(traceback.format_exception(error, limit=-40))[-8000:]
        return Fault(kind, _place_of(error), text, data)
    return None


def is_refusal(error: BaseException, accepted: tuple[type[Exception], ...]) -> bool:
    """Whether a reader may raise this: one of its exceptions, or a kind of them that is ours, that says something."""
    ours = type(error).__module__.startswith(_OURS)
    return isinstance(error, accepted) and (ours or type(error) in accepted) and bool(str(error))


def each_in_turn(*readers: Callable[[], object], accepted: tuple[type[Exception], ...]) -> None:
    """Calls every reader, also behind one that refuses the file; the first refusal is raised at the end."""
    refused = None
    for read in readers:
        try:
            read()
        except accepted as error:
            if not is_refusal(error, accepted):
                raise
            refused = refused or error
    if refused is not None:
        raise refused


def _place_of(error: BaseException) -> str:
    """The innermost line of the project, or of what it stands on where there is none, as FILE:LINE."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if any(frame.filename.startswith(f"{ROOT}/{name}/") for name in _OURS)]
    frame = (ours or frames)[-1]
    return f"{frame.filename.removeprefix(f'{ROOT}/')}:{frame.lineno}"


def _time_is_over(*_: object) -> None:
    raise Hang


def _peak() -> int:
    """The most bytes that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _by_coverage(
    target: Target, seeds: Sequence[bytes], once: Callable[[bytes], None], corpus: Path, *, seed: int, seconds: float
) -> None:
    """Lets atheris choose the inputs: those that reach new code are changed further."""
    import atheris  # type: ignore[import-not-found,unused-ignore]

    folder = corpus / target.name
    folder.mkdir(parents=True, exist_ok=True)
    for data in seeds:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    def change(data: bytes, longest: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, longest))
        data = mutate(data, rng, seeds, target.words)
        if target.repair is not None and rng.random() < 0.7:
            with contextlib.suppress(Exception):
                data = target.repair(data)
        return data[:longest]

    options = [f"-seed={seed % 2**31 + 1}", f"-max_total_time={max(int(seconds), 1)}", f"-max_len={LARGEST}"]
    options += ["-timeout=0", "-rss_limit_mb=0", "-handle_abrt=0", "-handle_segv=0", "-print_final_stats=0"]
    atheris.Setup(["fuzz", *options, str(folder)], once, custom_mutator=change)
    atheris.Fuzz()


def digest(data: bytes) -> str:
    """A short name for an input."""
    return hashlib.sha256(data).hexdigest()[:12]
