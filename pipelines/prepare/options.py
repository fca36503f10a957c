"""What ``prepare`` can be asked for, checked before anything is opened."""

from dataclasses import dataclass
from typing import Annotated

from pipelines.commandline.option import Option
from pipelines.commandline.shared_options import (
    CaptionColumn,
    Captions,
    ImageColumn,
    Limit,
    Out,
    SourcePlace,
    Split,
    Workers,
)

FORMATS = ("parquet", "webdataset")
"""Of the files that it writes."""
SMALLEST_SIZE = 16


@dataclass(frozen=True)
class PrepareOptions:
    """What ``prepare`` was asked for; the CLI's options under the same names."""

    source: SourcePlace
    out: Out
    size: Annotated[int, Option("Pixels that the shorter side is reduced to; smaller images stay as they are.")] = 256
    format: Annotated[str, Option("`parquet`, or `webdataset`: tars.")] = "parquet"
    quality: Annotated[int, Option("Of the JPEGs, 1 to 100.")] = 90
    shard_size: Annotated[int, Option("Images a file.")] = 4096
    workers: Workers = 2
    max_rejected: Annotated[float, Option("Share of bad rows above which the command fails.")] = 0.01
    image_column: ImageColumn = None
    caption_column: CaptionColumn = None
    captions: Annotated[Captions, Option("Captions to keep of an image: `all`, or the `first` alone.")] = "all"
    limit: Limit = None
    split: Split = None

    def __post_init__(self) -> None:
        if self.size < SMALLEST_SIZE:
            raise ValueError(f"--size is {self.size}; it must be at least {SMALLEST_SIZE} pixels")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"--quality is {self.quality}; it must be between 1 and 100")
        if self.format not in FORMATS:
            raise ValueError(f"--format is {self.format!r}; it must be one of {', '.join(FORMATS)}")
        if self.captions not in ("first", "all"):
            raise ValueError(f"--captions is {self.captions!r}; it must be first or all")
        for name, value in {"shard-size": self.shard_size, "workers": self.workers}.items():
            if value < 1:
                raise ValueError(f"--{name} is {value}; it must be at least 1")
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(f"--max-rejected is {self.max_rejected}; it must be between 0 and 1")
