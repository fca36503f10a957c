"""What is asked about a pair: which map, and which mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mae.masks.strategies import SALIENT_RATIO, STRATEGIES, blind
from pipelines.pretrain.options import PretrainOptions

TYPED = "typed caption"
"""The name of the map of a caption that was typed."""
OF_ONE_IMAGE = tuple(name for name in blind() if set(STRATEGIES[name].needs) <= {"maps"})
"""Strategies that an image and its map are enough for."""
GATE = "gate"
"""The strategy that also needs the gate of a run: its scores are the map."""


@dataclass(frozen=True)
class Subject:
    """What is looked at: ``row`` is a pair's number, or the name of an image that was brought."""

    row: str
    map: str = ""
    """The table that masks follow, the gate whose scores they follow, or ``TYPED``; empty for the first table."""
    caption: str = ""
    """What was typed."""


@dataclass(frozen=True)
class Asked:
    """The mask that is asked for, in the words of ``pretrain``."""

    strategy: str = "salient"
    salient_ratio: float = SALIENT_RATIO
    mask_ratio: float = 0.75
    salient_of: str = "image"
    salient_pick: str = "top"
    salient_mass: float = PretrainOptions.salient_mass
    salient_cap: float = PretrainOptions.salient_cap
    temperature: float = PretrainOptions.temperature
    gate_ratio: float = PretrainOptions.gate_ratio
    gate_sign: str = PretrainOptions.gate_sign
    mask_granularity: int = PretrainOptions.mask_granularity
    seed: int = 0


_OF_A_GATE = {"ratio": "gate_ratio", "sign": "gate_sign", "cap": "salient_cap"}
"""What a run calls the settings of its gate's masks."""


def asked_by(masking: Mapping[str, Any]) -> dict[str, Any]:
    """The masks of a run, from the ``masking`` of its config, as values of :class:`Asked`.

    What is of another type than there is left out, and so is a strategy that can't be drawn here.
    """
    found = {_OF_A_GATE.get(name, name): value for name, value in masking.items()}
    schedule = found.get("salient_schedule")
    if isinstance(schedule, (list, tuple)) and schedule:
        found["salient_ratio"] = schedule[-1]
    if found.get("strategy") not in (*OF_ONE_IMAGE, GATE):
        found.pop("strategy", None)
    defaults = {each.name: each.default for each in fields(Asked) if each.name != "seed"}
    return {
        name: found[name]
        for name, default in defaults.items()
        if isinstance(found.get(name), str if isinstance(default, str) else (int, float))
    }
