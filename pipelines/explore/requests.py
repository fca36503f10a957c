"""What is asked about a pair: which map, and which mask."""

from __future__ import annotations

from dataclasses import dataclass

from mae.masks.strategies import SALIENT_RATIO, STRATEGIES, blind

TYPED = "typed caption"
"""The name of the map of a caption that was typed."""
OF_ONE_IMAGE = tuple(name for name in blind() if set(STRATEGIES[name].needs) <= {"maps"})
"""Strategies that an image and its map are enough for."""


@dataclass(frozen=True)
class Subject:
    """What is looked at: ``row`` is a pair's number, or the name of an image that was brought."""

    row: str
    map: str = ""
    """The table that masks follow, or ``TYPED``; empty for the first there is."""
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
    seed: int = 0
