"""Experiment trackers beside ``metrics.jsonl``: TensorBoard and Weights & Biases, each an optional package.

A tracker gets the lines of ``metrics.jsonl`` as they are written, the settings once and the pictures at the end; one
that joins a run late gets the lines before too. A resumed run goes on with the same TensorBoard folder and the same W&B
run, and no step is there twice. A tracker that fails is warned of once and left out: training goes on.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from pipelines.errors import UserError, without_secrets
from pipelines.run_folder import RunFolder
from saliency.files import write_text_atomically
from saliency.shown import one_line

STATE = "tracking.json"
"""Of a run folder: the id of its W&B run, and the last step that W&B has."""

_PROJECT = "saliency-mae"
_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}

Lines = Sequence[dict[str, Any]]
"""Of ``metrics.jsonl``, each with its ``step``."""


class Tracker(Protocol):
    """What every tracker can be told; any method may raise anything."""

    def log(self, lines: Lines) -> None:
        """Take the numbers of some steps."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """Take a picture, a PNG, as it is at a step."""

    def close(self, *, failed: bool) -> None:
        """Write what is left; ``failed`` says that the run did not come to its end."""


class TensorBoard:
    """Event files in ``RUN/tensorboard``; of a resumed run the steps that are made again replace what was there."""

    def __init__(self, run: RunFolder, config: dict[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        begun = any(folder.glob("events.*"))
        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1 if begun else None)
        if not begun:
            self._writer.add_text("config", f"```json\n{json.dumps(config, indent=1)}\n```")
            self.log(run.metrics())

    def log(self, lines: Lines) -> None:
        """Each number under its own name, as float32."""
        for line in lines:
            for name, value in _numbers(line).items():
                self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()

    def picture(self, name: str, path: Path, step: int) -> None:
        """Under the picture's name."""
        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self, *, failed: bool) -> None:
        """Close the event file."""
        self._writer.close()


class WeightsAndBiases:
    """One run of W&B, its files in ``RUN/wandb``, named as the folder; all else as W&B's own variables say."""

    def __init__(self, run: RunFolder, config: dict[str, Any], step: int) -> None:
        import wandb

        self._wandb, self._state = wandb, run.folder / STATE
        state = json.loads(self._state.read_text()) if self._state.exists() else {}
        self._id = str(state.get("wandb") or secrets.token_hex(4))
        self._last = int(state.get("step", 0))
        self._keep()
        try:
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                name=os.environ.get("WANDB_NAME", run.folder.resolve().name),
                dir=str(run.folder),
                id=self._id,
                resume="allow",
                config=config,
                settings=wandb.Settings(console="off"),
            )
        except wandb.errors.UsageError as error:
            raise UserError(
                f"--track wandb: {error} (or set WANDB_MODE=offline), then run the same command with --resume"
            ) from error
        self.log(run.metrics())

    def log(self, lines: Lines) -> None:
        """The numbers of the steps that W&B has not; what it has it would not take again."""
        for line in lines:
            if line["step"] > self._last:
                self._run.log(_numbers(line), step=line["step"])
                self._last = line["step"]
        self._keep()

    def picture(self, name: str, path: Path, step: int) -> None:
        """Under the picture's name."""
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def close(self, *, failed: bool) -> None:
        """Finish the run; it waits for what is not yet sent."""
        self._run.finish(exit_code=int(failed))

    def _keep(self) -> None:
        write_text_atomically(self._state, json.dumps({"wandb": self._id, "step": self._last}) + "\n")


_OPENERS: dict[str, Callable[[RunFolder, dict[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


class Tracking:
    """The trackers of a run, told together; empty, it does nothing."""

    def __init__(self, names: Sequence[str], run: RunFolder, config: dict[str, Any], step: int) -> None:
        self._trackers: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            try:
                self._trackers[name] = _OPENERS[name](run, config, step)
            except UserError:
                self.close(failed=True)
                raise
            except Exception as error:
                _warn(name, error)

    def log(self, lines: Lines) -> None:
        """The lines that were just written to ``metrics.jsonl``."""
        self._tell(lambda tracker: tracker.log(lines))

    def pictures(self, folder: Path, step: int) -> None:
        """Every PNG in a folder, as ``folder/name``: the loss is a number and a picture."""
        for path in sorted(folder.glob("*.png")):
            self._tell(lambda tracker, path=path: tracker.picture(f"{folder.name}/{path.stem}", path, step))  # type: ignore[misc]

    def close(self, *, failed: bool = False) -> None:
        """Close them all."""
        self._tell(lambda tracker: tracker.close(failed=failed))
        self._trackers = {}

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                what(tracker)
            except Exception as error:
                del self._trackers[name]
                _warn(name, error)


@contextmanager
def tracking(names: Sequence[str], run: RunFolder, config: dict[str, Any], step: int) -> Iterator[Tracking]:
    """The trackers ``names`` of a run that goes on from ``step``, closed at the end however it comes.

    ``config`` is the run's. Raises UserError where W&B does not know who is asking.
    """
    told = Tracking(names, run, config, step)
    try:
        yield told
    except BaseException:
        told.close(failed=True)
        raise
    told.close()


def check_trackers(names: Sequence[str]) -> None:
    """UserError, with what to install, if the package of a tracker is missing."""
    missing = [name for name in names if importlib.util.find_spec(_PACKAGES[name]) is None]
    if missing:
        raise UserError(f"--track {missing[0]} needs {_PACKAGES[missing[0]]}: pip install 'saliency-mae[track]'")


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name != "step" and isinstance(value, int | float)}


def _warn(name: str, error: Exception) -> None:
    reason = one_line(without_secrets(error), 300) or type(error).__name__
    tqdm.write(f"warning: {name} failed and is left out; training continues: {reason}", file=sys.stderr)
