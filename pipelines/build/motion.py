"""``build-saliency --method motion`` and ``frame-difference``: maps of what moves in videos, by no model.

See :mod:`pipelines.sources.video.motion` for the maps of frames. A slot's map is the mean over its frames.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.build.append import pairs_without_map
from pipelines.build.engines.pair_by_pair import Made, make_here, row_without_clip, unmappable
from pipelines.build.maps_folder import Engine
from pipelines.build.options import BuildOptions
from pipelines.build.pairs import open_pairs
from pipelines.build.shard_plan import NOT_OF_A_MAP, Plan
from pipelines.commandline.machine import half_the_cores
from pipelines.commandline.terminal import warn
from pipelines.errors import UserError
from pipelines.sources.images import BadImage
from pipelines.sources.source import Rejected, Source, Video, hash_pairs
from pipelines.sources.video.motion import motion_of
from pipelines.sources.video.slots import slot_means
from saliency import __version__
from saliency.maps import FULL
from saliency.resample import fit_grid
from saliency.table.imported import NO_CLIP
from saliency.table.shard import version_of

GRID = 16
"""Cells a side where nothing is asked for."""


@dataclass
class MotionJob:
    """A build of such maps made ready; ``settings`` decide the output's bytes."""

    source: Source
    plan: Plan
    settings: dict[str, Any]
    method: str
    slots: int
    per_slot: bool
    workers: int
    encoded: list[str] = field(default_factory=list)
    """Keys of videos that carry no motion vectors."""

    def engine(self) -> Engine:
        """What makes the shards."""
        metadata = {name: value for name, value in self.settings.items() if name not in NOT_OF_A_MAP}
        return partial(make_here, self._pair, self.plan, metadata, self.workers)

    def warn_of_encoded(self) -> None:
        """Say how many videos carry no motion vectors."""
        if self.encoded:
            warn([f"{len(self.encoded)} of {len(self.source)} videos carry no motion vectors (folders of frames, HEVC, "
                  f"VP9 and AV1 do not), first: {min(self.encoded)}; their frames were encoded as H.264 to find "
                  "them"])  # fmt: skip

    def _pair(self, pair: int) -> Made | Rejected:
        """A pair's row and maps, or why it has none."""
        bad = unmappable(self.source, pair)
        if bad is not None:
            return bad
        try:
            digest = hashlib.sha256(self.source.read_image(pair)).hexdigest()
            video = self.source.open_video(pair)
            maps = self._maps(video, self.source.keys[pair].as_py())
        except (BadImage, OSError) as error:
            reason = " ".join(str(error).split())
            return Rejected(self.source.keys[pair].as_py(), self.source.caption(pair), reason)
        return row_without_clip(self.source, pair, digest, video.size, FULL), maps

    def _maps(self, video: Video, key: str) -> NDArray[np.float32]:
        frames, carried = motion_of(video, self.method)
        if not carried:
            self.encoded.append(key)
        means = torch.from_numpy(slot_means(frames, video.times, self.slots))
        maps: NDArray[np.float32] = fit_grid(means, int(self.settings["grid"])).numpy()
        return maps if self.per_slot else maps[(self.slots - 1) // 2]


def open_motion(options: BuildOptions) -> MotionJob:
    """Open the source and settle everything that decides the output. Raises UserError."""
    source = open_pairs(options)
    if not isinstance(source, Source) or source.videos is None:
        raise UserError(
            f"--method {options.method} is for videos, and {options.source} is a source of images; folders of frames "
            "are clips with --clips"
        )
    if options.append:
        source = pairs_without_map(source, options.out)
    per_slot = options.clip_maps_kind == "per-slot"
    settings = {
        **version_of(options.slots if per_slot else 1),
        "grid": options.grid or GRID,
        "clip": NO_CLIP,
        "method": options.method,
        "package_version": __version__,
        "pairs": len(source),
        "pairs_sha256": hash_pairs(source),
        "shard_size": options.shard_size,
    }
    plan = Plan(len(source), options.shard_size, options.shard)
    workers = options.workers or half_the_cores()
    return MotionJob(source, plan, settings, options.method, options.slots, per_slot, workers)
