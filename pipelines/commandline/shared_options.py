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
        "Where the images are: a folder (metadata.csv|jsonl|parquet, a captions file, or class folders), WebDataset "
        "tars (path, glob, {000..123}), a Parquet/JSONL/CSV/TSV table, shapes:N, or a Hub dataset id."
    ),
]
Out = Annotated[Path, Option("Where results go.")]

Captions = Literal["first", "all"]
"""Of an image's several captions: take the first, or make every one a pair of its own."""

ImageColumn = Annotated[str | None, Option("Column with the images; found by convention if not given.", panel=DATA)]
CaptionColumn = Annotated[str | None, Option("Column with the captions; found by convention if not given.", panel=DATA)]
CaptionsOfAnImage = Annotated[
    Captions, Option("Of several captions of an image take the `first` or `all` (a pair each).", panel=DATA)
]
Limit = Annotated[int | None, Option("Take the first N samples.", least=1, panel=DATA)]
Split = Annotated[str | None, Option("Split of a Hub dataset, or of a folder that holds splits.", panel=DATA)]

DEVICE = Option("cpu, cuda, cuda:1, mps; the best there is if not given.", settled=True, panel=MACHINE)
Device = Annotated[str, DEVICE]
Workers = Annotated[
    int,
    Option(
        "Processes or threads that decode images; half the cores if not given.", least=0, settled=True, panel=MACHINE
    ),
]
Seed = Annotated[int, Option("All random numbers follow from it.", least=0)]

StreamInput = Annotated[
    str,
    Argument("A picture, a folder of pictures, a video file or URL, or - for raw RGB24 frames on stdin."),
]
AsVideo = Annotated[bool, Option("The folder's pictures are the frames of one video.")]
RawSize = Annotated[str | None, Option("WIDTHxHEIGHT of raw frames on stdin.")]
Fps = Annotated[float | None, Option("Frames a second to take of a video [default: its own; 25 where it has none]")]
StallTimeout = Annotated[float, Option("Seconds without a frame after which a stream is taken to be over.")]
FrameLimit = Annotated[int | None, Option("Take the first N pictures, or frames.", least=1)]
