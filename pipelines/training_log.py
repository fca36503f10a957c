"""What a training writes while it runs: losses into ``metrics.jsonl``, bad images into ``rejected.jsonl``."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae.training import Training
from pipelines.errors import UserError
from pipelines.runs import METRICS, REJECTED, RunFolder
from pipelines.samples import Source
from pipelines.views import ViewBatch

_UNMAPPED = ("random", "block")


class TrainingLog:
    """Losses wait for the device together: a look at each one would stop it at every step."""

    def __init__(self, run: RunFolder, training: Training, source: Source, *, max_rejected: float) -> None:
        self._run, self._training, self._source, self._max_rejected = run, training, source, max_rejected
        self._waiting: list[tuple[dict[str, Any], Tensor]] = []
        self._bad = {line["index"]: line for line in run.rejected()}
        self._started, self._seen = time.perf_counter(), 0

    def add(self, loss: Tensor, *, learning_rate: float, salient_ratio: float, images: int) -> None:
        """Note the step that was just done, with the rate and the ratio it was done with."""
        training = self._training
        line = {
            "step": training.step,
            "epoch": training.step / training.steps_per_epoch,
            "learning_rate": learning_rate,
        }
        if training.masking.strategy not in _UNMAPPED:
            line["salient_ratio"] = salient_ratio
        self._waiting.append((line, loss))
        self._seen += images

    def flush(self) -> float:
        """Write the waiting lines; returns the last loss. Raises UserError, after writing, if one is not finite."""
        losses = torch.stack([loss for _, loss in self._waiting]).tolist()
        now = time.perf_counter()
        lines = [
            {"step": line["step"], "loss": loss} | line for (line, _), loss in zip(self._waiting, losses, strict=True)
        ]
        lines[-1]["images_per_second"] = round(self._seen / max(now - self._started, 1e-9), 1)
        self._waiting, self._started, self._seen = [], now, 0
        self._run.append(METRICS, lines)
        bad = next((line for line in lines if not np.isfinite(line["loss"])), None)
        if bad is not None:
            raise self._diverged(f"the loss became {bad['loss']}", bad["step"])
        return float(losses[-1])

    def check_weights(self) -> None:
        """UserError if a weight is not finite, as after a step whose loss was still a number: no state to save."""
        if not self._training.is_finite():
            raise self._diverged("the weights became infinite or NaN", self._training.step)

    def _diverged(self, what: str, step: int) -> UserError:
        cure = "a lower --blr" + (" or --precision fp32" if self._training.precision != "fp32" else "")
        return UserError(
            f"{what} at step {step}: begin a new run with {cure}; checkpoints in {self._run.folder} are from before"
        )

    def reject(self, group: list[ViewBatch]) -> None:
        """Record every unreadable image once; UserError when there are more of them than ``max_rejected``."""
        found = {item.index: item.reason for batch in group for item in batch.unreadable}
        new = {
            index: {"key": self._source.keys[index].as_py(), "index": index, "reason": reason}
            for index, reason in found.items()
            if index not in self._bad
        }
        if new:
            self._run.append(REJECTED, list(new.values()))
            self._bad |= new
        if len(self._bad) > self._max_rejected * len(self._source):
            last = list(self._bad.values())[-1]
            raise UserError(
                f"{len(self._bad)} of {len(self._source)} images can't be read, more than --max-rejected "
                f"{self._max_rejected:g}; the last one is {last['key']} ({last['reason']}), all are in "
                f"{self._run.folder / REJECTED}"
            )
