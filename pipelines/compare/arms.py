"""The arms that ``compare`` knows by name: a strategy each, readings of the salient ratio, variants of pretraining."""

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


_VARIANTS: dict[str, dict[str, Any]] = {
    "blocks-2": {"masking": "random", "mask_granularity": 2},
    "class-tokens-8": {"masking": "random", "class_tokens": 8},
    "visible-loss": {"masking": "random", "visible_weight": 0.5},
    "saliency-loss": {"masking": "random", "saliency_weight": 1.0, "saliency_weight_schedule": "rise"},
}
"""Arms that are random masking with another option each."""


def built_in_arms() -> dict[str, dict[str, Any]]:
    """Arms that need no settings of their own, name → options: one a strategy, the readings, and variants.

    The variants stand last, and before them the salient ones and controls.
    """
    rows = sorted(STRATEGIES.values(), key=lambda row: (row.ranked, row.learned))
    first = {row.name: {"masking": row.name} for row in rows if not row.ranked and "a file" not in row.needs}
    controls = {row.name: {"masking": row.name} for row in rows if row.ranked and row.name not in _SALIENT_ARMS}
    return first | _SALIENT_ARMS | controls | _VARIANTS


def usual_arms() -> list[str]:
    """The arms of a comparison that names none."""
    arms = [name for name in built_in_arms() if name not in _VARIANTS]
    return [name for name in arms if name not in STRATEGIES or STRATEGIES[name].compared]
