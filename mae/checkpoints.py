"""Checkpoints: a folder each, complete or absent.

``checkpoints/step-00001234/`` holds ``config.json`` and ``model.safetensors`` (what ``from_pretrained`` reads) and
``training.pt`` (optimiser and step, read with ``weights_only``). It is written under a temporary name and renamed, so a
run killed in the middle of it still has the one before.
"""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from mae.training import Training
from mae.vit import MaskedAutoencoder

_TEMPORARY = ".tmp-"


def save_checkpoint(run: Path, training: Training, *, keep: int = 2) -> Path:
    """Write the state after ``training.step`` steps and drop all but the newest ``keep`` checkpoints."""
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    final = folder / f"step-{training.step:08d}"
    temporary = folder / f"{_TEMPORARY}{final.name}"
    training.model.save_pretrained(temporary)
    torch.save(training.state(), temporary / "training.pt")
    for file in temporary.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(final, ignore_errors=True)
    temporary.replace(final)
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def load_training(checkpoint: Path, training: Training) -> None:
    """Put a checkpoint's weights and state into ``training``; ValueError if they do not fit or are damaged."""
    try:
        state: dict[str, Any] = torch.load(checkpoint / "training.pt", map_location="cpu", weights_only=True)
        model = load_model(checkpoint)
        training.model.load_state_dict(model.state_dict())
        training.load_state(state)
    except (OSError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{checkpoint} can't be resumed: {_one_line(error)}") from error


def load_model(folder: Path) -> MaskedAutoencoder:
    """The model of a run folder (its newest checkpoint) or of one checkpoint; ValueError if there is none."""
    checkpoints = list_checkpoints(folder)
    place = checkpoints[-1] if checkpoints else folder
    if not (place / "model.safetensors").exists():
        raise ValueError(f"{folder} holds no checkpoint (checkpoints/step-*/model.safetensors)")
    try:
        return MaskedAutoencoder.from_pretrained(place).eval()
    except Exception as error:  # safetensors, json and torch each raise their own
        raise ValueError(f"{place} can't be loaded: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
