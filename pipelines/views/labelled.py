"""Labelled images or clips for ``evaluate``: a training and a test part, whose classes carry the same numbers.

What is held out, and which share of the labels is used, follows from seeds alone, so that every encoder sees the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mae.splits import hold_out
from pipelines.errors import UserError
from pipelines.sources.images import BadImage
from pipelines.sources.source import Source, hash_pairs
from pipelines.views.clip_views import ClipShape, ClipViews, clip_frames
from pipelines.views.image_views import InOrder, Views, load_views
from pipelines.views.workers import WorkerBatches

_IMAGES_LOOKED_AT, _MASKS_LOOKED_AT = 256, 32


@dataclass(frozen=True)
class Labelled:
    """A part of a labelled source: which of its pairs, and their classes as int64 0..C−1."""

    source: Source
    labels: NDArray[np.int64]
    clip: ClipShape | None = None
    """Of videos the clip that is seen of each, its middle one; None of images."""

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, chosen: NDArray[np.bool_]) -> Labelled:
        """The chosen pairs."""
        return replace(self, source=self.source.select(np.flatnonzero(chosen)), labels=self.labels[chosen])

    def spread(self, count: int) -> Labelled:
        """Up to so many of the pairs, evenly spaced."""
        return self.select(np.isin(np.arange(len(self)), self._spaced(count)))

    def divide(self, fraction: float, seed: int) -> tuple[Labelled, Labelled]:
        """The pairs without, and those with a share of every class that is held out, drawn by ``seed``."""
        held = hold_out(self.labels, fraction, seed)
        return self.select(~held), self.select(held)

    def share(self, fraction: float, seed: int) -> Labelled:
        """A share of the pairs, see :func:`balanced_share`."""
        return self.select(balanced_share(self.labels, fraction, seed))

    def batches(
        self,
        size: tuple[int, int],
        batch_size: int,
        *,
        workers: int,
        device: torch.device | None = None,
        greys: bool = False,
    ) -> WorkerBatches:
        """All pairs in order as encoders of this size see them, so many images at a time, for copies to ``device``.

        ``greys`` adds grey versions.
        """
        pin, order = device is not None and device.type == "cuda", InOrder(len(self), self.at_once(batch_size))
        views = self.views(size)
        views.greys = greys
        return load_views(views, order, workers=workers, pin=pin)

    def views(self, size: tuple[int, int]) -> Views:
        """What encoders of this size (height, width) see of the pairs: central views of images, or of clips."""
        if self.clip is None:
            return Views(self.source, size, augment=False)
        return ClipViews(self.source, size, self.clip, augment=False)

    def at_once(self, images: int) -> int:
        """How many pairs have so many images, one at least: a clip has as many as it has frames."""
        return images if self.clip is None else max(1, images // self.clip.count)

    def masks(self, i: int) -> NDArray[np.bool_] | None:
        """The true masks of pair ``i``, one of an image, bool [1, H, W], or one a frame of its clip; None without."""
        try:
            if self.clip is None:
                mask = self.source.read_mask(i)
                return None if mask is None else mask[None]
            video = self.source.open_video(i)
            return video.masks(clip_frames(video.times, self.clip).tolist())
        except (BadImage, OSError):
            return None

    def identity(self) -> str:
        """sha256 of the keys and labels in order, and of the bytes of up to 256 evenly spaced images.

        Of videos their middle frames are such images, and the clip's length and stride count as well.
        """
        chosen = self._spaced(_IMAGES_LOOKED_AT)
        digest = hashlib.sha256(hash_pairs(self.source, captions=False).encode())
        digest.update(self.labels.tobytes())
        digest.update(b"" if self.clip is None else f"{self.clip.count} frames, {self.clip.stride} apart".encode())
        for i in chosen:
            try:
                digest.update(hashlib.sha256(self.source.read_image(i)).digest())
            except (BadImage, OSError):
                digest.update(b"unreadable")
        return digest.hexdigest()

    def identity_with_masks(self) -> str:
        """sha256 of :meth:`identity`, and of up to 32 evenly spaced masks."""
        digest = hashlib.sha256(self.identity().encode())
        for i in self._spaced(_MASKS_LOOKED_AT):
            try:
                mask = self.source.read_mask(i)
                digest.update(b"none" if mask is None else np.packbits(mask).tobytes())
            except (BadImage, OSError):
                digest.update(b"unreadable")
        return digest.hexdigest()

    def _spaced(self, most: int) -> list[int]:
        """Up to so many pairs, evenly spaced."""
        spaced: list[int] = np.unique(np.linspace(0, len(self) - 1, most).astype(int)).tolist()
        return spaced


def open_labelled(source: Source, what: str = "evaluate") -> tuple[Labelled, list[str]]:
    """The pairs of a source that have a label, and the names of their classes (a number, where it has no names).

    UserError if it has no labels, saying that ``what`` needs them.
    """
    if source.labels is None:
        raise UserError(
            f"{source.name} has no labels: {what} needs a class per image (a class-per-folder tree, a label column)"
        )
    rows = np.flatnonzero(source.labels >= 0)
    found, labels = np.unique(source.labels[rows], return_inverse=True)
    names = [str(label) if source.label_names is None else source.label_names[label] for label in found]
    return Labelled(source.select(rows), labels), names


def balanced_share(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """True for a share 0 < fraction ≤ 1 of the images, the same number of every class where a class has so many.

    Of every class at least one. The number per class is the one that comes nearest to the share. Shares of one seed are
    nested: a smaller one lies within a larger one.
    """
    counts = np.bincount(labels)
    rng = np.random.default_rng([seed, 2])
    rank = np.empty(len(labels), np.int64)  # of an image within its class, in an order that knows of no fraction
    for label in np.flatnonzero(counts):
        members = np.flatnonzero(labels == label)
        rank[rng.permutation(members)] = np.arange(len(members))
    wanted, most = fraction * len(labels), int(counts.max())
    low, high = 1, most
    while low < high:  # the least number per class that reaches the share
        middle = (low + high) // 2
        low, high = (low, middle) if np.minimum(counts, middle).sum() >= wanted else (middle + 1, high)
    below = max(low - 1, 1)
    nearer = wanted - np.minimum(counts, below).sum() <= np.minimum(counts, low).sum() - wanted
    return rank < (below if nearer else low)


def unlabelled(source: Source) -> Labelled:
    """All pairs of a source, of one class."""
    return Labelled(source, np.zeros(len(source), np.int64))
