"""What ``diff`` can be asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pipelines.commandline.effects import Effect
from pipelines.commandline.option import Argument, Option, check_declared
from pipelines.commandline.shared_options import OUTSIDE

_SMALLEST, _LARGEST = 0.01, 0.99


@dataclass(frozen=True)
class DiffOptions:
    """What ``diff`` was asked for; the CLI's options under the same names."""

    effects: ClassVar[tuple[Effect, ...]] = (
        Effect(
            ("source", "worst", "allow_outside"), lambda options: options.out is not None, "without --out",
            "it belongs to the pictures of the worst pairs",
        ),
    )  # fmt: skip

    before: Annotated[str, Argument("A maps folder, or the Hub dataset id of a published table.")]
    after: Annotated[str, Argument("The maps to compare with it, of the same grid.")]
    out: Annotated[Path | None, Option("Folder for all figures, the list of pairs and a picture of the worst.")] = None
    area: Annotated[float, Option("Fraction of the cells that counts as salient for the IoU.")] = 0.2
    worst: Annotated[int, Option("Number of pairs to list whose maps agree least. At most 24 are drawn.", least=1)] = 12
    source: Annotated[str | None, Option("Where the images are now, for the picture.")] = None
    allow_outside: Annotated[bool, Option(OUTSIDE)] = False

    def __post_init__(self) -> None:
        check_declared(self)
        if not _SMALLEST <= self.area <= _LARGEST:
            raise ValueError(f"--area is {self.area:g}; it must be between {_SMALLEST} and {_LARGEST}")
