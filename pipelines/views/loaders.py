"""Views of images or of clips, loaded: random ones to train on, and a few fixed ones to show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch.utils.data import Sampler

from pipelines.sources.source import Source
from pipelines.views.clip_views import ClipShape, ClipViews
from pipelines.views.device_views import CutViews, load_on_device, views_on_device
from pipelines.views.image_views import Crops, InOrder, ViewBatch, Views, load_views


def training_views(
    source: Source,
    batches: Sampler[list[tuple[int, int]]],
    size: tuple[int, int],
    *,
    clip: ClipShape | None,
    sizes: Sequence[tuple[int, int]] | None,
    seed: int,
    augment_on: str,
    device: torch.device,
    workers: int,
    crops: Crops | None = None,
    moving: bool = False,
) -> Iterable[ViewBatch]:
    """Random views (height, width) of ``batches`` of (epoch, index), of ``sizes`` where the epochs have their own.

    ``crops`` says how much of an image is shown in an epoch, where that is not as usual. With a ``clip`` they are of
    videos, cropped by the workers, with the frames' motion if ``moving``. ``augment_on`` is one of AUGMENT_ON.
    """
    if clip is None and views_on_device(augment_on, device):
        cut = CutViews(source, size, augment=True, seed=seed, sizes=sizes, crops=crops)
        return load_on_device(cut, batches, device, workers=workers)
    if clip is None:
        views = Views(source, size, augment=True, seed=seed, sizes=sizes, crops=crops)
    else:
        views = ClipViews(source, size, clip, augment=True, seed=seed, sizes=sizes, moving=moving)
    return load_views(views, batches, workers=workers, pin=device.type == "cuda")


def first_views(
    source: Source, size: tuple[int, int], count: int, clip: ClipShape | None = None, *, moving: bool = False
) -> ViewBatch:
    """The central views of the first ``count`` images of a source, or with a ``clip`` of its videos.

    With the motion of these if ``moving``.
    """
    if clip is None:
        views = Views(source, size, augment=False)
    else:
        views = ClipViews(source, size, clip, augment=False, moving=moving)
    batch: ViewBatch = next(iter(load_views(views, InOrder(min(count, len(source)), count), workers=0)))
    return batch
