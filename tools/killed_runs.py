"""Commands that are killed at random moments and run again, from a process that has imported everything once.

Importing takes seconds and a tiny run a fraction of one, so every run is a fork of the process that calls
:func:`campaign`. That process must not have started threads of its own. Each run is the leader of its own session, by
which everything that it started is found again. Linux only.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

TIMINGS = frozenset(
    {"images_per_second", "starved", "startup_seconds", "mfu", "peak_flops", "pretrain_seconds", "evaluate_seconds"}
)
"""The keys of JSON that measure time, which no two runs share. Everything else has to be equal."""

_GRACE = 60.0  # seconds in which what a killed process has started must be gone; Ray and DataLoader look now and then
_TIMED_TEXT = re.compile(rb"(?m)evaluation took \d+ s|(\d+|\xe2\x80\x93) \|$")  # and the last column of a table
_MOST = 6  # kills of a chain
_PATIENCE = 300.0  # seconds after which a run counts as hanging


class BrokenPromiseError(Exception):
    """A promise that did not hold."""


@dataclass(frozen=True)
class Scenario:
    """Commands that are run one after the other in an empty folder, each again until it ends with 0."""

    name: str
    steps: tuple[tuple[str, ...], ...]
    again: tuple[str, ...] = ()
    """Words that are added when a step is run again."""
    processes: int = 1
    """More than one are started as torchrun starts them."""
    done: str = ""
    """What a rerun says that finds everything done, and takes that for a mistake."""
    program: tuple[str, ...] = ()
    """A program in the place of a fork."""
    number: signal.Signals = signal.SIGKILL
    """Another signal goes to all processes, as a scheduler sends it, and they have to end by it."""


@dataclass
class Outcome:
    """What came of a campaign."""

    name: str
    kills: int = 0
    reruns: int = 0
    chains: int = 0
    seconds: float = 0.0
    whole: float = 0.0
    """Seconds that a run takes that is left alone."""
    faults: list[str] = field(default_factory=list)


def campaign(
    scenario: Scenario, place: Path, run: Callable[[list[str]], int], *, kills: int, seed: int = 0, limit: float = 1e9
) -> Outcome:
    """Kill the scenario's commands ``kills`` times, or as often as ``limit`` seconds allow; ``place`` is made anew.

    A moment is drawn evenly over the time that an undisturbed run takes. Half of the kills hit the process alone, half
    all that it started. After each one no file under a final name is broken. A chain of kills and reruns ends when a
    rerun is done before its kill: then the folder has to be that of an undisturbed run, and no process may be left.
    """
    shutil.rmtree(place, ignore_errors=True)
    started, drawn, found = time.monotonic(), random.Random(f"{scenario.name} {seed}"), Outcome(scenario.name)
    whole = []
    for _ in range(2):  # the second one is warm
        begun, chain = time.monotonic(), _Chain(scenario, place / "whole", run, drawn)
        try:
            chain.run(0, 0)
        except BrokenPromiseError as fault:
            return replace(found, faults=[f"undisturbed: {fault}"])
        found.whole = time.monotonic() - begun
        whole.append(tree(chain.place))
        shutil.rmtree(chain.place)
    digests = whole[0]
    if digests != whole[1]:
        return replace(found, faults=[f"two undisturbed runs differ: {_differing(*whole)}"])
    while found.kills < kills and time.monotonic() - started < limit:
        chain = _Chain(scenario, place / f"chain-{found.chains:03d}", run, drawn)
        try:
            chain.run(found.whole, min(kills - found.kills, drawn.randint(1, _MOST)))
            if (now := tree(chain.place)) != digests:
                raise BrokenPromiseError(
                    f"the files are others than those of an undisturbed run: {_differing(digests, now)}"
                )
            shutil.rmtree(chain.place)
        except BrokenPromiseError as fault:
            found.faults.append(f"{chain.place.name}, after {chain.kills} kills: {fault}")
        found.kills += chain.kills
        found.reruns += chain.kills
        found.chains += 1
    found.seconds = time.monotonic() - started
    return found


class _Chain:
    """Runs of the steps in one folder, killed and run again until all are done."""

    def __init__(self, scenario: Scenario, place: Path, run: Callable[[list[str]], int], drawn: random.Random) -> None:
        self.scenario, self.place, self._run, self._drawn = scenario, place, run, drawn
        self.kills = 0
        self._sessions: list[int] = []

    def run(self, seconds: float, most: int) -> None:
        """Kill at most so many times, each up to ``seconds`` after a start; then wait for the end."""
        self.place.mkdir(parents=True)
        waiting = list(self.scenario.steps)
        while waiting:
            moment = time.monotonic() + (self._drawn.uniform(0, seconds) if self.kills < most else _PATIENCE)
            again = self.scenario.again if self.kills else ()
            while waiting and self._ends([*waiting[0], *again], moment, hangs=self.kills >= most):
                waiting.pop(0)
        self._all_gone()

    def _ends(self, words: list[str], moment: float, *, hangs: bool) -> bool:
        """Whether a command ends before its moment; else it is killed."""
        process = _start(self.scenario, words, self.place, self._run)
        self._sessions.append(process)
        while time.monotonic() < moment:
            if (ended := os.waitpid(process, os.WNOHANG))[0]:
                code = os.waitstatus_to_exitcode(ended[1])
                if code and not (self.kills and self.scenario.done and self.scenario.done in self._log()):
                    raise BrokenPromiseError(f"exit code {code}: {self._log()}")
                return True
            time.sleep(0.001)
        if self.scenario.number != signal.SIGKILL and not hangs:
            self._stop(process)
        else:
            self._kill(process, everything=hangs or self._drawn.random() < 0.5)
        if hangs:
            raise BrokenPromiseError(f"it hangs: {self._log()}")
        self.kills += 1
        check_whole(self.place)
        return False

    def _stop(self, process: int) -> None:
        for pid in list(members([process])):
            _signal(pid, self.scenario.number)
        ended = (0, 0)

        def is_over() -> bool:
            nonlocal ended
            ended = ended if ended[0] else os.waitpid(process, os.WNOHANG)
            return ended[0] != 0

        if not _wait_until(is_over, _GRACE):
            self._kill(process, everything=True)
            raise BrokenPromiseError(f"{self.scenario.number.name} does not end it in {_GRACE:g} s: {self._log()}")
        if "Traceback" in self._log() and not self.scenario.program:
            raise BrokenPromiseError(f"{self.scenario.number.name}: {self._log()}")
        self._all_gone()

    def _kill(self, process: int, *, everything: bool) -> None:
        victims = list(members([process])) if everything or self.scenario.processes > 1 else [process]
        if not everything and self.scenario.processes > 1 and len(victims) > 1:
            victims = [self._drawn.choice(victims)]  # the launcher, or one of those it started
        for pid in victims:
            _signal(pid)
        if process not in victims:  # the launcher ends when the rest has
            _wait_until(lambda: len(list(members([process]))) <= 1, _GRACE)
            _signal(process)
        os.waitpid(process, 0)
        if self.scenario.processes > 1:
            self._all_gone()  # they would write to the end, and hold the lock by right

    def _all_gone(self) -> None:
        if not _wait_until(lambda: not list(members(self._sessions)), _GRACE):
            left = {pid: (Path("/proc") / str(pid) / "cmdline").read_text()[:80] for pid in members(self._sessions)}
            for pid in left:
                _signal(pid)
            raise BrokenPromiseError(f"processes outlive it by {_GRACE:g} seconds: {left}")

    def _log(self) -> str:
        return _log_of(self.place).read_text(errors="replace")[-1500:]


def _log_of(place: Path) -> Path:
    return place.with_name(place.name + ".log")


def _start(scenario: Scenario, words: list[str], place: Path, run: Callable[[list[str]], int]) -> int:
    log = os.open(_log_of(place), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        if scenario.program:
            command = [*scenario.program, *words]
            return subprocess.Popen(command, cwd=place, stdout=log, stderr=log, start_new_session=True).pid
        if (process := os.fork()) > 0:
            return process
        os.setsid()
        os.chdir(place)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _end(lambda: run(words) if scenario.processes == 1 else _launch(words, scenario.processes, run))
    finally:
        os.close(log)
    raise AssertionError  # a fork ends above


def _end(work: Callable[[], int]) -> None:
    """End this process as the interpreter would, with what ``work`` returns."""
    code = 70
    try:
        code = work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _launch(words: list[str], count: int, run: Callable[[list[str]], int]) -> int:
    """Processes as torchrun starts them, without its imports; the first exit code that is not 0 ends the others."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(count):
        if (process := os.fork()) == 0:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            os.environ |= {name: str(value) for name, value in place.items()}
            os.environ |= {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
            _end(lambda: run(words))
        started.append(process)
    worst = 0
    for _ in started:
        process, status = os.wait()
        if (code := os.waitstatus_to_exitcode(status)) and not worst:
            worst = code if code > 0 else 1
            time.sleep(0.2)
            for other in started:
                if other != process:
                    _signal(other, signal.SIGTERM)
    return worst


def members(sessions: list[int]) -> Iterator[int]:
    """The processes of some sessions that are running."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) in sessions and state != "Z":
            yield int(folder.name)


def _signal(pid: int, number: int = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait_until(done: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def tree(folder: Path) -> dict[str, str]:
    """A digest of every file under a folder, without the times that are written in it, and how it was called."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(_without_times(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("command.yaml", "report.html")
    }


