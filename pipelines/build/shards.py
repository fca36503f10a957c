"""Shards of maps from their pairs alone: decoded by threads, mapped in batches, written whole.

Nothing a shard computes depends on another shard, so the same pairs give the same bytes on any machine of a kind, in
any order; what overlaps is only the time: images of the next shard are decoded while this one's are mapped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.build.maps_folder import write_maps
from pipelines.build.model_input import Prepared, prepare_pairs
from pipelines.build.pairs import Pair, by_image
from pipelines.build.stages import CUT, MODEL, READ, STARVED, TEXTS, WRITE, Stages
from pipelines.prefetch import prefetch
from pipelines.sources.source import Rejected
from saliency.methods.windows import map_windows, windows
from saliency.table.manifest import Shard
from saliency.table.table import Row
from saliency.towers.texts import cut_texts
from saliency.towers.tower import Tower


@dataclass(frozen=True)
class Recipe:
    """What decides a map beside its pair and the tower; the batch size moves the last bits only."""

    method: str
    grid: int
    tiles: int
    fit: str
    batch_size: int
    static: bool = False
    """Every batch has the same size, the last ones filled up: for a compiled model."""
    slots: int = 1
    """Frames of a clip that have a map each; more than one only where there is one window."""

    @property
    def images_at_once(self) -> int:
        """Images a batch, so that it holds ``batch_size`` windows or frames: at least one image."""
        return max(1, self.batch_size // (len(windows(self.tiles)) * self.slots))


@dataclass
class ShardMaps:
    """The maps of one shard, batch by batch: a row and a raw map, [G, G] or [K, G, G] of slots, for every good pair."""

    tower: Tower
    recipe: Recipe
    stages: Stages
    rows: list[Row] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    texts: dict[str, Tensor] = field(default_factory=dict)
    """Of this shard alone: with another's, a resumed run would encode its texts in other batches."""
    cut: set[str] = field(default_factory=set)
    """The texts that are longer than the model's context."""
    _batch: list[Prepared] = field(default_factory=list)
    _running: _Running | None = None

    def take(self, item: Prepared | Rejected) -> None:
        """Take in an image with its captions, or a pair that has none; a full batch is sent to the model."""
        if isinstance(item, Rejected):
            self.rejected.append(item)
            return
        self._batch.append(item)
        if len(self._batch) == self.recipe.images_at_once:
            self._launch()

    def finish(self) -> ShardMaps:
        """Send what is left to the model and collect all maps."""
        if self._batch:
            self._launch()
        self._collect()
        return self

    def _launch(self) -> None:
        """Start the maps of the batch, then collect those of the batch before, which a GPU has finished by now."""
        rows = [item.rows for item in self._batch]
        with self.stages.time(MODEL):
            pixels = torch.from_numpy(np.stack([item.pixels for item in self._batch]))
        self._batch = []  # its pixels are in the stack; kept twice, windows would take gigabytes
        with self.stages.time(TEXTS):
            features = self._features([[row.caption for row in of_image] for of_image in rows])
        with self.stages.time(MODEL):
            recipe = self.recipe
            if recipe.static and len(rows) < recipe.images_at_once:
                filled = [i % len(rows) for i in range(recipe.images_at_once)]
                pixels, features = pixels[filled], features[:, filled]
            if recipe.slots > 1:
                pixels, features = pixels.flatten(0, 1)[:, None], features.repeat_interleave(recipe.slots, dim=1)
            raw, scores = map_windows(
                self.tower,
                pixels,
                features,
                method=recipe.method,
                tiles=recipe.tiles,
                grid=recipe.grid,
                at_once=recipe.batch_size,
            )
            if recipe.slots > 1:
                raw = raw.reshape(len(raw), -1, recipe.slots, *raw.shape[2:])
                scores = scores.reshape(len(scores), -1, recipe.slots).mean(2)
            running = _Running(rows, raw, scores)
        self._collect()
        self._running = running

    def _features(self, captions: list[list[str]]) -> Tensor:
        """The texts of a batch, [K, B, D]; an image with fewer captions than others has its last one again."""
        flat = list(itertools.chain.from_iterable(captions))
        new = sorted(set(flat) - self.texts.keys())
        if new:
            self.texts.update(zip(new, self.tower.encode_texts(new), strict=True))
            self.cut.update(itertools.compress(new, cut_texts(self.tower.tokenizer, new)))
        self.stages.add({CUT: sum(caption in self.cut for caption in flat)})
        rounds = range(max(map(len, captions)))
        return torch.stack(
            [torch.stack([self.texts[each[min(k, len(each) - 1)]] for each in captions]) for k in rounds]
        )

    def _collect(self) -> None:
        """Keep the maps of the batch under way; one that is not finite rejects its pair."""
        if self._running is None:
            return
        with self.stages.time(MODEL):
            done = list(self._running.wait())
        self._running = None
        for row, values, score in done:
            if math.isfinite(score) and bool(values.isfinite().all()):
                self.rows.append(replace(row, clip_score=score))
                self.maps.append(values)
            else:
                self.rejected.append(Rejected(row.key, row.caption, "the model gave a map that is not finite"))

    def write(self, out: Path, name: str, metadata: dict[str, Any]) -> Shard:
        """Write the rejects, then the table; what the manifest is to say of them."""
        with self.stages.time(WRITE):
            grid, slots = self.recipe.grid, self.recipe.slots
            none = np.zeros((0, grid, grid) if slots == 1 else (0, slots, grid, grid), np.float32)
            raw = torch.stack(self.maps).numpy() if self.maps else none
            return write_maps(out, name, self.rows, raw, self.rejected, metadata)


