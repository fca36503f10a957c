"""Maps that occlude the images a model is judged on must not be the ones it was trained with.

A run's ``config.json`` records the maps it was masked by: where they lay, and how they were made (CLIP and the hash of
its weights, method, layer, grid, preprocessing). Maps at the same place, or made in the same way, are refused, also
where they are of other images: a model that learned what one method calls salient would be judged by that method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Required, TypedDict

from pipelines.errors import UserError
from pipelines.run_folder import CONFIG, Count, FrameStride
from saliency.files import user_path
from saliency.shape import read_fitting
from saliency.table.imported import are_true_masks

_NOT_HOW_MADE = ("images_without_map", "package_version", "precision", "imported_from", "imported_sha256")


class RecordedOptions(TypedDict, total=False):
    """What is asked of a run's options."""

    source: str
    split: str | None
    limit: Count | None
    image_column: str | None
    saliency: str | None
    frame_stride: FrameStride


class TrainingRecord(TypedDict, total=False):
    """What is asked of a run's ``config.json``, also where it lacks what else a run has."""

    options: Required[RecordedOptions]
    maps: dict[str, Any] | None


def check_independent(place: str, metadata: Mapping[str, Any], encoders: Sequence[str]) -> list[str]:
    """UserError if a run among ``encoders`` was trained with these maps; returns those whose training is not on record.

    ``place`` is the maps' folder or Hub id, ``metadata`` their table's.
    """
    unknown = []
    for name in encoders:
        config = training_record(name)
        if config is None:
            unknown.append(name)
            continue
        refuse_same(place, metadata, name, config["options"].get("saliency"), config.get("maps") or {})
    return unknown


def refuse_same(
    place: str, metadata: Mapping[str, Any], name: str, trained_with: str | None, made: Mapping[str, Any]
) -> None:
    """UserError if ``name`` is trained with the maps at ``place``: ``trained_with`` is where its own are.

    ``metadata`` and ``made`` are the tables' (empty: not known).
    """
    if trained_with and same_place(str(trained_with), place):
        raise UserError(f"--occluder-maps {place}: {name} was trained with these maps; occlude by independent ones")
    if made and _how_made(made) == _how_made(metadata):
        raise UserError(
            f"--occluder-maps {place}: made as the maps {trained_with} that {name} was trained with were (the same "
            f"{made.get('clip')} and {made.get('method')}); occlude by those of another method or model"
        )


def check_truth(encoders: Sequence[str]) -> None:
    """UserError if a run among ``encoders`` was trained with true masks, which are what is to occlude."""
    for name in encoders:
        config = training_record(name)
        if config is not None:
            refuse_truth(name, config.get("maps") or {})


def refuse_truth(name: str, made: Mapping[str, Any]) -> None:
    """UserError if ``name`` is trained with maps that are true masks, by how they were ``made``."""
    if are_true_masks(made):
        raise UserError(
            f"{name} is trained with true masks, and would be occluded by true masks: give --occluder-maps MAPS, "
            "or occluders that need none, such as --occluder block"
        )


def training_record(name: str) -> TrainingRecord | None:
    """The ``config.json`` of the run that a folder is, or is a checkpoint of; None for other encoders."""
    path = Path(name.removeprefix("mae:").partition("@keep=")[0])  # which says how a run is looked at
    for folder in (path, path.parent, path.parent.parent):
        try:
            return read_fitting(folder / CONFIG, TrainingRecord)
        except ValueError:
            continue
    return None


def same_place(one: str, other: str) -> bool:
    """Whether two texts name one folder, or one thing of the Hub."""
    return one == other or user_path(one).resolve() == user_path(other).resolve()


def _how_made(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if name not in _NOT_HOW_MADE}
