"""``build-saliency``: pairs in, a maps folder out.

The shard is the unit: its pairs are decoded by threads, their maps made in batches, and its file appears whole or not
at all. Nothing a shard computes depends on another shard, so a run that was stopped anywhere and started again ends
byte-identical to one that was not. Pairs that fail are written to ``rejected/`` with their reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipelines.columns import Captions
from pipelines.errors import UserError, user_errors
from pipelines.pairs import Pair, hash_pairs, read_pairs
from pipelines.shards import map_shard
from pipelines.sources import Source, StreamSource, open_source
from saliency import __version__
from saliency.files import remove_leftovers
from saliency.manifest import Manifest, Shard, open_manifest
from saliency.methods import METHODS, check_method
from saliency.table import SCHEMA_VERSION
from saliency.towers import DEMO_CLIP, Tower, load_tower
from saliency.windows import windows

DEFAULT_CLIP = ("ViT-B-16", "openai")

_NOT_OF_A_MAP = ("pairs", "pairs_sha256", "shard_size")  # settings of the build, not of its maps
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
    clip_size: int | None = None
    tiles: int = 1
    precision: str = "auto"
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
        windows(self.tiles)
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(f"--max-rejected is {self.max_rejected}; it must be between 0 and 1")


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
        check_method(options.method, tower)
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
    return load_tower(clip, pretrained, device=options.device, precision=options.precision)


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
        "tiles": options.tiles,
        "precision": tower.precision,
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
    metadata = {name: manifest.settings[name] for name in manifest.settings if name not in _NOT_OF_A_MAP}
    pairs = read_pairs(source, skip=manifest.taken)
    with (
        closing(tqdm(total=total, initial=manifest.taken, unit="pair", disable=quiet, smoothing=0.1)) as bar,
        ThreadPoolExecutor(options.workers) as executor,
    ):
        try:
            for chunk in _chunks(pairs, options.shard_size):
                shard = map_shard(
                    chunk,
                    tower,
                    executor,
                    method=options.method,
                    grid=metadata["grid"],
                    tiles=options.tiles,
                    fit=options.fit,
                    batch_size=options.batch_size,
                    step=bar.update,
                )
                name = _shard_name(len(manifest.shards), shard_count)
                manifest.shards.append(shard.write(options.out, name, metadata))
                manifest.save(options.out)
                _check_rejected(manifest, options, final=False)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
    if shard_count is None:
        _give_final_names(options.out, manifest)
    manifest.complete = True
    manifest.save(options.out)


def _chunks(pairs: Iterator[Pair], size: int) -> Iterator[list[Pair]]:
    chunk: list[Pair] = []
    for pair in pairs:
        chunk.append(pair)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


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
