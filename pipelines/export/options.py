"""What ``export`` can be asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pipelines.commandline.option import Argument, Option

Format = Literal["mae", "timm", "transformers"]


@dataclass(frozen=True)
class ExportOptions:
    """What ``export`` was asked for; the CLI's options under the same names."""

    run: Annotated[Path, Argument("A run, a saved model, an MAE checkpoint (.pth), or a ViTMAE or timm folder.")]
    to: Annotated[
        Format,
        Option("Format: the .pth of facebookresearch/mae, a vit_* of timm, or a ViTMAE or VideoMAE of transformers."),
    ]
    out: Annotated[Path, Option("New folder for the weights, their configuration and a model card.")]
