"""``evaluate --protocol segment``: a linear probe on frozen patch features against the true masks of a source.

The classes are the background and the labels of the source, whose objects the masks show, or background and object
where it has no labels. The figure is the mean over classes of the intersection over union, each summed over the test
images; its interval is the bootstrap's over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae.devices import copy_to
from mae.evaluation.intervals import bootstrap_interval
from mae.evaluation.probes import Logistic
from mae.evaluation.segmentation import class_ious, fit_patches, mean_iou, overlaps, segment
from pipelines.errors import UserError
from pipelines.evaluate.data import Data, Parts
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.protocols.whole_images import (
    DenseMeasurement,
    Masked,
    by_slot,
    patch_features,
    read_masked,
    view_size,
)
from pipelines.evaluate.results.outcome import Measured, UnreadableImages
from pipelines.evaluate.supervised import check_readable
from pipelines.progress import progress_bar
from pipelines.views.image_views import Unreadable
from pipelines.views.labelled import Labelled
from saliency.resample import area_resample

MOST_PATCHES = 50_000
"""Patches that the probe learns from at most, the same number of each image, drawn by the seed."""


@dataclass(frozen=True)
class _Patches:
    features: Tensor
    targets: Tensor
    images: Tensor


class Segment(DenseMeasurement):
    """mIoU of a linear probe of patches."""

    name, unit = "segment", "mIoU"
    meaning = "the mean over classes of the intersection over union"

    def open(self, data: Data) -> Parts:
        """Two parts with true masks; UserError."""
        return data.masked

    def settings(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """The seed, which draws patches, and the size of the images."""
        return {"seed": seed, "dense_size": self.options.dense_size}

    def measure(self, encoder: Encoder, seed: int, checkpoint: Path | None) -> Measured:
        """What the probe segments of every test image. Raises UserError.

        ``overlaps`` has a row an image: pixels of each class in both masks, then in either.
        """
        test, classes, unreadable = self.parts.test, len(self.parts.names), UnreadableImages()
        known = self._training_patches(encoder, seed, unreadable)
        probe = fit_patches(known.features, known.targets, known.images, seed=seed)
        rows: list[Tensor] = []
        for seen in self._masked(encoder, test, unreadable, "segment"):
            for item, features in zip(seen, patch_features(encoder, seen), strict=True):
                assert item.mask is not None
                counts = torch.zeros(2 * classes, dtype=torch.int64, device=features.device)
                for slot, masks in by_slot(features, item.mask):
                    truth = copy_to(masks, features.device).long() * (int(test.labels[item.index]) + 1)
                    found = segment(_scores(probe, slot), (truth.shape[1], truth.shape[2]))
                    counts += overlaps(found.expand_as(truth), truth, classes)
                rows.append(counts)
        if not rows:
            raise UserError(f"{test.source.name} has no readable masks to test on")
        facts = {"penalty": probe.penalty, "patches": len(known.images)}
        return Measured({"overlaps": torch.stack(rows).tolist()}, facts, unreadable)

    def figures(self, found: Sequence[Measured], first: Sequence[Measured] | None) -> dict[str, Any]:
        """``segment`` is the mIoU, ``segment_per_class`` its parts."""
        sums = np.mean([each.array("overlaps") for each in found], axis=0)  # [n, 2·C]
        ends = bootstrap_interval(sums, mean_iou, seed=self.options.seed)
        per_class = zip(self.parts.names, class_ious(sums.sum(0)), strict=True)
        return {
            "segment": float(np.mean([mean_iou(each.array("overlaps").sum(0)) for each in found])),
            "segment_interval": None if ends is None else (ends[1] - ends[0]) / 2,
            "segment_ends": ends,
            "segment_per_class": {name: float(iou) if np.isfinite(iou) else None for name, iou in per_class},
            "segment_images": len(sums),
        }

    def _training_patches(self, encoder: Encoder, seed: int, unreadable: UnreadableImages) -> _Patches:
        train = self.parts.part(seed)
        each = max(1, MOST_PATCHES // max(1, len(train)))
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        generator = torch.Generator().manual_seed(seed)
        for seen in self._masked(encoder, train, unreadable, "learning to segment"):
            for item, features in zip(seen, patch_features(encoder, seen), strict=True):
                assert item.mask is not None
                slots = by_slot(features, item.mask)
                for slot, masks in slots:
                    share = area_resample(masks.float(), (slot.shape[1], slot.shape[2])).mean(0).flatten()
                    targets = torch.zeros(len(share), len(self.parts.names))
                    targets[:, 0], targets[:, int(train.labels[item.index]) + 1] = 1 - share, share
                    chosen = torch.randperm(len(share), generator=generator)[: max(1, each // len(slots))]
                    owner = torch.full((len(chosen),), item.index)
                    parts.append((slot.flatten(1).T[copy_to(chosen, slot.device)], targets[chosen], owner))
        if not parts:
            raise UserError(f"{train.source.name} has no readable masks to learn from")
        features, targets, images = (torch.cat(column) for column in zip(*parts, strict=True))
        if not bool(features.isfinite().all()):
            raise UserError(f"{encoder.name} gives features that are infinite or NaN: its training diverged")
        return _Patches(features, targets.to(features.device), images.to(features.device))

    def _masked(self, encoder: Encoder, part: Labelled, unreadable: UnreadableImages, what: str) -> Any:
        """Pictures that have a mask, a batch at a time; what can't be read goes into ``unreadable``."""
        size = view_size(encoder, self.options.dense_size)
        at_once, workers = part.at_once(self.options.batch_size), self.options.workers
        batches = read_masked(part.source, size, batch_size=at_once, workers=workers, clip=part.clip)
        told = f"{encoder.name}: {what}"
        for batch in progress_bar(batches, name=told, unit="batches", part=True, quiet=self.quiet):
            unreadable |= {part.source.keys[i.index].as_py(): i.reason for i in batch if isinstance(i, Unreadable)}
            seen = [item for item in batch if isinstance(item, Masked) and item.mask is not None]
            if seen:
                yield seen
        check_readable(len(unreadable), part.source)


def _scores(probe: Logistic, features: Tensor) -> Tensor:
    """The probe's scores [C, h, w] of features [D, h, w]."""
    return probe.logits(features.flatten(1).T).T.reshape(-1, *features.shape[1:])
