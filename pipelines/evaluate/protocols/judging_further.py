"""The protocols that do not end in a table of right and wrong: occlusion, segment, propagate; cells kept as all others.

They share the encoders, seeds and parts of an evaluation, and everything that all encoders must see alike is made once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.errors import UserError, user_errors
from pipelines.evaluate.cells import Cells
from pipelines.evaluate.data import open_masked, open_test
from pipelines.evaluate.encoder import Encoder
from pipelines.evaluate.features import Features
from pipelines.evaluate.independent_maps import check_independent
from pipelines.evaluate.measured import Measured
from pipelines.evaluate.options import EvaluateOptions
from pipelines.evaluate.protocols.occluders import Occluders
from pipelines.evaluate.protocols.occlusion import occlusion
from pipelines.evaluate.protocols.propagate import propagate_row, propagation
from pipelines.evaluate.protocols.segment import segment_classes, segment_row, segmentation
from pipelines.hub import find_maps
from pipelines.sources.images import BadImage
from pipelines.views.joined_maps import JoinedMaps, join_maps
from pipelines.views.labelled import Labelled, balanced_share, unlabelled
from saliency.table.table import SaliencyTable

USUAL_GRID = 14
"""Cells a side of the occluders' grid where the judged encoder has no patches of its own."""

_LOOKED_AT = 32


class OcclusionJudge:
    """``occlusion`` for the encoders of one evaluation; the occluders are the same for all of them."""

    def __init__(self, test: Labelled, classes: int, options: EvaluateOptions, cells: Cells, quiet: bool) -> None:
        self.test, self.classes, self.options, self.cells, self.quiet = test, classes, options, cells, quiet
        self.maps, self.unrecorded = self._open_maps()
        self._grid: tuple[int, int] | None = None

    def __call__(
        self, encoder: Encoder, seed: int, known: Callable[[], Features], decided_by: Mapping[str, Any]
    ) -> Measured:
        """What one encoder is worth under occlusion; ``known`` gives the features of the training part. UserError."""
        occluders = self.occluders(encoder, seed)
        kinds = self._kinds(occluders)
        decided = {"protocol": "occlusion", **decided_by, "settings": self._settings(kinds, occluders, seed)}
        found = self.cells.find(decided, Measured)
        if found is None:
            found = occlusion(
                encoder, known(), self.test, self.classes, self.options, occluders, kinds, seed=seed, quiet=self.quiet
            )
            self.cells.keep(decided, found)
        return found

    def occluders(self, encoder: Encoder, seed: int) -> Occluders:
        """Those of a seed; their grid is the option's, or that of the first encoder that was asked for."""
        if self._grid is None:
            side, model = self.options.occluder_grid or USUAL_GRID, encoder.autoencoder
            own = model is not None and self.options.occluder_grid is None
            self._grid = (model.grid[-2], model.grid[-1]) if own and model is not None else (side, side)
        return Occluders(self.test, self._grid, maps=self.maps, fill=self.options.occluder_fill, seed=seed)

    def facts(self) -> dict[str, Any]:
        """What the result says of the occluders."""
        source = "none"
        if self.maps is not None or self.test.source.has_masks:
            source = self.options.occluder_maps or "true masks"
        facts: dict[str, Any] = {
            "grid": list(self._grid or ()),
            "fill": self.options.occluder_fill,
            "salient_by": source,
        }
        return facts | ({"maps_of_training_unknown": self.unrecorded} if self.unrecorded else {})

    def _open_maps(self) -> tuple[JoinedMaps | None, list[str]]:
        place = self.options.occluder_maps
        if place is None:
            return None, []
        folder = find_maps(place)
        with user_errors():
            metadata = SaliencyTable(folder).metadata
        # First of all: maps of other images would be refused too, and for a lesser reason.
        unrecorded = check_independent(place, metadata, (self.options.run, *self.options.beside))
        return join_maps(folder, self.test.source, on_missing="error"), unrecorded

    def _kinds(self, occluders: Occluders) -> tuple[str, ...]:
        for kind in self.options.occluder:
            if kind not in occluders.kinds:
                raise UserError(
                    f"--occluder {kind}: {self.test.source.name} has no true masks to tell what is salient; give "
                    "--occluder-maps MAPS, other maps than those the model was trained with"
                )
        return tuple(dict.fromkeys(self.options.occluder)) or occluders.kinds

    def _settings(self, kinds: Sequence[str], occluders: Occluders, seed: int) -> dict[str, Any]:
        options = self.options
        return {
            "seed": seed,
            "pool": options.pool,
            "probe": options.occlusion_probe,
            "neighbours": [options.neighbours, options.temperature] if options.occlusion_probe == "knn" else None,
            "kinds": list(kinds),
            "shares": list(options.shares()),
            "grid": list(occluders.grid),
            "fill": options.occluder_fill,
            "maps": None if self.maps is None else [str(options.occluder_maps), self.maps.table.metadata],
            "recover_images": options.recover_images,
        }


