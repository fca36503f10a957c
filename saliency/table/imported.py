"""Maps that no CLIP made: true masks, fixations, what another tool computed, or motion; how the table says so.

The schema is that of all maps, so what reads maps reads these: ``clip`` is ``none``, there is no layer and no hash of
weights, and every ``clip_score``, which can't be null, is stored as 0. The ``method`` of imported maps begins with
``imported: ``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saliency.names import MOTION_METHODS

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


def is_motion(metadata: Mapping[str, Any]) -> bool:
    """Whether maps with these settings show what moves in videos."""
    return metadata.get("method") in MOTION_METHODS


def without_clip(metadata: Mapping[str, Any]) -> bool:
    """Whether no CLIP made maps with these settings, so that no image was compared with its caption."""
    return is_imported(metadata) or is_motion(metadata)


def kind_of_maps(metadata: Mapping[str, Any]) -> str:
    """What imported maps are, such as ``true masks``."""
    return str(metadata.get("method", "")).removeprefix(_PREFIX)


def are_true_masks(metadata: Mapping[str, Any]) -> bool:
    """Whether the maps are the true masks or boxes of their source."""
    return metadata.get("method") == method_of(MASKS)
