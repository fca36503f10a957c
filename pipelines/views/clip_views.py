"""Clips of videos: which frames one has, and all of them seen in one crop and flip.

A clip is ``count`` frames at a ``stride``, from a random start to train on and from the middle one to judge by. The
stride counts ticks of the video's mean frame rate and takes what is on the screen in the middle of each tick: frame by
frame where the rate is constant, by time where it varies. A video that is too short goes on with its last frame. What
is drawn follows from (seed, epoch, index) alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipelines.sources.images import BadImage
from pipelines.sources.source import Source, Video
from pipelines.sources.video.motion import encoded_motion
from pipelines.sources.video.slots import moments
from pipelines.views.duplicates import grey_version
from pipelines.views.geometry import View, central_box, random_view, stack_views, view_image, view_maps
from pipelines.views.image_views import Seen, Unreadable, Views, stream_of
from saliency.maps import FULL


@dataclass(frozen=True)
class ClipShape:
    """``count`` frames, ``stride`` ticks apart. ValueError names the option that is wrong."""

    count: int = 16
    stride: int = 4
    place: tuple[int, int] = (0, 1)
    """Which of how many clips of a video it is, evenly spaced from its beginning to its end; the only one is in the
    middle."""

    def __post_init__(self) -> None:
        for name, value in (("--frames", self.count), ("--frame-stride", self.stride)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


def clip_frames(
    times: NDArray[np.float64], shape: ClipShape, rng: np.random.Generator | None = None
) -> NDArray[np.int64]:
    """The frames of a clip, int64 [count], ascending; from a random start if ``rng`` is given, else at its place."""
    ticks = len(times)
    free = max(ticks - ((shape.count - 1) * shape.stride + 1), 0)
    number, clips = shape.place
    start = free // 2 if clips == 1 else round(free * number / (clips - 1))
    start = start if rng is None else int(rng.integers(free + 1))
    wanted = np.minimum(start + shape.stride * np.arange(shape.count), ticks - 1)
    period = (times[-1] - times[0]) / max(ticks - 1, 1)
    shown = np.searchsorted(times, times[0] + (wanted + 0.5) * period, side="right") - 1
    return np.asarray(np.maximum(shown, 0), np.int64)


def read_clip(
    video: Video, frames: NDArray[np.int64], view: View, size: tuple[int, int], *, moving: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """The frames of a video in one view, resized to ``size`` (height, width), uint8 [3, T, h, w].

    Second, if ``moving``, the motion of the whole frames, [T, G, G]: what the file carries, or else that from each of
    these frames to the next.
    """
    x0, y0, x1, y1 = view.box
    needed = math.ceil(max(size[0] / (y1 - y0), size[1] / (x1 - x0)))
    different, places = np.unique(frames, return_inverse=True)
    motion = None
    if moving:
        images, motion = video.read_moving(different.tolist(), draft=needed)
        motion = encoded_motion(images) if motion is None else motion
    else:
        images = video.read(different.tolist(), draft=needed)
    seen = np.stack([view_image(image, view, size) for image in images], axis=1)
    return np.ascontiguousarray(seen[:, places]), None if motion is None else motion[places]


def masks_on_view(masks: NDArray[np.bool_], view: View, grid: tuple[int, int]) -> Tensor:
    """The share of every cell of a grid laid on a view that each frame's mask covers, float32 [T, h, w]."""
    boxes, flips = stack_views([view] * len(masks))
    covered = torch.tensor([FULL] * len(masks))
    return view_maps(torch.from_numpy(masks.astype(np.float32)), covered, boxes, flips, grid).view(-1, *grid)


class ClipViews(Views):
    """Views of clips: pixels are uint8 [3, T, H, W]; else as :class:`pipelines.views.image_views.Views`.

    ``moving`` adds the frames' motion.
    """

    def __init__(
        self,
        source: Source,
        size: tuple[int, int],
        shape: ClipShape,
        *,
        augment: bool,
        seed: int = 0,
        sizes: Sequence[tuple[int, int]] | None = None,
        moving: bool = False,
    ) -> None:
        super().__init__(source, size, augment=augment, seed=seed, sizes=sizes)
        self.shape, self.moving = shape, moving

    def __getitem__(self, item: tuple[int, int]) -> Seen | Unreadable:
        epoch, index = item
        size = self.sizes[epoch] if self.sizes else self.size
        try:
            video = self.source.open_video(index)
            frames, view = self.choose(epoch, index, video, size)
            clip, motion = read_clip(video, frames, view, size, moving=self.moving)
            when = moments(video.times)[frames].astype(np.float32)
            grey = self._grey(clip) if self.greys else None
            return Seen(index, clip, view, grey=grey, moments=when, motion=motion)
        except (BadImage, OSError) as error:
            return Unreadable(index, " ".join(str(error).split()))

    @staticmethod
    def _grey(clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Of the clip's middle frame, as far as it is seen."""
        return grey_version(Image.fromarray(clip[:, clip.shape[1] // 2].transpose(1, 2, 0)))

    def choose(self, epoch: int, index: int, video: Video, size: tuple[int, int]) -> tuple[NDArray[np.int64], View]:
        """The frames of clip ``index``, and how they are seen."""
        width, height = video.size
        if not self.augment:
            return clip_frames(video.times, self.shape), View(central_box(width, height, size[1] / size[0]))
        rng = stream_of(self.seed, epoch, index)
        return clip_frames(video.times, self.shape, rng), random_view(rng, width, height)
