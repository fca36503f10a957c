"""What a training writes while it runs: losses and speed into ``metrics.jsonl``, bad images into ``rejected.jsonl``.

``images_per_second`` and ``starved`` stand on the last line of every interval between two looks at the losses. They
count its wall time, checkpoints included, and ``starved`` is the share of it that the loop waited for the loader. The
first step of a run, or of a resumed one, counts in neither: with it come the loader's start and any compilation, whose
seconds are ``startup_seconds``, on the first line.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae.training.any_training import Trained
from pipelines.errors import UserError
from pipelines.pretrain.record.divergence import stop, stop_at_weights
from pipelines.run_folder import METRICS, REJECTED, RunFolder
from pipelines.sources.source import Source
from pipelines.views.image_views import ViewBatch


@dataclass(frozen=True)
class _Waiting:
    line: dict[str, Any]
    loss: Tensor
    batches: list[NDArray[np.int64]]
    """The indices of the images of each batch."""
    figures: dict[str, Tensor]


class TrainingLog:
    """Losses wait for the device together: a look at each one would stop it at every step."""

    def __init__(
        self,
        run: RunFolder,
        training: Trained,
        source: Source,
        *,
        max_rejected: float,
        track: Callable[[list[dict[str, Any]]], object] = lambda _: None,
    ) -> None:
        self._run, self._training, self._source, self._max_rejected = run, training, source, max_rejected
        self._track = track
        self._waiting: list[_Waiting] = []
        epoch = training.steps_per_epoch
        self._recent = deque((line["loss"] for line in run.metrics()[-epoch:]), maxlen=epoch)
        self._bad = {line["index"]: line for line in run.rejected()}
        self._started, self._waited = time.perf_counter(), 0.0
        self._seen = self._flops = 0
        self._startup: float | None = None
        self.starved = 0.0
        """Share of the last interval, 0..1, in which the loop waited for the loader."""

    def waiting_for(self, groups: Iterable[list[ViewBatch]]) -> Iterator[list[ViewBatch]]:
        """The groups, with the time it takes to get each counted as waiting for the loader."""
        iterator = iter(groups)
        while True:
            started = time.perf_counter()
            group = next(iterator, None)
            self._waited += time.perf_counter() - started
            if group is None:
                return
            yield group

    def add(
        self,
        loss: Tensor,
        *,
        schedules: Mapping[str, Any],
        batches: list[NDArray[np.int64]],
        figures: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Note the step that was just done, with what followed a schedule and the images, by index, of all its batches.

        ``figures`` are further scalars to write down, beside those of the mask learner.
        """
        training = self._training
        line: dict[str, Any] = {"step": training.step, "epoch": training.step / training.steps_per_epoch, **schedules}
        learned = training.learner.figures() if training.learner else {}
        self._waiting.append(_Waiting(line, loss, batches, learned | dict(figures or {})))
        if self._startup is None:
            now = time.perf_counter()
            self._startup, self._started, self._waited = now - self._started, now, 0.0
            line["startup_seconds"] = round(self._startup, 3)
        else:
            count = sum(len(batch) for batch in batches)
            self._seen += count
            self._flops += count * training.flops_per_image(training.step - 1)

    def flush(self) -> float:
        """Write the waiting lines; returns the last loss.

        Raises UserError, after writing, if a step was not finite: that one is the last written, and its state is saved.
        """
        losses = torch.stack([waiting.loss for waiting in self._waiting]).tolist()
        figures = [_numbers(waiting.figures) for waiting in self._waiting]
        found = self._training.non_finite()
        now = time.perf_counter()
        lines = [
            {"step": waiting.line["step"], "loss": loss} | waiting.line | more
            for waiting, loss, more in zip(self._waiting, losses, figures, strict=True)
            if found is None or waiting.line["step"] <= found.step
        ]
        if self._seen:
            seconds = max(now - self._started, 1e-9)
            self.starved = min(self._waited / seconds, 1.0)
            lines[-1] |= {"images_per_second": round(self._seen / seconds, 1), "starved": round(self.starved, 4)}
            if (mfu := self._training.mfu(self._flops / seconds)) is not None:
                lines[-1]["mfu"] = round(mfu, 4)
        batches = self._waiting[len(lines) - 1].batches
        self._waiting, self._started, self._waited = [], now, 0.0
        self._seen = self._flops = 0
        self._run.append(METRICS, lines)
        self._track(lines)
        self._recent.extend(line["loss"] for line in lines)
        if found is not None:
            raise stop(self._run, self._training, self._source, lines[-1], batches, found.parameter)
        return float(losses[-1])

    @property
    def epoch_loss(self) -> float | None:
        """The mean loss of the last epoch's worth of steps that were written, or of as many as there are, if any."""
        return math.fsum(self._recent) / len(self._recent) if self._recent else None

    def check_weights(self) -> None:
        """UserError if a weight is not finite, as after a step whose loss was still a number: none to go on with."""
        weight = self._training.non_finite_weight()
        if weight is not None:
            raise stop_at_weights(self._run, self._training, weight)

    def reject(self, found: Mapping[int, str]) -> None:
        """Record unreadable images (index → reason) once; UserError when they are more than ``max_rejected`` of all."""
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
            what = "images" if self._source.videos is None else "videos"
            raise UserError(
                f"{len(self._bad)} of {len(self._source)} {what} can't be read, more than --max-rejected "
                f"{self._max_rejected:g}; the last one is {last['key']} ({last['reason']}), all are in "
                f"{self._run.folder / REJECTED}"
            )


def _numbers(figures: Mapping[str, Tensor]) -> dict[str, float]:
    return dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True)) if figures else {}
