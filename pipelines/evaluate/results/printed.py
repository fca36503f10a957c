"""An evaluation on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.commandline.terminal import plain
from pipelines.evaluate.encoders.speed import speed_table
from pipelines.evaluate.leaks import leak_lines
from pipelines.evaluate.protocol import load


def print_evaluation(result: dict[str, Any]) -> None:
    """Every encoder's figure by protocol, with the test set's interval, and that over several seeds."""
    clips = "clip" in result and result["classes"]  # without classes they are frames
    title = f"{result['test_images']} test {'clips' if clips else 'images'}"
    if result["classes"]:
        title += f", {result['classes']} classes"
    if result["chance"] is not None:
        title += f", largest class {result['chance']:.1%}"
    if len(result["seeds"]) > 1:
        title += f"; mean of {len(result['seeds'])} seeds"
    if result["label_fraction"] < 1:
        title += f"; {result['train_images']} training images ({100 * result['label_fraction']:.3g} % of the labels)"
    protocols = [load(name) for name in result["protocols"]]
    table = Table("encoder", *(each.heading() for each in protocols), title=title, title_justify="left")
    for row in (*result["rows"], *result.get("baselines", ())):
        table.add_row(plain(row["encoder"]), *(_figure(row, protocol) for protocol in result["protocols"]))
    console = Console()
    console.print(table)
    for further in (table for each in protocols for table in each.tables(result)):
        console.print(further, highlight=False)
    if "on_device" in result:
        console.print(speed_table(result), highlight=False)
    for line in leak_lines(result):
        console.print(plain(line), highlight=False)
    if result["unreadable"]:
        console.print(f"{len(result['unreadable'])} images could not be read", highlight=False)


def remarks(result: dict[str, Any]) -> list[str]:
    """Lines on the first row's encoder: how far it is from the others, and such as what it takes for what."""
    return [*_differences(result), *(line for name in result["protocols"] for line in load(name).remarks(result))]


def _differences(result: dict[str, Any]) -> Iterator[str]:
    """How far the first encoder is above each other one, by protocol, as paired by test image."""
    for row in result["rows"][1:]:
        found = {name: row.get(f"{name}_minus_first", {}) for name in result["protocols"]}
        points = [
            f"{name} {0 - 100 * each['accuracy']:+.1f} ± {100 * each['interval']:.1f}"
            for name, each in found.items()
            if "accuracy" in each
        ]
        if points:
            yield f"difference from {row['encoder']}, paired by image: {', '.join(points)} points"


def _figure(row: dict[str, Any], protocol: str) -> str:
    """A figure in per cent with its intervals; a dash where a row has none."""
    if protocol not in row:
        return "–"
    interval, seeds = row[f"{protocol}_interval"], row.get(f"{protocol}_seed_interval")
    text = f"{100 * row[protocol]:.1f}" + ("" if interval is None else f" ± {100 * interval:.1f}")
    text = text if seeds is None else f"{text}\nseeds ± {100 * seeds:.1f}"
    top5 = row.get(f"{protocol}_top5")
    return text if top5 is None else f"{text}\ntop-5 {100 * top5:.1f}"
