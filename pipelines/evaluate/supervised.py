"""Training on labelled images: augmented views, batches of a planned size, and epochs that go on where they stopped.

A view depends on (seed, epoch, index) alone, whatever library augments it. At the end of each epoch the state goes to
one file, if there is to be one; a run that finds it goes on from there, and on one CPU process ends in the same bits.
An image that can't be read is recorded; more than 1 % of them is an error.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from mae.storage import save_torch
from mae.stored import one_line, unpickle
from pipelines.errors import UserError
from pipelines.evaluate.results.outcome import UnreadableImages
from pipelines.sources.images import BadImage, decode_rgb
from pipelines.sources.source import Source
from pipelines.views.clip_views import clip_frames
from pipelines.views.image_views import EpochBatches, Unreadable, stream_of
from pipelines.views.labelled import Labelled
from pipelines.views.workers import worker_batches
from saliency.files import write_atomically

MAX_UNREADABLE = 0.01
_STEPS_PER_EPOCH = 32
_LEAST_BATCH = 32


@dataclass(frozen=True)
class BatchPlan:
    """``at_a_time`` images pass through the model together, ``accumulate`` such batches make a step."""

    at_a_time: int
    accumulate: int
    steps_per_epoch: int

    @property
    def images_per_step(self) -> int:
        """How many images a step learns from."""
        return self.at_a_time * self.accumulate


def plan_batches(images: int, *, usual: int, asked: int | None, at_a_time: int) -> BatchPlan:
    """Batches of ``asked`` images, or of ``usual`` ones where that leaves an epoch 32 steps, else of fewer.

    Every part has the same even number of images, so a step may take a few less than asked for. Images that fill no
    step are left out, others every epoch. UserError for fewer than two images.
    """
    if images < 2:
        raise UserError(f"{images} training image: a linear probe and fine-tuning need at least two")
    batch = asked or min(usual, max(_LEAST_BATCH, images // _STEPS_PER_EPOCH))
    batch = max(2, min(batch, images))
    accumulate = -(-batch // max(2, at_a_time))
    part = max(2, batch // accumulate // 2 * 2)
    return BatchPlan(part, accumulate, images // (part * accumulate))


@dataclass(frozen=True)
class TrainingBatch:
    """Augmented images [B, 3, H, W] or clips [B, 3, T, H, W], their indices int64 [B], and what could not be read."""

    images: Tensor
    indices: NDArray[np.int64]
    unreadable: list[Unreadable]

    def pin_memory(self) -> TrainingBatch:
        """The batch in memory that a GPU can fetch while it computes; the loader calls it."""
        return replace(self, images=self.images.pin_memory())


class TrainingViews(Dataset[tuple[int, Tensor] | Unreadable]):
    """Images of a part as ``augment`` shows them: it gets the picture and (seed, epoch, index) to draw from.

    Of videos it shows the frames of a clip, which begins anywhere, all in the same way: [3, T, H, W].
    """

    def __init__(self, part: Labelled, augment: Callable[[Image.Image, tuple[int, int, int]], Tensor], seed: int):
        self.source, self.clip, self.augment, self.seed = part.source, part.clip, augment, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, Tensor] | Unreadable:
        epoch, index = item
        key = (self.seed, epoch, index)
        try:
            if self.clip is None:
                return index, self.augment(decode_rgb(self.source.read_image(index)), key)
            video = self.source.open_video(index)
            frames, places = np.unique(clip_frames(video.times, self.clip, stream_of(*key)), return_inverse=True)
            shown = [self.augment(picture, key) for picture in video.read(frames.tolist())]
            return index, torch.stack(shown, dim=1)[:, torch.from_numpy(places)]
        except (BadImage, OSError) as error:
            return Unreadable(index, " ".join(str(error).split()))


class Learner(Protocol):
    """What is trained: it counts its steps, and its state is all that the next step depends on."""

    step: int

    def state(self) -> dict[str, Any]: ...  # noqa: D102
    def load_state(self, state: dict[str, Any]) -> None: ...  # noqa: D102


def train_epochs(
    learner: Learner,
    update: Callable[[Sequence[TrainingBatch]], Tensor],
    views: TrainingViews,
    plan: BatchPlan,
    *,
    epochs: int,
    workers: int,
    device: torch.device,
    checkpoint: Path | None,
    progress: tqdm[Any],
) -> UnreadableImages:
    """Train to the end of the last epoch, from ``checkpoint`` on if it exists; returns what could not be read.

    ``update`` makes one step of batches of at least two images each, on ``device``, and returns its loss. UserError for
    a loss that is infinite or NaN at an epoch's end, a checkpoint that can't be used, and too many unreadable images.
    """
    unreadable: UnreadableImages = {}
    if checkpoint is not None and checkpoint.exists():
        unreadable = _resume(checkpoint, learner)
    progress.reset(total=plan.steps_per_epoch * epochs)
    progress.update(learner.step)
    while learner.step < plan.steps_per_epoch * epochs:
        epoch = learner.step // plan.steps_per_epoch
        losses = []
        for group in _epoch(views, plan, epoch, workers, pin=device.type == "cuda"):
            for bad in itertools.chain.from_iterable(batch.unreadable for batch in group):
                unreadable[views.source.keys[bad.index].as_py()] = bad.reason
            check_readable(len(unreadable), views.source)
            if readable := [batch for batch in group if len(batch.images) >= 2]:
                losses.append(update(readable))
            else:
                learner.step += 1
            progress.update()
        _report(losses, epoch, progress)
        if checkpoint is not None:
            state = {"learner": learner.state(), "rejected": unreadable}
            write_atomically(checkpoint, lambda file, state=state: save_torch(state, file))  # type: ignore[misc]
    return unreadable


def _report(losses: list[Tensor], epoch: int, progress: tqdm[Any]) -> None:
    loss = float(torch.stack(losses).mean()) if losses else 0.0
    if not math.isfinite(loss):
        raise UserError(f"the training diverged in epoch {epoch + 1}, its loss is {loss}: lower the base learning rate")
    progress.set_postfix(loss=f"{loss:.3f}", refresh=False)


def check_readable(unreadable: int, source: Source) -> None:
    """UserError if more than 1 % of a source's images can't be read."""
    if unreadable > MAX_UNREADABLE * len(source):
        raise UserError(f"{unreadable} of {len(source)} images of {source.name} can't be read: look at it with inspect")


def labels_of(part: Labelled, batch: TrainingBatch) -> Tensor:
    """The classes of a batch's images, int64 [B]."""
    return torch.from_numpy(part.labels[batch.indices])


