"""What ``prepare`` can be asked for, checked before anything is opened."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pipelines.commandline.option import Option, check_declared
from pipelines.commandline.shared_options import (
    DATA,
    AllowOutside,
    CaptionColumn,
    Captions,
    ImageColumn,
    Limit,
    Out,
    Rejects,
    SourcePlace,
    Split,
    Workers,
)


@dataclass(frozen=True)
class PrepareOptions:
    """What ``prepare`` was asked for; the CLI's options under the same names."""

    source: SourcePlace
    out: Out
    size: Annotated[int, Option("Pixels of the shorter side. Smaller images keep their size.", least=16)] = 256
    format: Annotated[Literal["parquet", "webdataset"], Option("Write Parquet files, or WebDataset tars.")] = "parquet"
    quality: Annotated[int, Option("Quality of the JPEGs, from 1 to 100.")] = 90
    shard_size: Annotated[int, Option("Images per file.", least=1)] = 4096
    image_column: ImageColumn = None
    caption_column: CaptionColumn = None
    captions: Annotated[Captions, Option("Keep only the first caption of an image, or all of them.", panel=DATA)] = (
        "all"
    )
    split: Split = None
    allow_outside: AllowOutside = False
    limit: Limit = None
    max_rejected: Rejects = 0.01
    workers: Workers = 2

    def __post_init__(self) -> None:
        check_declared(self)
        if not 1 <= self.quality <= 100:
            raise ValueError(f"--quality is {self.quality}; it must be between 1 and 100")
        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}; it must be at least 1")
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(f"--max-rejected is {self.max_rejected}; it must be between 0 and 1")
