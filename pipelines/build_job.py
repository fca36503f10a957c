"""A build made ready: its options, its source and model opened, and all that decides its output settled.

Every machine that makes shards of one build opens the same job; ``settings`` tell whether it is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.columns import Captions
from pipelines.errors import UserError, user_errors
from pipelines.pairs import hash_pairs
from pipelines.plan import Plan
from pipelines.random_access import open_videos
from pipelines.shards import Recipe
from pipelines.sources import Source, StreamSource, open_source
from saliency import __version__
from saliency.methods import METHODS, check_method, layer_name
from saliency.table import SCHEMA_VERSION
from saliency.towers import DEMO_CLIP, Tower, load_tower
from saliency.windows import finest_grid, windows

DEFAULT_CLIP = ("ViT-B-16", "openai")
BUILT_IN = ("shapes:", "shapes-video:")
ENGINES = ("local", "ray")

_NOT_OF_A_MAP = ("pairs", "pairs_sha256", "shard_size")  # settings of the build, not of its maps


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
    compile: bool = False
    fit: str = "squash"
    batch_size: int = 64
    workers: int = 2
    shard_size: int = 4096
    shard: tuple[int, int] | None = None
    engine: str = "local"
    ray_workers: int | None = None
    max_rejected: float = 0.01
    image_column: str | None = None
    caption_column: str | None = None
    captions: Captions = "first"
    limit: int | None = None
    split: str | None = None
    clips: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        at_least_one = {"batch-size": self.batch_size, "workers": self.workers, "shard-size": self.shard_size}
        if self.ray_workers is not None:
            at_least_one["ray-workers"] = self.ray_workers
        for name, value in at_least_one.items():
            if value < 1:
                raise ValueError(f"--{name} is {value}; it must be at least 1")
        if self.grid is not None and not 1 <= self.grid <= 256:
            raise ValueError(f"--grid is {self.grid}; it must be between 1 and 256")
        if self.fit not in ("squash", "crop"):
            raise ValueError(f"--fit is {self.fit!r}; it must be squash or crop")
        if self.method not in METHODS:
            raise ValueError(f"--method is {self.method!r}; it must be one of {', '.join(METHODS)}")
        if self.compile and METHODS[self.method].deep:
            raise ValueError(f"--method {self.method} reads the blocks that --compile compiles; leave one of them out")
        windows(self.tiles)
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(f"--max-rejected is {self.max_rejected}; it must be between 0 and 1")
        if self.engine not in ENGINES:
            raise ValueError(f"--engine is {self.engine!r}; it must be one of {', '.join(ENGINES)}")
        if self.engine == "ray" and self.shard is not None:
            raise ValueError("--shard is for job arrays; --engine ray deals out the shards itself")

    @property
    def origin(self) -> dict[str, Any]:
        """Where the pairs and the model came from, for ``inspect`` to find them again; plays no part in the bytes."""
        names = ("source", "split", "image_column", "caption_column", "captions", "limit", "clip", "pretrained")
        return {name: getattr(self, name) for name in names} | ({"clips": True} if self.clips else {})


@dataclass(frozen=True)
class Job:
    """A build made ready: what a machine needs to make any of its shards. ``settings`` decide the output's bytes."""

    source: Source | StreamSource
    tower: Tower
    plan: Plan
    recipe: Recipe
    settings: dict[str, Any]

    @property
    def metadata(self) -> dict[str, Any]:
        """The settings that every shard's file carries."""
        return {name: value for name, value in self.settings.items() if name not in _NOT_OF_A_MAP}


def open_job(options: BuildOptions) -> Job:
    """Open the source, load the model and settle everything that decides the output. Raises UserError."""
    source = open_videos(options) if options.clips else _open_source(options)
    if isinstance(source, Source) and source.captions is None:
        raise UserError(
            f"{options.source} has no captions: a map needs an image and a text; "
            + ("write NAME.txt beside each clip" if options.clips else "name one with --caption-column")
        )
    if isinstance(source, StreamSource) and (options.shard or options.engine == "ray"):
        raise UserError(
            f"{options.source} is read as a stream, which can't be dealt out: download it (hf download --repo-type "
            "dataset --local-dir FOLDER) and give the folder"
        )
    with user_errors():
        tower = load_clip(options)
        check_method(options.method, tower)
        if options.compile:
            tower.compile()
        grid = options.grid or finest_grid(max(tower.grid), options.tiles)
        recipe = Recipe(options.method, grid, options.tiles, options.fit, options.batch_size, static=options.compile)
        settings = _settings(options, tower, grid, source)
    plan = Plan(len(source) if isinstance(source, Source) else None, options.shard_size, options.shard)
    return Job(source, tower, plan, recipe, settings)


def _open_source(options: BuildOptions) -> Source | StreamSource:
    return open_source(
        options.source,
        image_column=options.image_column,
        caption_column=options.caption_column,
        captions=options.captions,
        limit=options.limit,
        split=options.split,
    )


def load_clip(options: BuildOptions) -> Tower:
    """The tower that was asked for: by default the shipped one for the built-in scenes, else OpenAI's ViT-B-16."""
    clip, pretrained = options.clip, options.pretrained
    if clip is None and options.source.startswith(BUILT_IN):
        clip = f"local-dir:{DEMO_CLIP}"
    elif clip is None:
        clip, pretrained = DEFAULT_CLIP[0], pretrained or DEFAULT_CLIP[1]
    return load_tower(clip, pretrained, device=options.device, precision=options.precision, size=options.clip_size)


def _settings(options: BuildOptions, tower: Tower, grid: int, source: Source | StreamSource) -> dict[str, Any]:
    """Everything that decides the maps; batch size, threads, device and --compile move the last bits alone."""
    clip = "demo" if options.clip is None and options.source.startswith(BUILT_IN) else options.clip
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "grid": grid,
        "clip": clip or DEFAULT_CLIP[0],
        "pretrained": options.pretrained if clip else options.pretrained or DEFAULT_CLIP[1],
        "weights_sha256": tower.weights_sha256,
        "method": options.method,
        "layer": layer_name(options.method, tower),
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
