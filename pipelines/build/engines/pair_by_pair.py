"""Shards of maps that need no model: each pair's map is made by itself, by threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.build.maps_folder import write_maps
from pipelines.build.shard_plan import Plan
from pipelines.build.stages import Stages
from pipelines.prefetch import prefetch
from pipelines.sources.source import Rejected, Source
from saliency.table.imported import NO_SCORE
from saliency.table.manifest import Shard
from saliency.table.shard import slots_of
from saliency.table.table import Row

Made = tuple[Row, NDArray[np.float32]]
"""A pair's row and its raw map [G, G], or [K, G, G] of K slots."""


def make_here(
    make: Callable[[int], Made | Rejected],
    plan: Plan,
    metadata: dict[str, Any],
    workers: int,
    numbers: Iterable[int],
    out: Path,
    keep: Callable[[Shard], None],
    stages: Stages,
    progress: Callable[[int], None],
) -> None:
    """Make some shards and write them to ``out``; ``make`` is called ahead, in threads, with the numbers of pairs."""
    grid, slots = int(metadata["grid"]), slots_of(metadata)
    none = np.zeros((0, grid, grid) if slots == 1 else (0, slots, grid, grid), np.float32)
    with ThreadPoolExecutor(workers) as readers:
        try:
            for number in numbers:
                rows, maps, rejected = list[Row](), list[NDArray[np.float32]](), list[Rejected]()
                with closing(prefetch(readers, make, plan.rows(number), depth=4 * workers)) as pairs:
                    for found in pairs:
                        if isinstance(found, Rejected):
                            rejected.append(found)
                        else:
                            rows.append(found[0])
                            maps.append(found[1])
                        stages.pairs += 1
                        progress(1)
                raw = np.stack(maps) if maps else none
                keep(write_maps(out, plan.name(number), rows, raw, rejected, metadata))
        finally:
            readers.shutdown(wait=False, cancel_futures=True)


def unmappable(source: Source, pair: int) -> Rejected | None:
    """Why a pair can have no map, whatever its image shows; None if it can."""
    key, caption = source.keys[pair].as_py(), source.caption(pair)
    if source.repeated[pair]:
        return Rejected(key, caption, "duplicate: an earlier pair has this key and caption")
    if caption is None and source.has_captions:  # without one it would join no pair of this source
        return Rejected(key, caption, source.fault(pair) or "no caption")
    return None


def row_without_clip(
    source: Source, pair: int, sha256: str, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Row:
    """The row of a pair whose map no CLIP made; ``size`` is the image's (width, height)."""
    url = None if source.urls is None else source.urls[pair].as_py()
    return Row(source.keys[pair].as_py(), url, source.caption(pair) or "", sha256, *size, box, NO_SCORE)