def _without_times(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".json":
        return json.dumps(_untimed(json.loads(data))).encode()
    if path.suffix == ".jsonl":
        return "\n".join(json.dumps(_untimed(json.loads(line))) for line in data.splitlines()).encode()
    return _TIMED_TEXT.sub(b"", data) if path.suffix == ".md" else data


def _untimed(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _untimed(value) for name, value in content.items() if name not in TIMINGS}
    return [_untimed(value) for value in content] if isinstance(content, list) else content


def _differing(whole: dict[str, str], found: dict[str, str]) -> str:
    return ", ".join(
        f"{'missing' if name not in found else 'left over' if name not in whole else 'other'} {name}"
        for name in sorted(whole.keys() | found.keys())
        if whole.get(name) != found.get(name)
    )


def check_whole(folder: Path) -> None:
    """BrokenPromiseError if a file under a final name is not whole.

    Logs that are written line by line may end in half a line.
    """
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts) and not _is_whole(path):
            raise BrokenPromiseError(f"a half file under a final name: {relative}, {path.stat().st_size} bytes")


def _is_whole(path: Path) -> bool:
    data = path.read_bytes()
    if path.suffix == ".json":
        try:
            return json.loads(data) is not None
        except ValueError:
            return False
    if path.suffix == ".png":
        return data.endswith(b"IEND\xaeB`\x82")
    if path.suffix == ".parquet":
        return len(data) > 8 and data.startswith(b"PAR1") and data.endswith(b"PAR1")
    if path.suffix == ".safetensors":
        head = int.from_bytes(data[:8], "little")
        tensors = json.loads(data[8 : 8 + head])
        tensors.pop("__metadata__", None)
        return len(data) == 8 + head + max(tensor["data_offsets"][1] for tensor in tensors.values())
    if path.suffix == ".pt":
        return zipfile.is_zipfile(path)
    if path.suffix == ".tar":
        return data.endswith(bytes(1024))
    return _is_whole_mp4(data) if path.suffix == ".mp4" else True


def _is_whole_mp4(data: bytes) -> bool:
    place, kinds = 0, []
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        kinds.append(data[place + 4 : place + 8])
        place += max(size, 8)
    return place == len(data) and b"moov" in kinds
