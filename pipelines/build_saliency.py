"""``build-saliency``: pairs in, a maps folder out.

The shard is the unit: its pairs are decoded by threads, their maps made in batches, and its file appears whole or not
at all. Nothing a shard computes depends on another shard, so a run that was stopped anywhere and started again ends
byte-identical to one that was not. Pairs that fail are written to ``rejected/`` with their reason.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from pipelines.columns import Captions
from pipelines.errors import UserError, user_errors
from pipelines.images import BadImage, decode_rgb
from pipelines.pairs import Pair, hash_pairs, read_pairs
from pipelines.sources import Source, StreamSource, open_source
from saliency import __version__
from saliency.files import remove_leftovers, write_text_atomically
from saliency.gradcam import METHODS, saliency_maps
from saliency.manifest import Manifest, Shard, open_manifest
from saliency.maps import FULL, Box, fit_grid, quantise
from saliency.table import SCHEMA_VERSION, Row, write_shard
from saliency.towers import DEMO_CLIP, Tower, load_tower

DEFAULT_CLIP = ("ViT-B-16", "openai")
SMALLEST_SIDE = 4
"""Pixels; a smaller image has nothing to look at."""

T = TypeVar("T")
R = TypeVar("R")

_EARLY_CHECK = 1000  # pairs after which a hopeless source stops the run before its end


@dataclass(frozen=True)
class BuildOptions:
    """What ``build-saliency`` was asked for; the CLI's options under the same names."""

    source: str
    out: Path
    clip: str | None = None
    pretrained: str | None = None
    method: str = "gradcam"
    grid: int | None = None
    fit: str = "squash"
    batch_size: int = 64
    workers: int = 2
    shard_size: int = 4096
    max_rejected: float = 0.01
    image_column: str | None = None
    caption_column: str | None = None
    captions: Captions = "first"
    limit: int | None = None
    split: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, value in (
            ("batch-size", self.batch_size),
            ("workers", self.workers),
            ("shard-size", self.shard_size),
        ):
            if value < 1:
                raise ValueError(f"--{name} is {value}; it must be at least 1")
        if self.grid is not None and not 1 <= self.grid <= 256:
            raise ValueError(f"--grid is {self.grid}; it must be between 1 and 256")
        if self.fit not in ("squash", "crop"):
            raise ValueError(f"--fit is {self.fit!r}; it must be squash or crop")
        if self.method not in METHODS:
            raise ValueError(f"--method is {self.method!r}; it must be one of {', '.join(METHODS)}")
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(f"--max-rejected is {self.max_rejected}; it must be between 0 and 1")


@dataclass(frozen=True)
class Prepared:
    """A pair ready for the model: its row (but for the score) and its pixels, uint8 [3, S, S]."""

    row: Row
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Rejected:
    """A pair that can't have a map, and why."""

    key: str
    caption: str | None
    reason: str


def build_saliency(options: BuildOptions, *, quiet: bool = False) -> Manifest:
    """Make the maps of every pair of a source; returns the finished manifest.

    Raises UserError for a mistake in the options, a source without captions, an output folder of another run, or more
    rejected pairs than ``max_rejected``; whatever was written until then stays and is not made again.
    """
    source = open_source(
        options.source,
        image_column=options.image_column,
        caption_column=options.caption_column,
        captions=options.captions,
        limit=options.limit,
        split=options.split,
    )
    if isinstance(source, Source) and source.captions is None:
        raise UserError(
            f"{options.source} has no captions: a map needs an image and a text; name one with --caption-column"
        )
    with user_errors():
        tower = load_clip(options)
        grid = options.grid or max(tower.grid)
        settings = _settings(options, tower, grid, source)
        origin: dict[str, Any] = {
            "source": options.source,
            "split": options.split,
            "image_column": options.image_column,
        }
        origin |= {"caption_column": options.caption_column, "captions": options.captions, "limit": options.limit}
        origin |= {"clip": options.clip, "pretrained": options.pretrained}
        manifest = open_manifest(options.out, settings, origin)
    if not manifest.complete:
        options.out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(options.out)
        manifest.save(options.out)
        _write_shards(options, source, tower, manifest, quiet)
    _check_rejected(manifest, options, final=True)
    return manifest


def load_clip(options: BuildOptions) -> Tower:
    """The tower that was asked for: by default the shipped one for the built-in scenes, else OpenAI's ViT-B-16."""
    clip, pretrained = options.clip, options.pretrained
    if clip is None and options.source.startswith("shapes:"):
        clip = f"local-dir:{DEMO_CLIP}"
    elif clip is None:
        clip, pretrained = DEFAULT_CLIP[0], pretrained or DEFAULT_CLIP[1]
    return load_tower(clip, pretrained, device=options.device)


def _settings(options: BuildOptions, tower: Tower, grid: int, source: Source | StreamSource) -> dict[str, Any]:
    """Everything that decides the output's bytes, but for the batch size (which moves the last bits only)."""
    clip = "demo" if options.clip is None and options.source.startswith("shapes:") else options.clip
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "grid": grid,
        "clip": clip or DEFAULT_CLIP[0],
        "pretrained": options.pretrained if clip else options.pretrained or DEFAULT_CLIP[1],
        "weights_sha256": tower.weights_sha256,
        "method": options.method,
        "layer": tower.layer.name,
        "fit": options.fit,
        "image_size": tower.size,
        "interpolation": tower.interpolation,
        "package_version": __version__,
    }
    pairs: dict[str, Any] = {"pairs": options.source}
    if isinstance(source, Source):
        pairs = {"pairs": len(source), "pairs_sha256": hash_pairs(source)}
    return metadata | pairs | {"shard_size": options.shard_size}


