"""The images of the three levels of ``--masking mlo``: two parts of one labelled source, and the order they come in.

Level 1 and 2 learn from the training split, level 3 from the mask split, which is drawn by key and class from the seed.
Nothing else is read, so images that a run is judged on later are unseen as long as they are not in the source. A view
follows from (seed, level, epoch, index) alone, as in ``pipelines.views.image_views``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from mae.multilevel.forms import settled
from mae.multilevel.mlo import LEVELS
from mae.splits import check_disjoint, split_rows
from pipelines.errors import UserError, user_errors
from pipelines.pretrain.options import PretrainOptions
from pipelines.sources.random_access import open_images
from pipelines.sources.source import hash_pairs
from pipelines.views.geometry import USUAL_CROPS
from pipelines.views.image_views import EpochBatches
from pipelines.views.joined_maps import JoinedMaps, join_maps
from pipelines.views.labelled import Labelled, open_labelled

_APART = 1_000_003
"""Between the seeds of the levels' orders."""
_EPOCHS = 1 << 20
"""More than any level has: levels that show one image in epochs of one number show views of their own."""
_GENTLE = (0.6, 1.0)


def gentle_crops(epoch: int) -> tuple[float, float]:
    """Of levels 2 and 3: a class is to be seen in their views, which a fifth of an image may not show."""
    return USUAL_CROPS if epoch < _EPOCHS else _GENTLE


@dataclass(frozen=True)
class LevelData:
    """Labelled images, the names of their classes, and which rows are of the training and of the mask split."""

    images: Labelled
    classes: list[str]
    training: NDArray[np.int64]
    mask: NDArray[np.int64]
    maps: JoinedMaps | None = None

    def rows(self) -> dict[str, NDArray[np.int64]]:
        """The rows that each level reads."""
        return dict(zip(LEVELS, (self.training, self.training, self.mask), strict=True))

    def facts(self) -> dict[str, Any]:
        """What a run's config says of the splits."""
        facts: dict[str, Any] = {"training": len(self.training), "mask": len(self.mask), "classes": self.classes}
        for name, rows in (("training", self.training), ("mask", self.mask)):
            facts[f"{name}_keys_sha256"] = hash_pairs(self.images.source.select(rows), captions=False)
        return facts


def open_levels(options: PretrainOptions, maps: str | Path | None = None) -> LevelData:
    """The source of ``pretrain --masking mlo``, split, and its maps where T reads them.

    UserError without labels, or with too few images of a class.
    """
    images, classes = open_labelled(open_images(options), "--masking mlo")
    if len(classes) < 2:
        raise UserError(f"{options.source}: its labels have fewer than two classes: --masking mlo needs them")
    with user_errors():
        data = split_by_key(images, classes, settled(vars(options))["mlo_split"], options.seed)
    if maps is not None:
        data = replace(data, maps=join_maps(maps, images.source, on_missing=options.on_missing))
    for name, rows in data.rows().items():
        if len(rows) < options.batch_size:
            raise UserError(
                f"{options.source}: the split of level {name!r} has {len(rows)} images, fewer than --batch-size "
                f"{options.batch_size}: lower it, or change --mlo-split"
            )
    return data


def split_by_key(images: Labelled, classes: list[str], fraction: float, seed: int) -> LevelData:
    """Pairs of one key stay together; ``fraction`` of every class's keys are of the mask split. ValueError."""
    keys = np.asarray(images.source.keys.to_pylist(), dtype=object)
    _, first, members = np.unique(keys.astype(str), return_index=True, return_inverse=True)
    training, mask = (
        np.flatnonzero(np.isin(members, part)) for part in split_rows(images.labels[first], fraction, seed)
    )
    check_disjoint(training=keys[training], mask=keys[mask])
    return LevelData(images, classes, training, mask)


class StepBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index): of every step those of level 1, then of level 2, then of level 3.

    ``rows`` and ``counts`` say of each level which rows it reads and how many batches of them a step takes; ``start``
    steps are skipped, and ``part`` is what this process takes of each batch.
    """

    def __init__(
        self,
        rows: Mapping[str, NDArray[np.int64]],
        counts: Mapping[str, int],
        batch_size: int,
        steps: int,
        *,
        seed: int,
        start: int = 0,
        part: slice = slice(None),
    ) -> None:
        self.rows, self.counts, self.batch_size, self.steps = rows, counts, batch_size, steps
        self.seed, self.start, self.part = seed, start, part

    def __len__(self) -> int:
        return (self.steps - self.start) * sum(self.counts.values())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        streams = {name: self._stream(level, name) for level, name in enumerate(self.counts)}
        for _ in range(self.start, self.steps):
            for name, count in self.counts.items():
                for _ in range(count):
                    yield next(streams[name])

    def _stream(self, level: int, name: str) -> Iterator[list[tuple[int, int]]]:
        rows, count = self.rows[name], self.counts[name]
        an_epoch = len(rows) // self.batch_size
        batches = EpochBatches(
            len(rows),
            self.batch_size,
            an_epoch,
            math.ceil(self.steps * count / an_epoch),
            seed=self.seed + level * _APART,
            start=self.start * count,
            part=self.part,
        )
        for batch in batches:
            yield [(epoch + level * _EPOCHS, int(rows[index])) for epoch, index in batch]
