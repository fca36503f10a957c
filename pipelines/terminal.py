"""What the commands found, as tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from pipelines.judgement import Judgement


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
    """Every encoder's accuracy by protocol."""
    protocols = [name for name in ("knn", "linear") if name in result["rows"][0]]
    title = f"{result['test_images']} test images, {result['classes']} classes, largest class {result['chance']:.1%}"
    table = Table("encoder", *(f"{name} %" for name in protocols), title=title, title_justify="left")
    for row in result["rows"]:
        table.add_row(row["encoder"], *(f"{100 * row[p]:.1f} ± {100 * row[p + '_interval']:.1f}" for p in protocols))
    Console().print(table)