def _write_shards(
    options: BuildOptions, source: Source | StreamSource, tower: Tower, manifest: Manifest, quiet: bool
) -> None:
    total = len(source) if isinstance(source, Source) else None
    shard_count = None if total is None else math.ceil(total / options.shard_size)
    done = len(manifest.shards)
    pairs = read_pairs(source, skip=manifest.taken)
    with (
        closing(tqdm(total=total, initial=manifest.taken, unit="pair", disable=quiet, smoothing=0.1)) as bar,
        ThreadPoolExecutor(options.workers) as executor,
    ):
        try:
            for index, chunk in enumerate(_chunks(pairs, options.shard_size), start=done):
                shard = _write_shard(options, tower, manifest, _shard_name(index, shard_count), chunk, executor, bar)
                manifest.shards.append(shard)
                manifest.save(options.out)
                _check_rejected(manifest, options, final=False)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
    if shard_count is None:
        _give_final_names(options.out, manifest)
    manifest.complete = True
    manifest.save(options.out)


def _write_shard(
    options: BuildOptions,
    tower: Tower,
    manifest: Manifest,
    name: str,
    pairs: list[Pair],
    executor: Executor,
    bar: Any,
) -> Shard:
    """Make one shard from its pairs alone; its rejects are written before its data, the manifest after both."""
    metadata = {
        key: value for key, value in manifest.settings.items() if key not in ("pairs", "pairs_sha256", "shard_size")
    }
    rows: list[Row] = []
    maps: list[Tensor] = []
    rejected: list[Rejected] = []
    texts: dict[str, Tensor] = {}  # of this shard alone: with another's, a resumed run would batch texts differently

    def flush(batch: list[Prepared]) -> None:
        new = sorted({item.row.caption for item in batch} - texts.keys())
        texts.update(zip(new, tower.encode_texts(new), strict=True) if new else ())
        pixels = torch.from_numpy(np.stack([item.pixels for item in batch]))
        features = torch.stack([texts[item.row.caption] for item in batch])
        raw, scores = saliency_maps(tower, pixels, features, method=options.method)
        raw = fit_grid(raw, int(metadata["grid"])).cpu()
        for item, values, score in zip(batch, raw, scores.cpu().tolist(), strict=True):
            if math.isfinite(score) and bool(values.isfinite().all()):
                rows.append(Row(**asdict(item.row) | {"clip_score": score}))
                maps.append(values)
            else:
                rejected.append(Rejected(item.row.key, item.row.caption, "the model gave a map that is not finite"))

    batch: list[Prepared] = []
    for item in _prefetch(
        executor, lambda pair: _prepare(pair, tower, options.fit), pairs, depth=2 * options.batch_size
    ):
        bar.update()
        if isinstance(item, Rejected):
            rejected.append(item)
            continue
        batch.append(item)
        if len(batch) == options.batch_size:
            flush(batch)
            batch = []
    if batch:
        flush(batch)
    grid = int(metadata["grid"])
    raw = torch.stack(maps).numpy() if maps else np.zeros((0, grid, grid), np.float32)
    if rejected:
        lines = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in rejected)
        write_text_atomically(options.out / "rejected" / f"{Path(name).stem}.jsonl", lines)
    path = options.out / "data" / name
    write_shard(path, rows, *quantise(raw), metadata)
    return Shard(name, hashlib.sha256(path.read_bytes()).hexdigest(), len(pairs), len(rows), len(rejected))


def _prepare(pair: Pair, tower: Tower, fit: str) -> Prepared | Rejected:
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
    return Prepared(row, tower.squash(image, box))


def _seen_box(image: Image.Image, fit: str) -> Box:
    """The part of the image the model sees: all of it, or the central square."""
    if fit == "squash":
        return FULL
    side = min(image.size)
    x, y = (1 - side / image.width) / 2, (1 - side / image.height) / 2
    return (x, y, 1 - x, 1 - y)


def _chunks(pairs: Iterator[Pair], size: int) -> Iterator[list[Pair]]:
    chunk: list[Pair] = []
    for pair in pairs:
        chunk.append(pair)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _prefetch(executor: Executor, function: Callable[[T], R], items: Iterable[T], *, depth: int) -> Iterator[R]:
    """``map`` over threads, in order, with at most ``depth`` results under way."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(executor.submit(function, item))
        if len(waiting) >= depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _shard_name(index: int, count: int | None) -> str:
    return f"train-{index:05d}.parquet" if count is None else f"train-{index:05d}-of-{count:05d}.parquet"


def _give_final_names(out: Path, manifest: Manifest) -> None:
    """Rename the shards of a stream, whose number is known only at its end."""
    count = len(manifest.shards)
    for index, shard in enumerate(manifest.shards):
        final = _shard_name(index, count)
        if (out / "data" / shard.file).exists():
            (out / "data" / shard.file).replace(out / "data" / final)
        manifest.shards[index] = Shard(final, shard.sha256, shard.taken, shard.written, shard.rejected)


def _check_rejected(manifest: Manifest, options: BuildOptions, *, final: bool) -> None:
    if not final and manifest.taken < _EARLY_CHECK:
        return
    if manifest.rejected > options.max_rejected * manifest.taken:
        share = manifest.rejected / manifest.taken
        raise UserError(
            f"{manifest.rejected} of {manifest.taken} pairs ({share:.1%}) were rejected, more than --max-rejected "
            f"{options.max_rejected:g}; the reasons are in {options.out / 'rejected'}, "
            f"the {manifest.written} good maps are kept: "
            "mend the source, or run the same command with a higher --max-rejected"
        )
