"""Images of a source as views of one size, batched by a loader: random ones to train on, one fixed one to judge by.

A random view depends on (seed, epoch, index) alone, not on the worker that draws it or on what was drawn before. An
image that can't be read does not stop a run: its batch is one smaller and says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from pipelines.sources.images import BadImage, EncodedImage
from pipelines.sources.source import Source
from pipelines.views.duplicates import grey_version
from pipelines.views.geometry import USUAL_CROPS, View, central_box, random_view, stack_views, view_image
from pipelines.views.workers import WorkerBatches, worker_batches

Crops = Callable[[int], tuple[float, float]]
"""The number of an epoch → the least and the greatest share of an image's area that a random crop shows."""


@dataclass(frozen=True)
class Seen:
    """Pair number ``index`` as the model sees it: pixels uint8 [3, H, W], and the view they show."""

    index: int
    pixels: NDArray[np.uint8]
    view: View
    grey: NDArray[np.uint8] | None = field(default=None, kw_only=True)
    """The whole image as :func:`pipelines.views.duplicates.grey_version` has it, where that is asked for."""
    moments: NDArray[np.float32] | None = field(default=None, kw_only=True)
    """Of a clip when each frame is shown, as a fraction of its video, [T]."""
    motion: NDArray[np.float32] | None = field(default=None, kw_only=True)
    """Of a clip the motion of each whole frame, [T, G, G], where that is asked for."""


@dataclass(frozen=True)
class Unreadable:
    """Pair number ``index`` has no readable image, and why."""

    index: int
    reason: str


@dataclass(frozen=True)
class ViewBatch:
    """Views: images uint8 [B, 3, H, W], boxes [B, 4], flips bool [B], indices int64 [B]; and what was unreadable.

    ``places`` int64 [B] is where each stood among all that were asked for, readable or not; ``greys`` uint8
    [B, 32, 32] are grey versions, where they are asked for. Of clips, ``moments`` float32 [B, T] are their frames'
    times as fractions of the video, and ``motion`` float32 [B, T, G, G] the motion of whole frames, where asked for.
    """

    images: Tensor
    boxes: Tensor
    flips: Tensor
    indices: NDArray[np.int64]
    unreadable: list[Unreadable]
    places: NDArray[np.int64]
    greys: NDArray[np.uint8] | None = None
    moments: NDArray[np.float32] | None = None
    motion: Tensor | None = None

    def pin_memory(self) -> ViewBatch:
        """The batch in memory that a GPU can fetch while it computes; the loader calls it."""
        names = ("images", "boxes", "flips") if self.motion is None else ("images", "boxes", "flips", "motion")
        pinned = {name: getattr(self, name).pin_memory() for name in names}
        return replace(self, **pinned)


class Views(Dataset[Seen | Unreadable]):
    """Views of ``size`` (height, width): random ones if ``augment``, else the largest central one.

    ``sizes`` are those of the epochs, where they have sizes of their own; ``crops`` gives the bounds of a random crop's
    share of the image in an epoch, where they are not the usual ones. ``greys`` adds grey versions.
    """

    greys = False

    def __init__(
        self,
        source: Source,
        size: tuple[int, int],
        *,
        augment: bool,
        seed: int = 0,
        sizes: Sequence[tuple[int, int]] | None = None,
        crops: Crops | None = None,
    ) -> None:
        self.source, self.size, self.augment, self.seed, self.sizes = source, size, augment, seed, sizes
        self.crops = crops

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: tuple[int, int]) -> Seen | Unreadable:
        epoch, index = item
        size = self.sizes[epoch] if self.sizes else self.size
        try:
            image = EncodedImage(self.source.read_image(index))
            view = self._view(epoch, index, size, *image.size)
            x0, y0, x1, y1 = view.box
            needed = math.ceil(max(size[0] / (y1 - y0), size[1] / (x1 - x0)))
            decoded = image.decode(draft=needed)
            seen = self.show(index, decoded, view, size)
            return replace(seen, grey=grey_version(decoded)) if self.greys else seen
        except (BadImage, OSError) as error:
            return Unreadable(index, " ".join(str(error).split()))

    def show(self, index: int, image: Image.Image, view: View, size: tuple[int, int]) -> Seen:
        """Pair ``index``, whose decoded image this is, in the view."""
        return Seen(index, view_image(image, view, size), view)

    def _view(self, epoch: int, index: int, size: tuple[int, int], width: int, height: int) -> View:
        if not self.augment:
            return View(central_box(width, height, size[1] / size[0]))
        scale = self.crops(epoch) if self.crops else USUAL_CROPS
        return training_view(self.seed, epoch, index, width, height, scale)


