"""What the user sees: what the commands found as tables, and what went wrong as one line with an exit code."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from pipelines.compare.report import Comparison
    from pipelines.demo.demo_video import VideoDemoResult
    from pipelines.inspect.map_verdict import Judgement


def print_facts(facts: dict[str, Any], title: str | None = None) -> None:
    """Two columns: what, and how it is."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    for name, value in facts.items():
        table.add_row(escape(name), escape(str(value)))
    Console().print(table)


def print_judgement(judgement: Judgement) -> None:
    """The maps beside their controls, figure by figure, and what follows in words."""
    heading, *rows = judgement.table() or [[]]
    console = Console()
    if rows:
        title = f"\n{judgement.judged} maps with true masks, 95 % intervals"
        table = Table(*heading, box=None, padding=(0, 2, 0, 0), pad_edge=False, title=title, title_justify="left")
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
    console.print(f"\n{judgement.verdict()}", highlight=False)


def print_evaluation(result: dict[str, Any]) -> None:
    """Every encoder's figure by protocol, with the test set's interval, and that over several seeds."""
    title = f"{result['test_images']} test {'clips' if 'clip' in result else 'images'}"
    if result["classes"]:
        title += f", {result['classes']} classes"
    if result["chance"] is not None:
        title += f", largest class {result['chance']:.1%}"
    several = len(result["seeds"]) > 1
    if several:
        title += f"; mean of {len(result['seeds'])} seeds"
    if result["label_fraction"] < 1:
        title += f"; {result['train_images']} training images ({100 * result['label_fraction']:.3g} % of the labels)"
    heads = {"occlusion": "occlusion, area %", "segment": "segment, mIoU %", "propagate": "propagate, J&F %"}
    names = [heads.get(name, f"{name} %") for name in result["protocols"]]
    table = Table("encoder", *names, title=title, title_justify="left")
    for row in (*result["rows"], *result.get("baselines", ())):
        table.add_row(row["encoder"], *(_figure(row, protocol) for protocol in result["protocols"]))
    console = Console()
    console.print(table)
    for line in _occlusion_lines(result) if "occlusion" in result["protocols"] else ():
        console.print(line, highlight=False)
    if result["unreadable"]:
        console.print(f"{len(result['unreadable'])} images could not be read", highlight=False)


def _figure(row: dict[str, Any], protocol: str) -> str:
    """A figure in per cent with its intervals; a dash where a row has none."""
    if protocol not in row:
        return "–"
    interval, seeds = row[f"{protocol}_interval"], row.get(f"{protocol}_seed_interval")
    text = f"{100 * row[protocol]:.1f}" + ("" if interval is None else f" ± {100 * interval:.1f}")
    return text if seeds is None else f"{text}\nseeds ± {100 * seeds:.1f}"


def _occlusion_lines(result: dict[str, Any]) -> Iterator[Table]:
    """A table an occluder: accuracy at every share, and the area under that curve."""
    for kind in result["rows"][0]["occlusion_curves"]:
        shares = [f"{100 * share:.3g} %" for share in result["rows"][0]["occlusion_shares"]]
        title = f"\noccluder {kind}: accuracy % by the share hidden"
        table = Table("encoder", *shares, "area", box=None, padding=(0, 1, 0, 0), title=title, title_justify="left")
        for row in result["rows"]:
            curve = row["occlusion_curves"][kind]
            half = (curve["area_ends"][1] - curve["area_ends"][0]) / 2
            cells = [f"{100 * value:.1f}" for value in curve["accuracy"]]
            table.add_row(row["encoder"], *cells, f"{100 * curve['area']:.1f} ± {100 * half:.1f}")
        yield table


def print_recovery(result: VideoDemoResult) -> None:
    """What was filled in of unseen clips by the model, and by what needs none."""
    heading, *rows = result.table()
    title = f"\nHidden pixels alone, means over {result.clips} unseen scenes"
    table = Table(*heading, box=None, padding=(0, 2, 0, 0), pad_edge=False, title=title, title_justify="left")
    for cells in rows:
        table.add_row(*cells)
    Console().print(table)


def print_comparison(comparison: Comparison) -> None:
    """Every arm's accuracy and its difference from the baseline, by protocol."""
    from pipelines.compare.report import tables_of

    for protocol, (heading, *rows) in tables_of(comparison).items():
        title = f"\n{protocol}: means over seeds and paired differences, 95 % intervals"
        table = Table(*heading, title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for cells in rows:
            table.add_row(*cells)
        Console().print(table)


def faults_in_words(faults: dict[str, int | bool], stall_timeout: float) -> dict[str, str]:
    """What was wrong with a stream, as facts to print."""
    words = {
        "stalled": f"the stream sent nothing for {stall_timeout:g} seconds; what had come is done",
        "truncated": "the stream ended within a frame, or before the end that it says it has",
        "corrupt": "{} frames could not be decoded",
        "repeated": "{} times the last frame stands in for one that is missing",
        "skipped": "{} frames came faster than they were taken",
        "resized": "{} frames had another size than the first",
        "jumps": "{} times the clock of the stream jumped",
        "mask_ended": "the masks ended at frame {}; from there on the last one holds",
        "truth_ended": "the true frames ended at frame {}; from there on the last one holds",
    }
    return {name.replace("_", " "): words[name].format(value) for name, value in faults.items()}


_ADVICE = dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG), "give another --out"
) | dict.fromkeys(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    "what is written so far is whole, and the same command goes on with it",
)
"""What to do about an error of the disk or of its permissions; any other OSError is a bug."""


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Mistakes of the user and of the disk as one line with exit code 2; Ctrl-C as one line with 130."""
    from pipelines.errors import ToldElsewhereError, UserError

    try:
        yield
    except ToldElsewhereError as error:
        raise typer.Exit(2) from error
    except UserError as error:
        fail(str(error), 2)
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        where = f": {error.filename}" if error.filename else ""
        fail(f"{error.strerror}{where}; {_ADVICE[error.errno]}", 2)
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on where it stopped (pretrain: with --resume)", 130)


def fail(message: str, code: int, kind: str = "error") -> None:
    """One line on stderr, and the exit code."""
    typer.echo(f"{kind}: {message}", err=True)
    raise typer.Exit(code)


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """The command, with mistakes of the user and of the disk as one line and exit code 2, and Ctrl-C as 130."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> None:
        with _plain_errors():
            function(*args, **kwargs)

    return call
