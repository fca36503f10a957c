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
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_model as load_weights

from mae.mask_learners import GATE_FILE
from mae.mask_learners.gate import load_gate
from mae.mask_learners.learner import MaskLearner
from mae.models.saved import saved_model
from mae.models.vit import MaskedAutoencoder
from mae.storage import disk_errors, write_torch
from mae.stored import one_line, read_config, unpickle
from mae.training.any_training import Trained

_TEMPORARY = ".tmp-"
_REPLACED = ".old"
_INTERIM = "interim.txt"
_STATE, _WEIGHTS, _CONFIG, _SUMS, _LOSS = "training.pt", "model.safetensors", "config.json", "SHA256SUMS", "loss.json"

BEST = "best"
"""The folder of the best checkpoint, beside the newest ones."""


def save_checkpoint(
    run: Path, training: Trained, *, keep: int = 2, loss: float | None = None, interim: bool = False
) -> Path:
    """Write the state after ``training.step`` steps and drop all but the newest ``keep`` checkpoints.

    With a ``loss`` lower than that of ``checkpoints/best`` this one becomes the best, which is kept beside the newest.
    An ``interim`` one, of a run that is stopped between two others, never does, and the next one takes its place. All
    processes of a training call this, and the main one writes.
    """
    final = run / "checkpoints" / f"step-{training.step:08d}"
    if training.world.is_main:
        _clean(final.parent)
    save_state(final, training, {_INTERIM: "The next checkpoint takes the place of this one.\n"} if interim else None)
    if training.world.is_main:
        settle_checkpoints(run, keep=keep, loss=loss)
    return final


def settle_checkpoints(run: Path, *, keep: int, loss: float | None) -> None:
    """What follows a checkpoint, see :func:`save_checkpoint`; a run that was killed before it does it when it goes on.

    ``loss`` is that of the newest checkpoint.
    """
    _clean(run / "checkpoints")
    *before, newest = list_checkpoints(run)
    if loss is not None and loss < best_loss(run) and not (newest / _INTERIM).exists():
        _make_best(newest, {"step": int(newest.name.removeprefix("step-")), "loss": loss})
    for old in before:
        if (old / _INTERIM).exists():
            _remove(old)
    for old in list_checkpoints(run)[:-keep]:
        _remove(old)


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
    try:
        _write(temporary, model, state, training.learner, more or {})
        _publish(temporary, final)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)  # on a full disk there is better use for the room
        raise


def _write(
    folder: Path, model: MaskedAutoencoder, state: dict[str, Any], learner: MaskLearner | None, more: Mapping[str, str]
) -> None:
    with disk_errors(folder):
        model.save_pretrained(folder)
        shutil.copymode(folder / _CONFIG, folder / _WEIGHTS)  # safetensors makes files that are its owner's alone
        (folder / "README.md").unlink(missing_ok=True)  # the hub's blank form, which says it is on the Hub
        if learner:
            learner.save(folder)
    write_torch(folder / _STATE, _interned(state))
    for name, text in more.items():
        (folder / name).write_text(text, encoding="utf-8")
    sums = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    (folder / _SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


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
    for old in folder.glob(f"*{_REPLACED}"):
        if not old.with_suffix("").exists():
            old.replace(old.with_suffix(""))
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


def _interned(value: Any) -> Any:
    """A state whose equal texts are one object, so that its bytes do not tell whether it was ever read from a file."""
    if isinstance(value, str):
        return sys.intern(value)
    if type(value) is dict:
        return {_interned(name): _interned(held) for name, held in value.items()}
    return type(value)(map(_interned, value)) if type(value) in (list, tuple) else value


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
