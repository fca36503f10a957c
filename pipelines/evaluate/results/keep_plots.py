"""The picture of encoders on a share of their patches: accuracy against the share, a line for what chose them.

Where several runs were measured at a share by the same chooser, the line is their mean and thin lines are theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.evaluate.table import PROTOCOLS
from pipelines.plots import save_figure

KEPT = "keep.png"

_COLOURS = {"gate": "C0", "random": "C1", "center": "C2"}

Curve = dict[float, float]
"""Accuracy 0..1 by the share kept."""


def keep_curves(rows: Sequence[Mapping[str, Any]], protocol: str) -> dict[str, dict[str, Curve]]:
    """By chooser and run the accuracy at each share, that of the run's own row at 1; without shares below 1, nothing.

    ``rows`` are those of an evaluation, named ``RUN``, ``RUN@keep=SHARE`` or ``RUN@keep=SHARE,CHOOSER``.
    """
    curves: dict[str, dict[str, Curve]] = {}
    for row in rows:
        run, kept, asked = row["encoder"].partition("@keep=")
        share, _, chooser = asked.partition(",")
        if kept:
            curves.setdefault(chooser or "gate", {}).setdefault(run, {})[float(share)] = row[protocol]
    whole = {row["encoder"]: row[protocol] for row in rows}
    for by_run in curves.values():
        for run, curve in by_run.items():
            if run in whole:
                curve[1.0] = whole[run]
    return curves


def draw_kept(folder: Path, result: Mapping[str, Any]) -> None:
    """``keep.png`` in ``folder`` of a finished evaluation, where a share of the patches is among its rows."""
    protocols = [protocol for protocol in result["protocols"] if PROTOCOLS[protocol].accuracy]
    panels = {protocol: keep_curves(result["rows"], protocol) for protocol in protocols}
    if any(panels.values()):
        draw_keep(folder / KEPT, panels)


def draw_keep(path: Path, panels: Mapping[str, Mapping[str, Mapping[str, Curve]]]) -> None:
    """A panel for each titled :func:`keep_curves`, written as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.6 + 3.1 * len(panels), 3.3), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for chooser, by_run in curves.items():
            _lines(axis, chooser, by_run)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("patches kept, %", fontsize=9)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, title="chosen by", title_fontsize=8)
    axes[0].set_ylabel("accuracy, %")
    save_figure(figure, path)


def _lines(axis: Any, chooser: str, by_run: Mapping[str, Curve]) -> None:
    colour = _COLOURS[chooser]
    shares = sorted(set.intersection(*(set(curve) for curve in by_run.values())))
    means = [100 * math.fsum(curve[share] for curve in by_run.values()) / len(by_run) for share in shares]
    if len(by_run) > 1:
        for curve in by_run.values():
            own = sorted(curve)
            axis.plot([100 * x for x in own], [100 * curve[x] for x in own], color=colour, alpha=0.3, linewidth=0.8)
    axis.plot([100 * share for share in shares], means, "o-", color=colour, markersize=4, label=chooser)
