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
_FRAMES = "┏┃┡│└"
"""What lines of tables begin with, which are not shown."""


@dataclass(frozen=True)
class Piece:
    """Commands by their arguments for Python; ``{device}`` and ``{work}``, an empty folder, are filled in."""

    name: str
    commands: tuple[str, ...]
    tiny: tuple[str, ...]


def _build(name: str, model: str, *more: str) -> Piece:
    command = "benchmarks/bench_build.py --device {device} --model "
    return Piece(
        f"build-{name}",
        (" ".join([command + model, "--precision auto --pairs 2048 --batch 256 --workers 12", *more]),),
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


def _evaluation(name: str, asked: str, tiny_asked: str = "") -> Piece:
    """One measurement in both precisions, whose figures should differ by less than their intervals."""

    def commands(*, tiny: bool) -> tuple[str, ...]:
        source = "shapes:40,size=32,objects=1 --batch-size 8" if tiny else "shapes:2048,objects=1 --workers 12"
        evaluate = f"-m cli evaluate {{work}}/run {source} {tiny_asked or asked} --no-untrained --device {{device}}"
        results = (f"{evaluate} --precision {each} --out {{work}}/{each}.json" for each in ("fp32", "bf16"))
        figures = "tools/gpu_acceptance.py --figures {work}/fp32.json {work}/bf16.json"
        return (_pretrain("run", tiny=tiny), *results, figures)

    return Piece(f"evaluation-{name}", commands(tiny=False), commands(tiny=True))


def _determinism(*, tiny: bool) -> tuple[str, ...]:
    runs = [_pretrain(to, tiny=tiny, more="--deterministic") for to in ("a", "b")]
    return (*runs, "tools/gpu_acceptance.py --same {work}/a {work}/b")


PIECES = (
    _build("b32", "ViT-B-32"),
    _build("b16", "ViT-B-16"),
    _build("l14", "ViT-L-14"),
    _build("b16-compiled", "ViT-B-16", "--compile"),
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
        "loaders",
        (
            "benchmarks/bench_loader.py --images 4096 --workers 12 --only 224",
            f"{_pretrain('a', tiny=False, more='--workers 12 --augment-on device')}",
        ),
        ("benchmarks/bench_loader.py --images 4 --batch 2 --rounds 1 --only 32", _pretrain("a", tiny=True)),
    ),
    Piece(
        "stream",
        tuple(f"benchmarks/bench_stream.py --device {{device}} --precision {each}" for each in ("fp32", "bf16")),
        ("benchmarks/bench_stream.py --device {device} --models tiny:32:4:8 --rounds 1 --precision bf16",),
    ),
    Piece(
        "memory",
        ("benchmarks/bench_stream.py --device {device} --memory 10000",),
        ("benchmarks/bench_stream.py --device {device} --memory 100",),
    ),
    _evaluation("frozen", "--protocol knn --protocol logistic --protocol segment --protocol occlusion"),
    _evaluation("linear", "--protocol linear --linear-epochs 10", "--protocol linear --linear-epochs 1"),
    _evaluation("attentive", "--protocol attentive --linear-epochs 5", "--protocol attentive --linear-epochs 1"),
    _evaluation("finetune", "--protocol finetune --finetune-epochs 3", "--protocol finetune --finetune-epochs 1"),
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
    parser.add_argument("--figures", type=Path, nargs="+", metavar="FILE", help="what evaluations found, side by side")
    asked = parser.parse_args()
    if asked.same:
        return report_same(*asked.same)
    if asked.figures:
        print("\n".join(figures_of([json.loads(file.read_text()) for file in asked.figures])))
        return 0
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


def figures_of(results: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each protocol: what each evaluation found of its first encoder, in per cent with its interval."""
    lines = []
    for name in results[0]["protocols"]:
        rows = [(result.get("precision", "fp32"), result["rows"][0]) for result in results]
        told = [f"{said} {100 * row[name]:.1f} ± {100 * (row[f'{name}_interval'] or 0):.1f}" for said, row in rows]
        lines.append(f"{name}: {', '.join(told)}")
    return lines


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
        lines = [line.strip() for line in each["output"] if line.strip() and line[0] not in _FRAMES]
        shown = "<br>".join(line.replace("|", "\\|") for line in lines[-_SHOWN:])
        rows.append(f"| {each['piece']} | {each['device']} | {each['state']} | {each['seconds']} | {shown} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
