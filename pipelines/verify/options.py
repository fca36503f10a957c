"""What ``verify`` can be asked for."""

from dataclasses import dataclass
from typing import Annotated

from pipelines.commandline.option import Argument, Option
from pipelines.commandline.shared_options import (
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

    maps: Annotated[str, Argument("A maps folder, or the Hub dataset id of a published table.")]
    source: Annotated[str | None, Argument("The images the maps are to be used with.")] = None
    sample: Annotated[
        int, Option("Images whose stored bytes are hashed, at random; 0 for none, a large number for all.")
    ] = 1000
    seed: Seed = 0
    image_column: ImageColumn = None
    caption_column: CaptionColumn = None
    captions: CaptionsOfAnImage = "first"
    limit: Limit = None
    split: Split = None

    def __post_init__(self) -> None:
        if self.sample < 0:
            raise ValueError(f"--sample is {self.sample}; it must be at least 0")
