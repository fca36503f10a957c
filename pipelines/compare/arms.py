"""The arms that ``compare`` knows by name: a strategy each, and the readings of the salient ratio."""

from typing import Any

from mae.masks.strategies import STRATEGIES

_SALIENT_ARMS: dict[str, dict[str, Any]] = {
    "all-salient": {"masking": "salient", "salient_of": "mask", "salient_ratio": 1.0},
    "image": {"masking": "salient", "salient_of": "image"},
    "mask": {"masking": "salient", "salient_of": "mask"},
    "salient": {"masking": "salient", "salient_of": "salient"},
    "salient-only": {"masking": "salient", "salient_of": "salient-only"},
}
"""Arms that are not a strategy of their name: hiding nothing but salient patches, and the readings of the ratio."""


def built_in_arms() -> dict[str, dict[str, Any]]:
    """Arms that need no settings of their own, name → options: one a strategy, and those of the salient ratio.

    The salient ones and controls stand last.
    """
    rows = sorted(STRATEGIES.values(), key=lambda row: (row.ranked, row.learned))
    first = {row.name: {"masking": row.name} for row in rows if not row.ranked and "a file" not in row.needs}
    controls = {row.name: {"masking": row.name} for row in rows if row.ranked and row.name not in _SALIENT_ARMS}
    return first | _SALIENT_ARMS | controls


def usual_arms() -> list[str]:
    """The arms of a comparison that names none."""
    return [name for name in built_in_arms() if name not in STRATEGIES or STRATEGIES[name].compared]
