"""What a gate's masks hid of its run's images, told and drawn: important patches, others, and those of maps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mae.mask_learners.hidden_counts import HiddenCounts
from pipelines.plots import loss_curve

_KINDS = dict(
    zip(HiddenCounts.names, ("important patches", "other patches", "salient patches of the maps"), strict=True)
)
_LAST = 50


def told_masks(metrics: Sequence[Mapping[str, Any]], by_chance: float) -> str | None:
    """In words, what the masks of the last steps hid; None of a run without a gate."""
    shares = [
        f"{statistics.mean(line[name] for line in lines):.0%} of the {kind}"
        for name, kind in _KINDS.items()
        if (lines := [line for line in metrics[-_LAST:] if name in line])
    ]
    if not shares:
        return None
    listed = " and ".join(filter(None, [", ".join(shares[:-1]), shares[-1]]))
    return f"at the end the gate's masks hid {listed}; random masks would hide {by_chance:.0%}"


def draw_masks(path: Path, metrics: Sequence[Mapping[str, Any]], by_chance: float) -> None:
    """The same at every step, as curves; nothing of a run without a gate."""
    curves = {}
    for name, kind in _KINDS.items():
        if lines := [line for line in metrics if name in line]:
            curves[kind] = ([line["step"] for line in lines], [line[name] for line in lines])
    if curves:
        steps = next(iter(curves.values()))[0]
        curves["by random masks"] = (steps, [by_chance] * len(steps))
        loss_curve(path, curves, title="What the gate's masks hide", unit="share hidden")
