"""Maps that no CLIP made: true masks, fixations, or what another tool computed; how the table says so.

The schema is that of all maps (version 1), so what reads maps reads these: ``clip`` is ``none``, ``method`` begins with
``imported: ``, there is no layer and no hash of weights, and every ``clip_score``, which can't be null, is stored as 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NO_CLIP = "none"
"""The model of imported maps."""
NO_SCORE = 0.0
"""What stands in the column ``clip_score``, where no CLIP compared anything."""
MASKS = "true masks"
"""The kind that maps of a source's own masks or boxes are."""

_PREFIX = "imported: "


def method_of(kind: str) -> str:
    """What the metadata name as the method of imported maps of a kind, such as ``true masks``."""
    return _PREFIX + kind


def is_imported(metadata: Mapping[str, Any]) -> bool:
    """Whether maps with these settings are imported."""
    return str(metadata.get("method", "")).startswith(_PREFIX)


def kind_of_maps(metadata: Mapping[str, Any]) -> str:
    """What imported maps are, such as ``true masks``."""
    return str(metadata.get("method", "")).removeprefix(_PREFIX)


def are_true_masks(metadata: Mapping[str, Any]) -> bool:
    """Whether the maps are the true masks or boxes of their source."""
    return metadata.get("method") == method_of(MASKS)
