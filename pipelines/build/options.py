"""What ``build-saliency`` and ``merge`` can be asked for, checked before anything is opened."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pipelines.commandline.effects import Effect
from pipelines.commandline.option import Argument, Option, check_declared
from pipelines.commandline.shared_options import (
    DATA,
    MACHINE,
    SPEED,
    AllowOutside,
    CaptionColumn,
    CaptionsOfAnImage,
    Device,
    ImageColumn,
    Limit,
    Out,
    Precision,
    Rejects,
    SourcePlace,
    Split,
    Workers,
)
from saliency.names import METHOD_NAMES, MOTION_METHODS, OWN_WEIGHTS

MAPS = "Maps"
"""A panel of ``--help``."""


def parse_part(text: str) -> tuple[int, int]:
    """``i/n`` with 1 ≤ i ≤ n; ValueError otherwise."""
    first, _, second = text.partition("/")
    if first.isascii() and first.isdigit() and second.isascii() and second.isdigit() and 1 <= int(first) <= int(second):
        return int(first), int(second)
    raise ValueError(f"--shard {text!r} is not i/n with i from 1 to n, such as 3/8")


Fit = Literal["squash", "crop"]


@dataclass(frozen=True)
class BuildOptions:
    """What ``build-saliency`` was asked for; the CLI's options under the same names."""

    effects: ClassVar[tuple[Effect, ...]] = (
        Effect(("ray_workers",), lambda options: options.engine == "ray", "with --engine {engine}"),
        Effect(
            ("clip", "pretrained", "clip_size", "tiles", "fit", "compile", "precision", "batch_size", "device"),
            lambda options: not options.shows_motion,
            "with --method {method}",
            "it needs no model",
        ),
        Effect(("slots",), lambda options: options.takes_slots, "with --clip-maps {clip_maps_kind}"),
        Effect(("captions",), lambda options: not options.clips, "with --clips", "a clip has one caption"),
        Effect(
            ("pretrained",),
            lambda options: options.takes_weights,
            "with {shown_clip}",
            "that model has weights of its own",
        ),
    )

    source: SourcePlace
    out: Out
    clip: Annotated[
        str | None,
        Option(
            "OpenCLIP model: a name, hf-hub:… or local-dir:… [default: ViT-B-16, or the bundled model for shapes:N]"
        ),
    ] = None
    pretrained: Annotated[str | None, Option("Weights of --clip: a tag or a file [default: openai for ViT-B-16]")] = (
        None
    )
    method: Annotated[
        str,
        Option(
            "Method that computes the maps (docs/guide/maps.md). Those from gradcam++ to scorecam need "
            "pip install 'saliency-mae[cam]'. The last two show what moves in videos, and need no model.",
            choices=(*METHOD_NAMES, *MOTION_METHODS),
        ),
    ] = "gradcam"
    grid: Annotated[
        int | None, Option("Cells per side of a map, 256 at most [default: the model's patch grid]", panel=MAPS)
    ] = None
    clip_size: Annotated[
        int | None,
        Option("Side in pixels of the square that the model sees [default: the model's own]", panel=MAPS),
    ] = None
    tiles: Annotated[
        int,
        Option(
            "Also look at N × N overlapping windows for finer maps. This takes 1 + N² forward passes per image.",
            panel=MAPS,
        ),
    ] = 1
    fit: Annotated[
        Fit,
        Option("Squash the whole image into the model's square, or crop its centre.", panel=MAPS),
    ] = "squash"
    image_column: ImageColumn = None
    caption_column: CaptionColumn = None
    captions: CaptionsOfAnImage = "first"
    clips: Annotated[
        bool,
        Option("Treat a folder of frames as one clip, as pretrain --frames does.", panel=DATA),
    ] = False
    clip_maps: Annotated[
        Literal["middle", "per-slot"] | None,
        Option(
            "Make one map per clip, of its middle, or one for each of --slots parts of its time [default: middle, "
            "per-slot with --method motion and frame-difference]",
            panel=MAPS,
        ),
    ] = None
    slots: Annotated[
        int, Option("Number of equal parts of a clip's time that have a map each.", least=2, panel=MAPS)
    ] = 16
    split: Split = None
    allow_outside: AllowOutside = False
    limit: Limit = None
    max_rejected: Rejects = 0.01
    append: Annotated[
        bool, Option("Add the pairs that the finished maps in --out do not have, as new files.", panel=DATA)
    ] = False
    batch_size: Annotated[int, Option("Images per batch.", least=1, panel=SPEED)] = 64
    precision: Precision = "auto"
    compile: Annotated[
        bool, Option("Compile the model's trunk, which pays off over many pairs on a GPU.", panel=SPEED)
    ] = False
    device: Device = "cpu"
    workers: Workers = 2
    shard_size: Annotated[
        int, Option("Pairs per file. A killed run loses only its unfinished files.", least=1, panel=MACHINE)
    ] = 4096
    shard: Annotated[
        tuple[int, int] | None,
        Option(
            "Make only part i of n of a job array, given as i/n. Merge the parts afterwards.",
            parse=parse_part,
            between="/",
            panel=MACHINE,
        ),
    ] = None
    engine: Annotated[
        Literal["local", "ray"], Option("Work on this machine, or with the workers of a Ray cluster.", panel=MACHINE)
    ] = "local"
    ray_workers: Annotated[
        int | None,
        Option("Workers of --engine ray [default: one per GPU, or per four cores]", least=1, panel=MACHINE),
    ] = None

    def __post_init__(self) -> None:
        check_declared(self)
        from saliency.methods.methods import METHODS  # torch comes with it, which the options' help does without
        from saliency.methods.windows import windows
        from saliency.table.shard import LARGEST_SLOTS

        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}; it must be at least 1")
        if self.grid is not None and not 1 <= self.grid <= 256:
            raise ValueError(f"--grid is {self.grid}; it must be between 1 and 256")
        if self.slots > LARGEST_SLOTS:
            raise ValueError(f"--slots is {self.slots}; it must be at most {LARGEST_SLOTS}")
        if self.shows_motion and self.engine == "ray":
            raise ValueError(f"--method {self.method} needs no model, and works without --engine ray")
        if self.compile and not self.shows_motion and METHODS[self.method].deep:
            raise ValueError(f"--method {self.method} reads the blocks that --compile compiles; leave one of them out")
        if self.clip_maps == "per-slot" and self.tiles > 1:
            raise ValueError("--tiles is for one map per image: leave it out, or give --clip-maps middle")
        windows(self.tiles)
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(f"--max-rejected is {self.max_rejected}; it must be between 0 and 1")
        if self.append and self.shard is not None:
            raise ValueError("--append makes all new files in one run: leave --shard out, or use --engine ray")
        if self.engine == "ray" and self.shard is not None:
            raise ValueError("--shard is for job arrays; --engine ray deals out the shards itself")

    @property
    def shows_motion(self) -> bool:
        """Whether the maps show what moves, by no model."""
        return self.method in MOTION_METHODS

    @property
    def clip_maps_kind(self) -> str:
        """``clip_maps``, or its default with the method."""
        return self.clip_maps or ("per-slot" if self.shows_motion else "middle")

    @property
    def takes_slots(self) -> bool:
        """Whether ``slots`` decides the maps: of motion, the middle one as well."""
        return self.shows_motion or self.clip_maps_kind == "per-slot"

    @property
    def takes_weights(self) -> bool:
        """Whether ``pretrained`` says which weights are read, or belongs to the settings of maps that are begun."""
        from pipelines.sources.formats import is_built_in  # numpy comes with it, which a help text does without

        named = not is_built_in(self.source) if self.clip is None else not self.clip.startswith(OWN_WEIGHTS)
        return named or any(Path(self.out).glob("manifest*.json"))

    @property
    def shown_clip(self) -> str:
        """The model, as it is typed."""
        return f"the bundled model for {self.source}" if self.clip is None else f"--clip {self.clip}"

    @property
    def origin(self) -> dict[str, Any]:
        """Where the pairs and the model came from, for ``inspect`` to find them again; plays no part in the bytes."""
        names = ("source", "split", "image_column", "caption_column", "captions", "limit", "clip", "pretrained")
        return {name: getattr(self, name) for name in names} | ({"clips": True} if self.clips else {})


@dataclass(frozen=True)
class MergeOptions:
    """What ``merge`` was asked for."""

    maps: Annotated[Path, Argument("The --out folder that all parts of the job array share.")]