class _Running:
    """A batch whose maps may still be under way on a GPU; their copies to the host are queued behind them."""

    def __init__(self, rows: list[list[Row]], maps: Tensor, scores: Tensor) -> None:
        self._rows = rows
        self._maps, self._scores = maps.to("cpu", non_blocking=True), scores.to("cpu", non_blocking=True)
        self._event = None
        if maps.is_cuda:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(maps.device))

    def wait(self) -> Iterator[tuple[Row, Tensor, float]]:
        """The row, map [G, G] and score of every pair, without what the batch was filled up with."""
        if self._event is not None:
            self._event.synchronize()
        scores = self._scores.tolist()
        for number, of_image in enumerate(self._rows):
            maps = self._maps[: len(of_image), number].clone()
            for k, row in enumerate(of_image):
                yield row, maps[k], scores[k][number]


def map_shards(
    pairs: Iterable[tuple[int, Pair]],
    tower: Tower,
    executor: Executor,
    recipe: Recipe,
    stages: Stages,
    progress: Callable[[int], object] = lambda _pairs: None,
) -> Iterator[tuple[int, ShardMaps]]:
    """The shards of pairs that come with their shard's number, each as soon as its last map is made.

    ``executor`` decodes ahead of the model, across the ends of shards; ``progress`` is told of every pair.
    """

    def work(numbered: tuple[int, list[Pair]]) -> tuple[int, int, list[Prepared | Rejected]]:
        number, pairs = numbered
        return number, len(pairs), prepare_pairs(pairs, tower, recipe.fit, recipe.tiles, stages, recipe.slots)

    current: int | None = None
    shard = ShardMaps(tower, recipe, stages)
    depth = max(2 * recipe.images_at_once, 4)
    with closing(prefetch(executor, work, by_image(_timed(pairs, stages)), depth=depth)) as items:
        while True:
            with stages.time(STARVED):
                done = next(items, None)
            if current is not None and (done is None or done[0] != current):
                yield current, shard.finish()
                shard = ShardMaps(tower, recipe, stages)
            if done is None:
                return
            current, count, prepared = done
            for item in prepared:
                shard.take(item)
            stages.pairs += count
            progress(count)


def _timed(pairs: Iterable[tuple[int, Pair]], stages: Stages) -> Iterator[tuple[int, Pair]]:
    """The pairs, with the time it takes to draw them counted as reading: of a stream, that is where the images come."""
    source = iter(pairs)
    while True:
        with stages.time(READ):
            pair = next(source, None)
        if pair is None:
            return
        yield pair
