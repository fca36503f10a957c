"""A build made ready: its options, its source and model opened, and all that decides its output settled.

Every machine that makes shards of one build opens the same job; ``settings`` tell whether it is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.build.append import pairs_without_map
from pipelines.build.options import BuildOptions
from pipelines.build.pairs import open_pairs
from pipelines.build.shard_plan import NOT_OF_A_MAP, Plan
from pipelines.build.shards import Recipe
from pipelines.errors import UserError, user_errors
from pipelines.sources.formats import is_built_in
from pipelines.sources.open_source import StreamSource
from pipelines.sources.source import Source, hash_pairs
from pipelines.sources.tables.first_captions import captions_together
from saliency import __version__
from saliency.methods.methods import check_method, layer_name
from saliency.methods.windows import finest_grid
from saliency.table.shard import version_of
from saliency.towers.tower import DEMO_CLIP, Tower, load_tower

DEFAULT_CLIP = ("ViT-B-16", "openai")


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
        return {name: value for name, value in self.settings.items() if name not in NOT_OF_A_MAP}


def open_job(options: BuildOptions) -> Job:
    """Open the source, load the model and settle everything that decides the output. Raises UserError."""
    source = open_pairs(options)
    if isinstance(source, Source) and options.captions == "all":
        source = captions_together(source)
    if isinstance(source, Source) and source.captions is None:
        raise UserError(
            f"{options.source} has no captions: a map needs an image and a text; "
            + ("write NAME.txt next to each clip" if options.clips else "name one with --caption-column")
        )
    if options.clip_maps_kind == "per-slot" and (isinstance(source, StreamSource) or source.videos is None):
        raise UserError(
            f"--clip-maps per-slot is for videos, and {options.source} is a source of images; folders of frames are "
            "clips with --clips"
        )
    if isinstance(source, StreamSource) and (options.shard or options.engine == "ray"):
        raise UserError(
            f"{options.source} is read as a stream, which can't be dealt out: download it (hf download --repo-type "
            "dataset --local-dir FOLDER) and give the folder"
        )
    if options.append and isinstance(source, StreamSource):
        raise UserError(
            f"{options.source} is read as a stream, whose new pairs are not known before all is read: download it (hf "
            "download --repo-type dataset --local-dir FOLDER) and append the folder"
        )
    if options.append and isinstance(source, Source):
        source = pairs_without_map(source, options.out)
    with user_errors():
        tower = load_clip(options)
        recipe = recipe_of(options, tower)
        if options.compile:
            tower.compile()
        settings = _settings(options, tower, recipe, source)
    plan = Plan(len(source) if isinstance(source, Source) else None, options.shard_size, options.shard)
    return Job(source, tower, plan, recipe, settings)


def load_clip(options: BuildOptions) -> Tower:
    """The tower that was asked for: by default the shipped one for the built-in scenes, else OpenAI's ViT-B-16."""
    clip, pretrained = options.clip, options.pretrained
    if clip is None and is_built_in(options.source):
        clip = f"local-dir:{DEMO_CLIP}"
    elif clip is None:
        clip, pretrained = DEFAULT_CLIP[0], pretrained or DEFAULT_CLIP[1]
    return load_tower(clip, pretrained, device=options.device, precision=options.precision, size=options.clip_size)


def recipe_of(options: BuildOptions, tower: Tower) -> Recipe:
    """How maps are made of what the tower sees; ValueError if the method can't read the tower."""
    check_method(options.method, tower)
    grid = options.grid or finest_grid(max(tower.grid), options.tiles)
    slots = options.slots if options.clip_maps_kind == "per-slot" else 1
    return Recipe(
        options.method, grid, options.tiles, options.fit, options.batch_size, static=options.compile, slots=slots
    )


def _settings(options: BuildOptions, tower: Tower, recipe: Recipe, source: Source | StreamSource) -> dict[str, Any]:
    """Everything that decides the maps; batch size, threads, device and --compile move the last bits alone."""
    clip = "demo" if options.clip is None and is_built_in(options.source) else options.clip
    metadata = {
        **version_of(recipe.slots),
        "grid": recipe.grid,
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
