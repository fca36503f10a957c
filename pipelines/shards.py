"""One shard of maps from its pairs alone: decoded by threads, mapped in batches, written whole.

Nothing here depends on another shard, so the same pairs give the same bytes on any machine of a kind, in any order.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipelines.geometry import central_box
from pipelines.images import BadImage, decode_rgb
from pipelines.pairs import Pair
from saliency.files import write_text_atomically
from saliency.manifest import Shard
from saliency.maps import FULL, Box, quantise
from saliency.table import Row, write_shard
from saliency.towers import Tower
from saliency.windows import map_windows, squash_windows

SMALLEST_SIDE = 4
"""Pixels; a smaller image has nothing to look at."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Prepared:
    """A pair ready for the model: its row (but for the score) and the pixels of its windows, uint8 [T, 3, S, S]."""

    row: Row
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Rejected:
    """A pair that can't have a map, and why."""

    key: str
    caption: str | None
    reason: str


@dataclass
class ShardMaps:
    """The maps of one shard as they come, batch by batch: a row and a raw map [G, G] for every good pair."""

    tower: Tower
    method: str
    grid: int
    tiles: int = 1
    rows: list[Row] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    texts: dict[str, Tensor] = field(default_factory=dict)
    """Of this shard alone: with another's, a resumed run would encode its texts in other batches."""

    def add(self, batch: list[Prepared]) -> None:
        """Make the maps of a batch; a map that is not finite rejects its pair."""
        captions = [item.row.caption for item in batch]
        new = sorted(set(captions) - self.texts.keys())
        if new:
            self.texts.update(zip(new, self.tower.encode_texts(new), strict=True))
        pixels = torch.from_numpy(np.stack([item.pixels for item in batch]))
        features = torch.stack([self.texts[caption] for caption in captions])
        raw, scores = map_windows(self.tower, pixels, features, method=self.method, tiles=self.tiles, grid=self.grid)
        for item, values, score in zip(batch, raw.cpu(), scores.tolist(), strict=True):
            if math.isfinite(score) and bool(values.isfinite().all()):
                self.rows.append(replace(item.row, clip_score=score))
                self.maps.append(values)
            else:
                reason = "the model gave a map that is not finite"
                self.rejected.append(Rejected(item.row.key, item.row.caption, reason))

    def write(self, out: Path, name: str, metadata: dict[str, Any]) -> Shard:
        """Write the rejects, then the table; what the manifest is to say of them."""
        rejects = out / "rejected" / f"{Path(name).stem}.jsonl"
        if self.rejected:
            lines = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in self.rejected)
            write_text_atomically(rejects, lines)
        else:
            rejects.unlink(missing_ok=True)  # of a stopped run whose source was mended since
        raw = torch.stack(self.maps).numpy() if self.maps else np.zeros((0, self.grid, self.grid), np.float32)
        path = out / "data" / name
        write_shard(path, self.rows, *quantise(raw), metadata)
        written, rejected = len(self.rows), len(self.rejected)
        return Shard(name, hashlib.sha256(path.read_bytes()).hexdigest(), written + rejected, written, rejected)


def map_shard(
    pairs: list[Pair],
    tower: Tower,
    executor: Executor,
    *,
    method: str,
    grid: int,
    fit: str,
    batch_size: int,
    tiles: int = 1,
    step: Callable[[], object] = lambda: None,
) -> ShardMaps:
    """The maps of a shard's pairs; ``executor`` decodes ahead of the model, ``step`` is called after every pair."""
    shard = ShardMaps(tower, method, grid, tiles)
    batch: list[Prepared] = []
    for item in prefetch(executor, lambda pair: prepare(pair, tower, fit, tiles), pairs, depth=2 * batch_size):
        step()
        if isinstance(item, Rejected):
            shard.rejected.append(item)
            continue
        batch.append(item)
        if len(batch) == batch_size:
            shard.add(batch)
            batch = []
    if batch:
        shard.add(batch)
    return shard


def prepare(pair: Pair, tower: Tower, fit: str, tiles: int = 1) -> Prepared | Rejected:
    """Read, decode and resize one pair's image, or say why that can't be done."""
    if pair.duplicate:
        return Rejected(pair.key, pair.caption, "duplicate: an earlier pair has this key and caption")
    if pair.caption is None or not pair.caption.strip():
        return Rejected(pair.key, pair.caption, "no caption")
    try:
        data = pair.read()
        image = decode_rgb(data)
    except (BadImage, OSError) as error:
        return Rejected(pair.key, pair.caption, " ".join(str(error).split()))
    if min(image.size) < SMALLEST_SIDE:
        return Rejected(pair.key, pair.caption, f"image of {image.width}×{image.height} pixels is too small")
    box = _seen_box(image, fit)
    row = Row(
        key=pair.key,
        url=pair.url,
        caption=pair.caption,
        image_sha256=hashlib.sha256(data).hexdigest(),
        width=image.width,
        height=image.height,
        crop_box=box,
        clip_score=math.nan,
    )
    return Prepared(row, squash_windows(tower, image, box, tiles))


def prefetch(executor: Executor, function: Callable[[T], R], items: Iterable[T], *, depth: int) -> Iterator[R]:
    """``map`` over threads, in order, with at most ``depth`` results under way."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(executor.submit(function, item))
        if len(waiting) >= depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _seen_box(image: Image.Image, fit: str) -> Box:
    """The part of the image the model sees: all of it, or the central square."""
    return FULL if fit == "squash" else central_box(image.width, image.height, 1.0)
