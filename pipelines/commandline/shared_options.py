"""Options that several commands have, each declared once; see ``pipelines.commandline.option``."""

from pathlib import Path
from typing import Annotated, Literal

from pipelines.commandline.option import Argument, Option

DATA, MASKS, MODEL, VIDEO, TRAINING, SPEED, MACHINE = (
    *("Data", "Masks", "Model", "Video", "Training", "Speed", "Where it runs"),
)
"""Panels of ``--help`` that several commands have."""

SourcePlace = Annotated[
    str,
    Argument(
        "Where the images are: a folder (with a metadata or captions file, or one folder per class), WebDataset tars "
        "(a path, a glob or {000..123}), a Parquet, JSONL, CSV or TSV table, a Hub dataset id, or shapes:N, which "
        "draws N scenes."
    ),
]
Run = Annotated[Path, Argument("A run folder or a saved model.")]
Out = Annotated[Path, Option("Folder that the results are written to.")]

Captions = Literal["first", "all"]
"""Of an image's several captions: take the first, or make every one a pair of its own."""

ImageColumn = Annotated[str | None, Option("Column with the images [default: found by convention]", panel=DATA)]
CaptionColumn = Annotated[str | None, Option("Column with the captions [default: found by convention]", panel=DATA)]
CaptionsOfAnImage = Annotated[
    Captions, Option("Use the first caption of an image, or all of them as pairs of their own.", panel=DATA)
]
Limit = Annotated[int | None, Option("Use only the first N samples.", least=1, panel=DATA)]
Split = Annotated[str | None, Option("Split of a Hub dataset, or of a folder that contains splits.", panel=DATA)]
OUTSIDE = "Read files outside of the source, too, where a table or a dataset names them."
AllowOutside = Annotated[bool, Option(OUTSIDE, panel=DATA)]
Rejects = Annotated[float, Option("Fraction of unreadable samples above which the command fails.", panel=DATA)]

Device = Annotated[
    str,
    Option("Device, such as cpu, cuda, cuda:1 or mps [default: the best available]", settled=True, panel=MACHINE),
]
Workers = Annotated[
    int,
    Option("Processes or threads that decode images [default: half the cores]", least=0, settled=True, panel=MACHINE),
]
Precisions = Literal["auto", "fp32", "bf16"]
Precision = Annotated[
    Precisions,
    Option("Precision of the model. auto is bf16 on a GPU that supports it, and otherwise fp32.", panel=SPEED),
]
Quiet = Annotated[bool, Option("Print no progress and no hints; results, warnings and errors remain.")]
DryRun = Annotated[
    bool, Option("Say what would be read, computed and written, measure for a few seconds, and write nothing.")
]
Seed = Annotated[int, Option("Seed of all random numbers.", least=0)]