class SegmentJudge:
    """``segment`` for the encoders of one evaluation."""

    def __init__(self, options: EvaluateOptions, cells: Cells, quiet: bool) -> None:
        self.options, self.cells, self.quiet = options, cells, quiet
        self.train, self.test, names = open_masked(options)
        self.names = segment_classes(names, labelled=bool(names))
        self._test_identity = _identity(self.test)
        self._parts: dict[int, tuple[Labelled, str]] = {}

    def part(self, seed: int) -> Labelled:
        """The training images that are used with a seed: all, or the share --label-fraction of them."""
        return self._part(seed)[0]

    def __call__(self, encoder: Encoder, seed: int) -> Measured:
        """What one encoder's patches tell of the masks. UserError."""
        decided = {
            "protocol": "segment",
            "encoder": encoder.identity(),
            "train": self._part(seed)[1],
            "test": self._test_identity,
            "classes": self.names,
            "settings": {"seed": seed, "dense_size": self.options.dense_size},
        }
        found = self.cells.find(decided, Measured)
        if found is None:
            found = segmentation(
                encoder, self.part(seed), self.test, len(self.names), self.options, seed=seed, quiet=self.quiet
            )
            self.cells.keep(decided, found)
        return found

    def row(self, found: Sequence[Measured]) -> dict[str, Any]:
        """The row of an encoder from what each seed gave."""
        return segment_row(found, self.names, self.options.seed)

    def _part(self, seed: int) -> tuple[Labelled, str]:
        key = -1 if self.options.label_fraction == 1 else seed
        if key not in self._parts:
            chosen = balanced_share(self.train.labels, self.options.label_fraction, seed)
            part = self.train if key < 0 else self.train.select(chosen)
            self._parts[key] = part, _identity(part)
        return self._parts[key]


class PropagateJudge:
    """``propagate`` for the encoders of one evaluation."""

    def __init__(self, options: EvaluateOptions, cells: Cells, quiet: bool) -> None:
        self.options, self.cells, self.quiet = options, cells, quiet
        self.source = open_test(options)
        if not self.source.has_masks:
            raise UserError(f"{self.source.name} has no masks: propagate needs frames NAME.jpg with NAME_mask.png")
        self._test_identity = _identity(unlabelled(self.source))

    def __call__(self, encoder: Encoder, seed: int) -> Measured:
        """How well one encoder carries masks; nothing is drawn, so that a seed makes no difference. UserError."""
        options = self.options
        decided = {
            "protocol": "propagate",
            "encoder": encoder.identity(),
            "test": self._test_identity,
            "settings": {
                "dense_size": options.dense_size,
                "context_frames": options.context_frames,
                "radius": options.radius,
            },
        }
        found = self.cells.find(decided, Measured)
        if found is None:
            found = propagation(encoder, self.source, options, quiet=self.quiet)
            self.cells.keep(decided, found)
        return found

    def row(self, found: Sequence[Measured]) -> dict[str, Any]:
        """The row of an encoder from what each seed gave."""
        return propagate_row(found, self.options.seed)


def _identity(part: Labelled) -> str:
    """sha256 of what identifies a part, and of up to 32 evenly spaced masks of it."""
    digest = hashlib.sha256(part.identity().encode())
    for i in np.unique(np.linspace(0, len(part) - 1, _LOOKED_AT).astype(int)):
        try:
            mask = part.source.read_mask(int(i))
            digest.update(b"none" if mask is None else np.packbits(mask).tobytes())
        except (BadImage, OSError):
            digest.update(b"unreadable")
    return digest.hexdigest()