def training_view(
    seed: int, epoch: int, index: int, width: int, height: int, scale: tuple[float, float] = USUAL_CROPS
) -> View:
    """The random view of pair ``index``, whose image has this size, in an epoch of a training with this seed."""
    return random_view(stream_of(seed, epoch, index), width, height, scale=scale)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index): every epoch a new order that follows from (seed, epoch), short ends dropped.

    ``start`` batches are skipped, so that a resumed run goes on with the very next one. ``part`` is what this process
    takes of each batch.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        batches_per_epoch: int,
        epochs: int,
        *,
        seed: int,
        start: int = 0,
        part: slice = slice(None),
    ) -> None:
        self.count, self.batch_size, self.batches_per_epoch = count, batch_size, batches_per_epoch
        self.epochs, self.seed, self.start, self.part = epochs, seed, start, part

    def __len__(self) -> int:
        return self.batches_per_epoch * self.epochs - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.start // self.batches_per_epoch, self.epochs):
            order = stream_of(self.seed, epoch).permutation(self.count)
            first = self.start - epoch * self.batches_per_epoch if epoch * self.batches_per_epoch < self.start else 0
            for number in range(first, self.batches_per_epoch):
                chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
                yield [(epoch, int(index)) for index in chosen[self.part]]


class InOrder(Sampler[list[tuple[int, int]]]):
    """Every index once, in order, in batches."""

    def __init__(self, count: int, batch_size: int) -> None:
        self.count, self.batch_size = count, batch_size

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(0, self.count, self.batch_size):
            yield [(0, index) for index in range(start, min(start + self.batch_size, self.count))]


def load_views(
    views: Views,
    batches: Sampler[list[tuple[int, int]]],
    *,
    workers: int,
    pin: bool = False,
    assemble: Callable[[list[Seen | Unreadable]], Any] | None = None,
) -> WorkerBatches:
    """A loader with ``workers`` processes (0: this one) of what ``assemble`` makes; :class:`ViewBatch` by default."""
    return worker_batches(views, batches, workers=workers, collate=assemble or collate, pin=pin)


def collate(items: list[Seen | Unreadable]) -> ViewBatch:
    """Stack what could be read; the rest is listed."""
    seen = [item for item in items if isinstance(item, Seen)]
    unreadable = [item for item in items if isinstance(item, Unreadable)]
    images = torch.from_numpy(np.stack([item.pixels for item in seen])) if seen else torch.empty(0, 3, 0, 0)
    boxes, flips = stack_views([item.view for item in seen])
    places = np.asarray([place for place, item in enumerate(items) if isinstance(item, Seen)], np.int64)
    indices = np.asarray([item.index for item in seen], np.int64)
    motion = _stacked(item.motion for item in seen)
    return ViewBatch(
        images, boxes, flips, indices, unreadable, places,
        greys=_stacked(item.grey for item in seen),
        moments=_stacked(item.moments for item in seen),
        motion=None if motion is None else torch.from_numpy(motion),
    )  # fmt: skip


def _stacked(arrays: Iterable[NDArray[Any] | None]) -> NDArray[Any] | None:
    """The arrays that there are, stacked; None if there are none."""
    there = [array for array in arrays if array is not None]
    return np.stack(there) if there else None


def stream_of(seed: int, *key: int) -> np.random.Generator:
    """A stream of its own for every seed and key; one list would not do, for [1] and [1, 0] seed the same stream."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
