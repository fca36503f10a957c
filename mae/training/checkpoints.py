"""Checkpoints: a folder each, complete or absent.

``checkpoints/step-00001234/`` holds ``config.json`` and ``model.safetensors`` (what ``from_pretrained`` reads),
``training.pt`` (optimiser and step, read with ``weights_only``) and ``SHA256SUMS``, for a flipped bit in weights looks
like any other weight. It is written under a temporary name, synced to disk and renamed, so a run killed in the middle
of it still has the one before. ``checkpoints/best/`` is the one with the lowest loss, as links to the same files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_model as load_weights

from mae.masks.gate import GATE_FILE, load_gate
from mae.models.saved import saved_model
from mae.models.vit import MaskedAutoencoder
from mae.stored import one_line, read_config, unpickle
from mae.training.any_training import Trained

_TEMPORARY = ".tmp-"
_REPLACED = ".old"
_STATE, _WEIGHTS, _CONFIG, _SUMS, _LOSS = "training.pt", "model.safetensors", "config.json", "SHA256SUMS", "loss.json"

BEST = "best"
"""The folder of the best checkpoint, beside the newest ones."""


def save_checkpoint(run: Path, training: Trained, *, keep: int = 2, loss: float | None = None) -> Path:
    """Write the state after ``training.step`` steps and drop all but the newest ``keep`` checkpoints.

    With a ``loss`` lower than that of ``checkpoints/best`` this one becomes the best, which is kept beside the newest.
    All processes of a training call this, and the main one writes.
    """
    folder = run / "checkpoints"
    final = folder / f"step-{training.step:08d}"
    if training.world.is_main and folder.is_dir():
        _clean(folder)
    save_state(final, training)
    if not training.world.is_main:
        return final
    if loss is not None and loss < best_loss(run):
        _make_best(final, {"step": training.step, "loss": loss})
    for old in list_checkpoints(run)[:-keep]:
        _remove(old)
    return final


def save_state(final: Path, training: Trained, more: Mapping[str, str] | None = None) -> None:
    """Write one checkpoint to the folder ``final``, complete or not at all; ``more`` are texts to put beside it.

    All processes of a training call this, and the main one writes.
    """
    model, state = training.spread.whole_model(), training.state()
    if not training.world.is_main:
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(_TEMPORARY + final.name)
    if temporary.exists():
        shutil.rmtree(temporary)
    model.save_pretrained(temporary)
    (temporary / "README.md").unlink(missing_ok=True)  # the hub's blank form, which says it is on the Hub
    if training.learner:
        training.learner.save(temporary)
    torch.save(state, temporary / _STATE)
    for name, text in (more or {}).items():
        (temporary / name).write_text(text, encoding="utf-8")
    sums = {file.name: _sha256(file) for file in sorted(temporary.iterdir())}
    (temporary / _SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    _publish(temporary, final)


def best_loss(run: Path) -> float:
    """The loss of ``checkpoints/best``; infinite if there is none."""
    try:
        return float(read_config(run / "checkpoints" / BEST / _LOSS)["loss"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return math.inf


def list_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"), key=lambda path: (path.stem, path.suffix != _REPLACED))


def load_training(checkpoint: Path, training: Trained) -> None:
    """Put a checkpoint's weights and state into ``training``; ValueError if they do not fit or are damaged."""
    model = load_model(checkpoint)
    try:
        state = load_state(checkpoint)
        training.spread.load_weights(model.state_dict())
        training.load_state(state)
    except Exception as error:  # pickle, zip and torch each raise their own
        raise ValueError(f"{checkpoint} can't be resumed: {one_line(error)}") from error


def load_state(folder: Path) -> dict[str, Any]:
    """What a run's newest checkpoint, or one checkpoint, holds beside the model; ValueError, OSError if damaged."""
    checkpoints = list_checkpoints(folder)
    place = checkpoints[-1] if checkpoints else folder
    _verify(place, _STATE)
    state = unpickle(place / _STATE)
    if not isinstance(state, dict):
        raise ValueError(f"{_STATE} is no training's state")
    return state


def gate_file(model: Path) -> Path | None:
    """The gate beside a run's newest checkpoint, or beside a saved model; ValueError if it is damaged."""
    checkpoints = list_checkpoints(model)
    file = (checkpoints[-1] if checkpoints else model) / GATE_FILE
    if not file.is_file():
        return None
    load_gate(file)
    return file


def load_model(folder: Path) -> MaskedAutoencoder:
    """The model of a run folder (its newest checkpoint) or of one checkpoint.

    ValueError if there is none, or it is damaged or of something else.
    """
    checkpoints = list_checkpoints(folder)
    place = checkpoints[-1] if checkpoints else folder
    if not (place / _WEIGHTS).exists():
        raise ValueError(f"{folder} holds no checkpoint (checkpoints/step-*/model.safetensors)")
    try:
        _verify(place, _CONFIG, _WEIGHTS)
        with safe_open(place / _WEIGHTS, framework="pt") as content:
            shapes = {name: content.get_slice(name).get_shape() for name in content.keys()}  # noqa: SIM118
        model = saved_model(read_config(place / _CONFIG), shapes)
        load_weights(model, place / _WEIGHTS)
    except Exception as error:  # safetensors and torch each raise their own
        raise ValueError(f"{place} can't be loaded: {one_line(error)}") from error
    return model.eval()


def _clean(folder: Path) -> None:
    """Undo what a killed run left half done."""
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    best = folder / BEST
    old = best.with_suffix(_REPLACED)
    if old.exists() and not best.exists():
        old.replace(best)
    _remove(old)


def _make_best(checkpoint: Path, facts: Mapping[str, float]) -> None:
    temporary = checkpoint.with_name(_TEMPORARY + BEST)
    temporary.mkdir()
    for file in checkpoint.iterdir():
        try:
            os.link(file, temporary / file.name)  # no file of a checkpoint is ever written to again
        except OSError:  # not on this file system
            shutil.copy2(file, temporary / file.name)
    (temporary / _LOSS).write_text(json.dumps(facts) + "\n")
    _publish(temporary, checkpoint.with_name(BEST))


def _publish(temporary: Path, final: Path) -> None:
    """Sync a folder to disk and give it its name, under which there may be an older one."""
    for file in temporary.iterdir():
        _sync(file)
    _sync(temporary)
    old = final.with_suffix(_REPLACED)
    if final.exists():
        # A folder can't be renamed onto another one: the old one stays a checkpoint until the new one is.
        _remove(old)
        final.replace(old)
    temporary.replace(final)
    _sync(final.parent)
    _remove(old)


def _verify(folder: Path, *names: str) -> None:
    """ValueError if a file is not what was written; a model saved by other means has no sums and passes."""
    if not (folder / _SUMS).exists():
        return
    lines = (line.split() for line in (folder / _SUMS).read_text(errors="replace").splitlines())
    sums = {line[1]: line[0] for line in lines if len(line) == 2}
    for name in names:
        if sums.get(name) != _sha256(folder / name):
            raise ValueError(f"{name} is damaged or was changed, its SHA-256 is not the one in {_SUMS}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
