"""What ``demo`` can be asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pipelines.commandline.option import Option
from pipelines.commandline.shared_options import Device, Seed


@dataclass(frozen=True)
class DemoOptions:
    """What ``demo`` was asked for; the CLI's options under the same names."""

    out: Annotated[
        Path | None, Option("Folder for the results [default: demo-out, or demo-video-out with --video]")
    ] = None
    video: Annotated[
        bool, Option("Pretrain on moving scenes instead, and fill in what a block hides of unseen ones.")
    ] = False
    seed: Seed = 0
    device: Device = "cpu"
