"""What ``verify`` can be asked for."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pipelines.commandline.effects import Effect
from pipelines.commandline.option import Argument, Option, check_declared
from pipelines.commandline.shared_options import (
    AllowOutside,
    CaptionColumn,
    CaptionsOfAnImage,
    ImageColumn,
    Limit,
    Seed,
    Split,
)


@dataclass(frozen=True)
class VerifyOptions:
    """What ``verify`` was asked for; the CLI's options under the same names."""

    effects: ClassVar[tuple[Effect, ...]] = (
        Effect(
            ("sample", "seed", "image_column", "caption_column", "captions", "split", "limit"),
            lambda options: options.source is not None,
            "without a SOURCE",
            "give the images that the maps will be used with",
        ),
        Effect(("seed",), lambda options: options.sample > 0, "with --sample 0", "nothing is drawn"),
    )

    maps: Annotated[str, Argument("A maps folder, or the Hub dataset id of a published table.")]
    source: Annotated[str | None, Argument("The images that the maps will be used with.")] = None
    sample: Annotated[
        int, Option("Number of images to hash, drawn at random: 0 checks none, a large number checks all.", least=0)
    ] = 1000
    seed: Seed = 0
    image_column: ImageColumn = None
    caption_column: CaptionColumn = None
    captions: CaptionsOfAnImage = "first"
    split: Split = None
    allow_outside: AllowOutside = False
    limit: Limit = None

    def __post_init__(self) -> None:
        check_declared(self)