def _epoch(
    views: TrainingViews, plan: BatchPlan, epoch: int, workers: int, *, pin: bool
) -> Iterator[list[TrainingBatch]]:
    """The batches of one epoch, those of a step together."""
    batches_per_epoch = plan.steps_per_epoch * plan.accumulate
    order = EpochBatches(
        len(views),
        plan.at_a_time,
        batches_per_epoch,
        epoch + 1,
        seed=views.seed,
        start=epoch * batches_per_epoch,
    )
    iterator = iter(worker_batches(views, order, workers=workers, collate=_collate, pin=pin))
    while group := list(itertools.islice(iterator, plan.accumulate)):
        yield group


def _collate(items: list[tuple[int, Tensor] | Unreadable]) -> TrainingBatch:
    seen = [item for item in items if not isinstance(item, Unreadable)]
    images = torch.stack([pixels for _, pixels in seen]) if seen else torch.empty(0, 3, 0, 0)
    unreadable = [item for item in items if isinstance(item, Unreadable)]
    return TrainingBatch(images, np.asarray([index for index, _ in seen], np.int64), unreadable)


def _resume(checkpoint: Path, learner: Learner) -> UnreadableImages:
    try:
        state = unpickle(checkpoint)
        learner.load_state(state["learner"])
        return {str(key): str(reason) for key, reason in state["rejected"].items()}
    except Exception as error:  # a state of another shape raises of every kind
        raise UserError(
            f"{checkpoint} can't be resumed from ({one_line(error, 200)}); delete it, or give --fresh"
        ) from error
