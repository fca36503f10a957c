"""What ``doctor`` can be asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pipelines.commandline.option import Argument, Option, check_declared
from pipelines.commandline.shared_options import OUTSIDE, Device


@dataclass(frozen=True)
class DoctorOptions:
    """What ``doctor`` was asked for; the CLI's options under the same names."""

    run: Annotated[Path, Argument("A run folder.")]
    source: Annotated[
        str | None, Option("Images to look at, labelled ones if you have them [default: the run's own]")
    ] = None
    limit: Annotated[int, Option("Number of images to look at, evenly spaced.", least=8)] = 512
    json: Annotated[Path | None, Option("File to write all findings to, as JSON.")] = None
    device: Device = "cpu"
    allow_outside: Annotated[bool, Option(OUTSIDE)] = False

    def __post_init__(self) -> None:
        check_declared(self)
