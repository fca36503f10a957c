"""Checkpoints: a folder each, complete or absent.

``checkpoints/step-00001234/`` holds ``config.json`` and ``model.safetensors`` (what ``from_pretrained`` reads) and
``training.pt`` (optimiser and step, read with ``weights_only``). It is written under a temporary name, synced to disk
and renamed, so a run killed in the middle of it still has the one before.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model as load_weights

from mae.training import Training
from mae.vit import MaskedAutoencoder

_TEMPORARY = ".tmp-"
_REPLACED = ".old"


def save_checkpoint(run: Path, training: Training, *, keep: int = 2) -> Path:
    """Write the state after ``training.step`` steps and drop all but the newest ``keep`` checkpoints."""
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    final = folder / f"step-{training.step:08d}"
    temporary = folder / f"{_TEMPORARY}{final.name}"
    training.model.save_pretrained(temporary)
    (temporary / "README.md").unlink(missing_ok=True)  # the hub's blank form, which says it is on the Hub
    torch.save(training.state(), temporary / "training.pt")
    for file in temporary.iterdir():
        _sync(file)
    _sync(temporary)
    if final.exists():
        # A folder can't be renamed onto another one: the old one stays a checkpoint until the new one is.
        _remove(final.with_suffix(_REPLACED))
        final.replace(final.with_suffix(_REPLACED))
    temporary.replace(final)
    _sync(folder)
    _remove(final.with_suffix(_REPLACED))
    for old in list_checkpoints(run)[:-keep]:
        _remove(old)
    return final


def list_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"), key=lambda path: (path.stem, path.suffix != _REPLACED))


def load_training(checkpoint: Path, training: Training) -> None:
    """Put a checkpoint's weights and state into ``training``; ValueError if they do not fit or are damaged."""
    model = load_model(checkpoint)
    try:
        state: dict[str, Any] = torch.load(checkpoint / "training.pt", map_location="cpu", weights_only=True)
        training.model.load_state_dict(model.state_dict())
        training.load_state(state)
    except Exception as error:  # pickle, zip and torch each raise their own
        raise ValueError(f"{checkpoint} can't be resumed: {_one_line(error)}") from error


def load_model(folder: Path) -> MaskedAutoencoder:
    """The model of a run folder (its newest checkpoint) or of one checkpoint; ValueError if there is none."""
    checkpoints = list_checkpoints(folder)
    place = checkpoints[-1] if checkpoints else folder
    if not (place / "model.safetensors").exists():
        raise ValueError(f"{folder} holds no checkpoint (checkpoints/step-*/model.safetensors)")
    try:
        model = MaskedAutoencoder(**json.loads((place / "config.json").read_text()))
        load_weights(model, place / "model.safetensors")
    except Exception as error:  # safetensors, json and torch each raise their own
        raise ValueError(f"{place} can't be loaded: {_one_line(error)}") from error
    return model.eval()


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint; a deletion that is cut short leaves no half of one behind under its name."""
    if checkpoint.exists():
        shutil.rmtree(checkpoint.replace(checkpoint.with_name(_TEMPORARY + checkpoint.name)))


def _sync(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
