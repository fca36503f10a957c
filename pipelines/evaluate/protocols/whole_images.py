"""Protocols on features by place, and what they see: whole images with their true masks, at an encoder's size.

The picture is squashed to the encoder's size, or, if another shorter side is asked for, keeps its proportions as far
as whole patches allow. The mask stays as it is, at its own resolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pipelines.errors import UserError
from pipelines.evaluate.encoders.baseline_encoders import colour_encoder, place_encoder
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.options import EvaluateOptions
from pipelines.evaluate.protocol import Measurement
from pipelines.sources.images import BadImage, decode_rgb
from pipelines.sources.source import Source
from pipelines.views.clip_views import ClipShape, clip_frames, read_clip
from pipelines.views.geometry import View, view_image
from pipelines.views.image_views import Unreadable
from pipelines.views.workers import worker_batches


class DenseMeasurement(Measurement):
    """A protocol on features by place, of encoders that have them; set against what knows colour or place alone."""

    baselines = (colour_encoder, place_encoder)

    @classmethod
    def check_encoder(cls, encoder: Encoder, options: EvaluateOptions) -> None:
        """UserError for an encoder without features by place, or not at ``--dense-size``."""
        view_size(encoder, options.dense_size)


@dataclass(frozen=True)
class Masked:
    """Pair ``index``: its whole picture uint8 [3, h, w], and its mask bool [H, W] or None; of a clip [3, T, h, w] and
    [T, H, W]. Where objects are asked for, the mask is uint8 and numbers them from 1.
    """

    index: int
    pixels: NDArray[np.uint8]
    mask: NDArray[Any] | None


@dataclass(frozen=True)
class ViewSize:
    """The size (height, width) at which pictures are seen: ``own``, or a shorter side in whole strides."""

    own: tuple[int, int]
    shorter: int | None = None
    stride: int = 1

    def of(self, width: int, height: int) -> tuple[int, int]:
        """For a picture of this width and height."""
        if self.shorter is None:
            return self.own
        scale = self.shorter / min(width, height)
        rows, columns = (max(1, round(side * scale / self.stride)) * self.stride for side in (height, width))
        return rows, columns


def view_size(encoder: Encoder, shorter: int | None) -> ViewSize:
    """How an encoder sees pictures with ``--dense-size``; UserError if it can't see them so."""
    if encoder.patches is None:
        raise UserError(f"{encoder.name} has no features by place: segment and propagate need a ViT or a CNN")
    if shorter is None:
        return ViewSize(encoder.size)
    if encoder.stride is None:
        side = "×".join(map(str, encoder.size))
        raise UserError(f"--dense-size {shorter}: {encoder.name} sees images of {side} pixels alone; leave it out")
    return ViewSize(encoder.size, shorter, encoder.stride)


class MaskedViews(Dataset[Masked | Unreadable]):
    """The pairs of a source in order, with their ``objects`` or one mask; with a ``clip`` those of its videos."""

    def __init__(self, source: Source, size: ViewSize, clip: ClipShape | None = None, *, objects: bool = False) -> None:
        self.source, self.size, self.clip, self.objects = source, size, clip, objects

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Masked | Unreadable:
        try:
            return self._image(index) if self.clip is None else self._clip(index, self.clip)
        except (BadImage, OSError) as error:
            return Unreadable(index, " ".join(str(error).split()))

    def _image(self, index: int) -> Masked:
        image = decode_rgb(self.source.read_image(index))
        mask = self.source.read_objects(index) if self.objects else self.source.read_mask(index)
        return Masked(index, view_image(image, View(), self.size.of(*image.size)), mask)

    def _clip(self, index: int, clip: ClipShape) -> Masked:
        video = self.source.open_video(index)
        frames = clip_frames(video.times, clip)
        pixels, _ = read_clip(video, frames, View(), self.size.of(*video.size))
        different, places = np.unique(frames, return_inverse=True)
        masks = video.masks(different.tolist())
        return Masked(index, pixels, None if masks is None else masks[places])


def read_masked(
    source: Source,
    size: ViewSize,
    *,
    batch_size: int,
    workers: int,
    clip: ClipShape | None = None,
    objects: bool = False,
) -> Iterator[list[Masked | Unreadable]]:
    """All pairs in order, up to ``batch_size`` at a time."""
    views = MaskedViews(source, size, clip, objects=objects)
    yield from worker_batches(views, batch_size=batch_size, workers=workers, collate=list)


def patch_features(encoder: Encoder, seen: Sequence[Masked]) -> list[Tensor]:
    """The features [D, h, w] of each picture, or [D, t, h, w] of each clip; those of one size pass through together."""
    assert encoder.patches is not None
    found: dict[int, Tensor] = {}
    sizes = {item.pixels.shape for item in seen}
    for size in sizes:
        some = [place for place, item in enumerate(seen) if item.pixels.shape == size]
        features = encoder.patches(torch.from_numpy(np.stack([seen[place].pixels for place in some])))
        found |= dict(zip(some, features, strict=True))
    return [found[place] for place in range(len(seen))]


def by_slot(features: Tensor, mask: NDArray[np.bool_]) -> list[tuple[Tensor, Tensor]]:
    """The features [D, h, w] of every slot of a clip, and the masks bool [f, H, W] of the frames that it covers.

    An image is a clip of one slot and one frame.
    """
    if features.ndim == 3:
        features, mask = features[:, None], mask[None]
    masks = torch.from_numpy(np.ascontiguousarray(mask))
    return list(zip(features.unbind(1), masks.chunk(features.shape[1]), strict=True))
