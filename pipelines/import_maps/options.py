"""What ``import-maps`` can be asked for, checked before a map is read."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pipelines.commandline.effects import Effect
from pipelines.commandline.option import Option, check_declared
from pipelines.commandline.shared_options import (
    MACHINE,
    AllowOutside,
    CaptionColumn,
    CaptionsOfAnImage,
    ImageColumn,
    Limit,
    Out,
    Rejects,
    SourcePlace,
    Split,
    Workers,
)

if TYPE_CHECKING:
    from pipelines.import_maps.kinds import Kind

MAPS, FIXATIONS = "Maps", "Fixations and clicks"
"""Panels of ``--help``."""
LARGEST_GRID = 256
LARGEST_SIGMA = 1.0

Units = Literal["pixels", "fractions"]
OffPicture = Literal["reject", "drop"]


@dataclass(frozen=True)
class ImportOptions:
    """What ``import-maps`` was asked for; the CLI's options under the same names."""

    effects: ClassVar[tuple[Effect, ...]] = (
        Effect(
            ("sigma", "off_picture"),
            lambda options: options.kind.fixations,
            "with --from {maps_from}",
            "it holds no fixations",
        ),
        Effect(
            ("units",),
            lambda options: options.kind.asks_units,
            "with --from {maps_from}",
            "it holds no table of fixations",
        ),
        Effect(("key_column",), lambda options: options.kind.table, "with --from {maps_from}", "it is no table"),
        Effect(
            ("map_column",),
            lambda options: options.kind.table and not options.kind.fixations,
            "with --from {maps_from}",
            "it holds no table of maps",
        ),
        Effect(("array",), lambda options: options.kind.arrays, "with --from {maps_from}", "it has no NPZ files"),
        Effect(
            ("made_by",),
            lambda options: not options.kind.own,
            "with --from masks",
            "what they are is known",
        ),
    )

    source: SourcePlace
    maps_from: Annotated[
        str,
        Option(
            "Where the maps come from: masks (the true masks or boxes of SOURCE), a folder of PNG, NPY or NPZ files "
            "named like the keys, SALICON's JSON, or a Parquet, CSV, TSV or JSONL table of fixations or of maps.",
            flags=("--from",),
        ),
    ]
    out: Out
    grid: Annotated[int, Option("Cells per side of a map, 256 at most.", least=1, panel=MAPS)] = 28
    made_by: Annotated[
        str | None,
        Option("What made the maps, such as 'DeepGaze IIE', which is recorded with them.", panel=MAPS),
    ] = None
    key_column: Annotated[
        str | None,
        Option("Column of the keys or file names of the images [default: found by convention]", panel=MAPS),
    ] = None
    map_column: Annotated[
        str | None,
        Option(
            "Column of the maps: lists of numbers, images or files [default: found by convention]",
            panel=MAPS,
        ),
    ] = None
    array: Annotated[str | None, Option("Name of the array in NPZ files [default: the only one]", panel=MAPS)] = None
    units: Annotated[
        Units | None,
        Option("Unit of x and y in a table of fixations. It has to be given for such a table.", panel=FIXATIONS),
    ] = None
    sigma: Annotated[
        float,
        Option(
            "Standard deviation of the Gaussian around a fixation, as a fraction of the image's longer side.",
            panel=FIXATIONS,
        ),
    ] = 0.03
    off_picture: Annotated[
        OffPicture,
        Option("Reject an image with fixations outside of its picture, or drop these fixations.", panel=FIXATIONS),
    ] = "reject"
    image_column: ImageColumn = None
    caption_column: CaptionColumn = None
    captions: CaptionsOfAnImage = "first"
    split: Split = None
    allow_outside: AllowOutside = False
    limit: Limit = None
    max_rejected: Rejects = 0.01
    workers: Workers = 2
    shard_size: Annotated[
        int, Option("Pairs per file. A killed run loses only its unfinished file.", least=1, panel=MACHINE)
    ] = 4096

    def __post_init__(self) -> None:
        check_declared(self)
        if self.grid > LARGEST_GRID:
            raise ValueError(f"--grid is {self.grid}; it must be between 1 and {LARGEST_GRID}")
        if not 0 < self.sigma <= LARGEST_SIGMA:
            raise ValueError(f"--sigma is {self.sigma}; it must be above 0 and at most 1 (of the longer side)")
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(f"--max-rejected is {self.max_rejected}; it must be between 0 and 1")
        if self.made_by is not None and not self.made_by.strip():
            raise ValueError("--made-by is an empty text: name the method or tool that made the maps")

    @cached_property
    def kind(self) -> "Kind":
        """Which kind of maps ``maps_from`` is. Raises UserError."""
        from pipelines.import_maps.kinds import kind_of  # numpy comes with it, which a help text does without

        return kind_of(self)

    @property
    def origin(self) -> dict[str, Any]:
        """Where the pairs came from, for ``inspect`` to find them again; plays no part in the bytes."""
        names = ("source", "split", "image_column", "caption_column", "captions", "limit")
        return {name: getattr(self, name) for name in names}

    @property
    def place(self) -> Path:
        """The file or folder that ``maps_from`` names."""
        from saliency.files import user_path

        return user_path(self.maps_from)
