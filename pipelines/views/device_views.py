"""Random views whose pixels are computed on the training's device: the workers only decode and cut.

A worker decodes an image as it would otherwise, cuts out what its view depends on and sends the bytes as they are; the
batch is copied at once and resized there (``pipelines.views.pillow_resize``). The images are those that the workers
would show, byte for byte, so a run may go on with the one or the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Sampler

from pipelines.views.geometry import View
from pipelines.views.image_views import Seen, Unreadable, ViewBatch, Views, collate, load_views
from pipelines.views.pillow_resize import PackedRegions, Region, cut_region, pack_regions, resize

AUGMENT_ON = ("auto", "workers", "device")

_NO_PIXELS = np.zeros((3, 0, 0), np.uint8)


def views_on_device(augment_on: str, device: torch.device) -> bool:
    """Whether views are to be computed on ``device``; ``auto``: where that is a GPU, whose time is cheaper."""
    return augment_on == "device" or (augment_on == "auto" and device.type == "cuda")


@dataclass(frozen=True)
class Cut(Seen):
    """Pair number ``index`` before it is resized to ``size`` (height, width); its ``pixels`` are empty."""

    region: Region
    size: tuple[int, int]


class CutViews(Views):
    """The views of :class:`Views`, as the regions that they are made from."""

    def show(self, index: int, image: Image.Image, view: View, size: tuple[int, int]) -> Cut:
        """The part of the image that the view needs."""
        return Cut(index, _NO_PIXELS, view, cut_region(image, view, size), size)


@dataclass(frozen=True)
class CutBatch:
    """A batch of views without its images, and what they are made from."""

    views: ViewBatch
    regions: PackedRegions
    size: tuple[int, int]

    def pin_memory(self) -> CutBatch:
        """The batch in memory that a GPU can fetch while it computes; the loader calls it."""
        return replace(self, views=self.views.pin_memory(), regions=self.regions.pin_memory())

    def on_device(self, device: torch.device) -> ViewBatch:
        """The batch with its images, uint8 [B, 3, H, W], on ``device``."""
        return replace(self.views, images=resize(self.regions, self.views.flips, self.size, device))


def load_on_device(
    views: CutViews, batches: Sampler[list[tuple[int, int]]], device: torch.device, *, workers: int
) -> Iterator[ViewBatch]:
    """Batches of views whose images are on ``device``; otherwise as :func:`pipelines.views.image_views.load_views`."""
    pin = device.type == "cuda"
    loader: Iterable[CutBatch] = load_views(views, batches, workers=workers, pin=pin, assemble=assemble_cut)
    if not pin:
        for batch in loader:
            yield batch.on_device(device)
        return
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for batch in loader:
        # beside the step before, which is still being computed when the host comes here
        with torch.cuda.stream(aside):
            finished = batch.on_device(device)
        current = torch.cuda.current_stream(device)
        current.wait_stream(aside)
        finished.images.record_stream(current)
        yield finished


def assemble_cut(items: list[Seen | Unreadable]) -> CutBatch:
    """Pack what could be cut; the rest is listed."""
    cut = [item for item in items if isinstance(item, Cut)]
    size = cut[0].size if cut else (0, 0)
    return CutBatch(collate(items), pack_regions([item.region for item in cut]), size)
