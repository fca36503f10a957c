"""Everything that waits for a GPU, in pieces of under nine minutes each, and one table of what they gave.

    python tools/gpu_acceptance.py --out FOLDER                     all pieces that are not finished
    python tools/gpu_acceptance.py --out FOLDER --only build-b32    one piece; --list names them
    python tools/gpu_acceptance.py --out FOLDER --device cpu --tiny the same commands as small as they get

A piece is one or more commands in a row. What they print is kept in FOLDER/PIECE.json, and a piece that has ended well
is not run again, unless its commands change. The exit code is 1 if a piece failed or took too long.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from saliency.files import write_text_atomically  # noqa: E402

LIMIT = 540.0
"""Seconds that a piece may take."""

_SHOWN = 12
"""Lines of output in the table."""


@dataclass(frozen=True)
class Piece:
    """Commands by their arguments for Python; ``{device}`` and ``{work}``, an empty folder, are filled in."""

    name: str
    commands: tuple[str, ...]
    tiny: tuple[str, ...]


def _build(name: str, model: str) -> Piece:
    command = "benchmarks/bench_build.py --device {device} --model "
    return Piece(
        f"build-{name}",
        (f"{command}{model} --precision auto --pairs 2048 --batch 256 --workers 12",),
        (f"{command}RN50 --pairs 2 --batch 2 --rounds 1 --skip-peer",),
    )


def _step(name: str, model: str, *more: str) -> Piece:
    command = "benchmarks/bench_step.py --device {device} --models "
    return Piece(
        f"step-{name}",
        (" ".join([command + model, "--precision auto", *more]),),
        (f"{command}mini --batch 2 --rounds 2 --skip-peer --decode-ratio",),
    )


def _pretrain(to: str, *, tiny: bool, more: str = "") -> str:
    size = "--model mini --image-size 32 --patch-size 8 --batch-size 4" if tiny else "--model base --batch-size 128"
    count = 8 if tiny else 2048
    return f"-m cli pretrain shapes:{count} --out {{work}}/{to} {size} --epochs 1 --device {{device}} --quiet {more}"


def _evaluate(*, tiny: bool, precision: str) -> str:
    count = 20 if tiny else 2048
    return (
        f"-m cli evaluate {{work}}/run shapes:{count} --protocol knn --device {{device}} --precision {precision} "
        f"--out {{work}}/{precision}.json"
    )


def _evaluation(*, tiny: bool) -> tuple[str, ...]:
    return (
        _pretrain("run", tiny=tiny),
        *(_evaluate(tiny=tiny, precision=precision) for precision in ("fp32", "bf16")),
    )


def _determinism(*, tiny: bool) -> tuple[str, ...]:
    runs = [_pretrain(to, tiny=tiny, more="--deterministic") for to in ("a", "b")]
    return (*runs, "tools/gpu_acceptance.py --same {work}/a {work}/b")


PIECES = (
    _build("b32", "ViT-B-32"),
    _build("b16", "ViT-B-16"),
    _build("l14", "ViT-L-14"),
    _step("base", "base"),
    _step("base-compiled", "base", "--compile"),
    _step("large", "large"),
    _step("large-compiled", "large", "--compile"),
    Piece(
        "gate",
        ("benchmarks/bench_strategies.py --device {device} --models base --only gate hard attention-high",),
        ("benchmarks/bench_strategies.py --device {device} --models mini --batch 2 --rounds 2 --only gate",),
    ),
    Piece(
        "mlo",
        (
            "benchmarks/bench_mlo.py --device {device} --precision bf16 --model base --image-size 224 --patch-size 16 "
            "--batch 64",
        ),
        (
            "benchmarks/bench_mlo.py --device {device} --model mini --image-size 32 --patch-size 16 --batch 2 "
            "--rounds 1",
        ),
    ),
    Piece(
        "stream",
        ("benchmarks/bench_stream.py --device {device}",),
        ("benchmarks/bench_stream.py --device {device} --models tiny:32:4:8 --rounds 1",),
    ),
    Piece("evaluation", _evaluation(tiny=False), _evaluation(tiny=True)),
    Piece("determinism", _determinism(tiny=False), _determinism(tiny=True)),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="pieces, separated by commas")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--same", type=Path, nargs=2, metavar="RUN", help="whether two runs have the same weights")
    asked = parser.parse_args()
    if asked.same:
        return report_same(*asked.same)
    names = asked.only.split(",") if asked.only else [piece.name for piece in PIECES]
    if unknown := set(names) - {piece.name for piece in PIECES}:
        parser.error(f"--only {min(unknown)} is no piece; --list names them")
    if asked.list:
        print("\n".join(names))
        return 0
    if asked.out is None:
        parser.error("give --out FOLDER")
    asked.out.mkdir(parents=True, exist_ok=True)
    chosen = [piece for piece in PIECES if piece.name in names]
    found = [measure(piece, asked.out.resolve(), asked.device, tiny=asked.tiny) for piece in chosen]
    print(to_markdown(found))
    return int(any(each["state"] != "done" for each in found))


def report_same(first: Path, second: Path) -> int:
    """Print whether the last weights of two runs are equal to the bit; 0 if they are."""
    weights = [sorted(run.rglob("model.safetensors"))[-1].read_bytes() for run in (first, second)]
    print("the same weights" if weights[0] == weights[1] else "other weights")
    return int(weights[0] != weights[1])


def measure(piece: Piece, out: Path, device: str, *, tiny: bool) -> dict[str, Any]:
    """What a piece gave: as it is kept in ``out``, or by running it now."""
    commands = list(piece.tiny if tiny else piece.commands)
    kept = out / f"{piece.name}.json"
    asked = {"piece": piece.name, "device": device, "commands": commands}
    if kept.is_file():
        before: dict[str, Any] = json.loads(kept.read_text())
        if before["state"] == "done" and asked.items() <= before.items():
            return before
    work = out / f"{piece.name}.{time.time_ns()}"
    work.mkdir()
    started, state, lines = time.monotonic(), "done", list[str]()
    for command in commands:
        words = [word.format(device=device, work=work) for word in command.split()]
        code, output = run(words, LIMIT - (time.monotonic() - started))
        lines += output.splitlines()
        if code:
            state = "too slow" if code == -signal.SIGKILL else f"failed ({code})"
            break
    found = asked | {"state": state, "seconds": round(time.monotonic() - started, 1), "output": lines}
    write_text_atomically(kept, json.dumps(found, indent=1) + "\n")
    return found


def run(words: Sequence[str], seconds: float) -> tuple[int, str]:
    """Exit code and output of Python with these arguments; it is killed with all that it started after ``seconds``."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    return process.returncode, output


def to_markdown(found: Sequence[dict[str, Any]]) -> str:
    """One table of all pieces, with the last lines that each printed."""
    rows = ["| piece | device | state | seconds | output |", "|---|---|---|---|---|"]
    for each in found:
        shown = "<br>".join(line.strip().replace("|", "\\|") for line in each["output"][-_SHOWN:] if line.strip())
        rows.append(f"| {each['piece']} | {each['device']} | {each['state']} | {each['seconds']} | {shown} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
