"""What ``build-saliency`` can be asked for, checked before anything is opened."""

from dataclasses import dataclass
from typing import Annotated, Any

from pipelines.commandline.option import Option
from pipelines.commandline.shared_options import (
    CaptionColumn,
    CaptionsOfAnImage,
    Device,
    ImageColumn,
    Limit,
    Out,
    SourcePlace,
    Split,
    Workers,
)

ENGINES = ("local", "ray")


def parse_part(text: str) -> tuple[int, int]:
    """``i/n`` with 1 ≤ i ≤ n; ValueError otherwise."""
    first, _, second = text.partition("/")
    if first.isascii() and first.isdigit() and second.isascii() and second.isdigit() and 1 <= int(first) <= int(second):
        return int(first), int(second)
    raise ValueError(f"--shard {text!r} is not i/n with i from 1 to n, such as 3/8")


@dataclass(frozen=True)
class BuildOptions:
    """What ``build-saliency`` was asked for; the CLI's options under the same names."""

    source: SourcePlace
    out: Out
    clip: Annotated[
        str | None, Option("open_clip model, hf-hub:… or local-dir:… [default: ViT-B-16; for shapes the shipped one]")
    ] = None
    pretrained: Annotated[str | None, Option("Weights tag or file of --clip [default: openai with ViT-B-16]")] = None
    method: Annotated[
        str,
        Option(
            "How maps are made: gradcam, grad-eclip, legrad, clip-es, naclip; with pytorch-grad-cam also "
            "gradcam++, layercam, hirescam, xgradcam, eigengradcam, scorecam (docs/methods.md)."
        ),
    ] = "gradcam"
    grid: Annotated[
        int | None, Option("Side of the stored maps in cells, 256 at most; what the model's patches give if not given.")
    ] = None
    clip_size: Annotated[
        int | None, Option("Pixels of the square the model sees, embeddings interpolated; its own if not given.")
    ] = None
    tiles: Annotated[
        int, Option("Look also at N × N overlapping windows: finer maps, 1 + N² forward passes an image.")
    ] = 1
    precision: Annotated[str, Option("Of the model's trunk: auto, fp32 or bf16.")] = "auto"
    compile: Annotated[bool, Option("Compile the model's trunk: pays off over many pairs on a GPU.")] = False
    fit: Annotated[str, Option("`squash` the whole image into the model's square, or `crop` its centre.")] = "squash"
    batch_size: Annotated[int, Option("Pairs at a time.")] = 64
    workers: Workers = 2
    shard_size: Annotated[int, Option("Pairs a file; what a killed run loses is what it had not written.")] = 4096
    shard: Annotated[
        tuple[int, int] | None,
        Option("i/n: make part i of n, as a job array does; then `merge` them.", parse=parse_part),
    ] = None
    engine: Annotated[str, Option("`local`, or `ray`: the workers of a Ray cluster.")] = "local"
    ray_workers: Annotated[
        int | None,
        Option("Workers of --engine ray; one a GPU, or one for every four cores of a machine, if not given."),
    ] = None
    max_rejected: Annotated[float, Option("Share of bad pairs above which the command fails.")] = 0.01
    image_column: ImageColumn = None
    caption_column: CaptionColumn = None
    captions: CaptionsOfAnImage = "first"
    limit: Limit = None
    split: Split = None
    clips: Annotated[bool, Option("A folder of frames is a clip, as to pretrain --frames: one map a clip.")] = False
    device: Device = "cpu"

    def __post_init__(self) -> None:
        from saliency.methods.methods import METHODS  # torch comes with it, which the options' help does without
        from saliency.methods.windows import windows

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
