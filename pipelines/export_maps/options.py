"""What ``export-maps`` can be asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pipelines.commandline.option import Argument, Option, check_declared

MapFormat = Literal["png", "npy"]


@dataclass(frozen=True)
class ExportMapsOptions:
    """What ``export-maps`` was asked for; the CLI's options under the same names."""

    maps: Annotated[str, Argument("A maps folder, or the Hub dataset id of a published table.")]
    to: Annotated[
        MapFormat,
        Option("Format: grey PNG of 8 bits whose white is the map's peak, or NPY with the raw values as float32."),
    ]
    out: Annotated[Path, Option("New folder for the files and their index.")]

    def __post_init__(self) -> None:
        check_declared(self)
