"""Feeds every reader of files from outside with damaged ones: ``python tools/fuzz.py --seconds 45 --targets images``.

A fault is an exception other than those by which a reader refuses a file, more than ten seconds or 1.5 GB for one
input, and a sample that is neither there nor told. Each is written to ``--out``, as the smallest input that was met,
with its traceback beside it, and ``--replay FILE`` shows what it does. The inputs follow from ``--seed``. Where atheris
is installed (``pip install atheris``), ``--engine atheris`` chooses inputs by the code that they reach.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tools.fuzzing.worker import Limits, Result, Target, campaign, digest  # noqa: E402


def save(out: Path, name: str, result: Result) -> None:
    """Write each fault's input, and beside it what it did."""
    for fault in result.faults.values():
        file = out / name / digest(fault.data)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(fault.data)
        file.with_suffix(".txt").write_text(
            f"{fault.kind} at {fault.place}, {fault.count} inputs\n\n{fault.text}", encoding="utf-8", errors="replace"
        )


def table(results: dict[str, Result]) -> str:
    """The outcome of a campaign in Markdown, one row a target."""
    lines = ["| target | inputs | seconds | faults |", "| --- | ---: | ---: | ---: |"]
    for name, result in results.items():
        lines.append(f"| {name} | {result.inputs:,} | {result.seconds:.0f} | {len(result.faults)} |")
    inputs, seconds, faults = (
        sum(numbers) for numbers in zip(*((r.inputs, r.seconds, len(r.faults)) for r in results.values()), strict=True)
    )
    return "\n".join([*lines, f"| all | {inputs:,} | {seconds:.0f} | {faults} |"])


def chosen(targets: tuple[Target, ...], names: str) -> list[Target]:
    """The targets of these names, or whose names begin with one of them and a dash."""
    wanted = names.split(",")
    found = [each for each in targets if any(each.name == name or each.name.startswith(f"{name}-") for name in wanted)]
    if not found:
        raise SystemExit(f"--targets {names}: there are {', '.join(each.name for each in targets)}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign, or replay one input; 1 if there were faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", help="names with commas, as the table has them; a group by its first word")
    parser.add_argument("--seconds", type=float, default=45, help="of each target")
    parser.add_argument("--inputs", type=int, help="of each target, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz-out"), help="where the inputs of faults go")
    parser.add_argument("--engine", choices=("plain", "atheris"), default="plain")
    parser.add_argument("--replay", type=Path, help="one input, of the target that its folder is named after")
    parser.add_argument("--timeout", type=float, default=10, help="seconds for one input")
    asked = parser.parse_args(arguments)
    if asked.engine == "atheris":
        import atheris  # type: ignore[import-not-found,unused-ignore]

        with atheris.instrument_imports(include=["pipelines", "mae", "saliency"], enable_loader_override=False):
            from tools.fuzzing.targets import TARGETS
    else:
        from tools.fuzzing.targets import TARGETS
    limits = Limits(seconds=asked.timeout)
    if asked.replay is not None:
        return replay(chosen(TARGETS, asked.targets or asked.replay.resolve().parent.name)[0], asked.replay, limits)
    results = {}
    for target in chosen(TARGETS, asked.targets) if asked.targets else TARGETS:
        corpus = asked.out / "corpus" if asked.engine == "atheris" else None
        result = campaign(
            target, seconds=asked.seconds, inputs=asked.inputs, seed=asked.seed, limits=limits, corpus=corpus
        )
        results[target.name] = result
        save(asked.out, target.name, result)
        print(f"{target.name}: {result.inputs:,} inputs in {result.seconds:.0f} s", flush=True)
        for fault in result.faults.values():
            place = asked.out / target.name / digest(fault.data)
            print(f"{target.name}: {fault.kind} at {fault.place}, {fault.count} inputs: {place}", flush=True)
    print(table(results))
    return int(any(result.faults for result in results.values()))


def replay(target: Target, file: Path, limits: Limits) -> int:
    """Feed one input in a process of its own and print what it does."""
    data = file.read_bytes()
    alone = Target(target.name, lambda: [data], target.run, target.accepted)
    faults = campaign(alone, inputs=1, limits=limits).faults.values()
    for fault in faults:
        print(f"{fault.kind} at {fault.place}\n{fault.text}")
    if not faults:
        print("no fault")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
