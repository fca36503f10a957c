"""Features of a frozen encoder, always the same: of the largest central part of every image, computed once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.errors import UserError
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.results.outcome import UnreadableImages
from pipelines.evaluate.supervised import check_readable
from pipelines.progress import progress_bar
from pipelines.views.duplicates import Hashes
from pipelines.views.labelled import Labelled


@dataclass(frozen=True)
class Features:
    """``values`` float32 [n, D] and ``labels`` int64 [n] of every readable image, and why others are missing.

    ``indices`` int64 [n] says which of the part's images they are.
    """

    values: Tensor
    labels: Tensor
    unreadable: UnreadableImages
    indices: NDArray[np.int64]


def compute_features(
    encoder: Encoder,
    part: Labelled,
    *,
    batch_size: int,
    workers: int,
    quiet: bool = False,
    hashes: list[Hashes] | None = None,
) -> Features:
    """The features of all images of a part; UserError if they are not finite or too many images can't be read.

    What the images look like goes into ``hashes``, where it is given.
    """
    unreadable: UnreadableImages = {}
    features, indices = [], []
    for images, places in central_views(
        part, encoder, batch_size=batch_size, workers=workers, unreadable=unreadable, name=encoder.name, quiet=quiet,
        hashes=hashes,
    ):  # fmt: skip
        features.append(encoder.features(images))
        indices.append(places)
    stacked = torch.cat(features)
    if not bool(stacked.isfinite().all()):
        raise UserError(f"{encoder.name} gives features that are infinite or NaN: its training diverged")
    found = np.concatenate(indices)
    return Features(stacked, torch.from_numpy(part.labels[found]).to(stacked.device), unreadable, found)


def central_views(
    part: Labelled,
    encoder: Encoder,
    *,
    batch_size: int,
    workers: int,
    unreadable: UnreadableImages,
    name: str,
    quiet: bool = False,
    hashes: list[Hashes] | None = None,
) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Images uint8 [B, 3, H, W], or clips [B, 3, T, H, W], of a part in order, and which they are; none augmented.

    They are as the encoder sees them, and pinned for copies to its device. What can't be read goes into ``unreadable``;
    UserError where that is more than 1 %, or everything. What the images look like goes into ``hashes``.
    """
    greys = hashes is not None
    loader = part.batches(encoder.size, batch_size, workers=workers, device=encoder.device, greys=greys)
    seen = False
    for batch in progress_bar(loader, name=name, unit="batches", part=True, quiet=quiet):
        unreadable |= {part.source.keys[bad.index].as_py(): bad.reason for bad in batch.unreadable}
        if len(batch.images):
            seen = True
            if hashes is not None:
                hashes.append(Hashes.of(batch.indices, batch.greys))
            yield batch.images, batch.indices
    check_readable(len(unreadable), part.source)
    if not seen:
        raise UserError(f"none of {len(part.source)} images of {part.source.name} can be read: look at it with inspect")
