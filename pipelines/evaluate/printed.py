"""An evaluation on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table


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
