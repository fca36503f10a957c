"""What ``doctor`` finds: a name, how it is, a sentence, the numbers in it, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["good", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    """``good``, ``bad``, or ``note`` for what is worth knowing and asks for nothing."""
    sentence: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.sentence} {self.advice}".strip()
