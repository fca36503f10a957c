"""Options of the commands that read a stream of frames, and what is asked of a stream itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pipelines.commandline.effects import Effect
from pipelines.commandline.option import Argument, Option
from pipelines.commandline.shared_options import VIDEO

STDIN = "-"


def parse_size(text: str) -> tuple[int, int]:
    """``640x480`` as width and height; ValueError."""
    from pipelines.sources.images import MAX_PIXELS, MAX_SIDE  # Pillow comes with it, which a help text does without

    try:
        width, height = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise ValueError(f"--size {text!r}: give WIDTHxHEIGHT in pixels, such as 640x480") from None
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise ValueError(f"--size {text!r}: both sides must be at least 1, and not more than a picture may have")
    return width, height


StreamInput = Annotated[
    str,
    Argument(
        "What to read: an image, a folder of images with its subfolders, a video file or URL, or - for raw RGB24 "
        "frames on standard input."
    ),
]
AsVideo = Annotated[bool, Option("Treat the images of a folder as the frames of one video.", panel=VIDEO)]
RawSize = Annotated[
    tuple[int, int] | None,
    Option("Size of raw frames on standard input, as WIDTHxHEIGHT in pixels.", parse=parse_size, panel=VIDEO),
]
Fps = Annotated[
    float | None,
    Option("Frames per second to take [default: the video's own rate; 25 if it has none]", panel=VIDEO),
]
StallTimeout = Annotated[float, Option("Seconds without a frame after which a stream has ended.", panel=VIDEO)]
SkipBelow = Annotated[
    float,
    Option(
        "Do not encode patches of a video again that changed by less than this since they were last encoded, in "
        "units of the full range of a colour. 0.02 suits most cameras, and 0 skips nothing "
        "(docs/guide/cheaper-streams.md).",
        panel=VIDEO,
    ),
]
FrameLimit = Annotated[int | None, Option("Use only the first N images or frames.", least=1)]


def is_stream(place: str, *, as_video: bool = False) -> bool:
    """Whether a command's input is a stream of frames, rather than a picture or a folder of pictures."""
    from pipelines.sources.video.video_file import VIDEO_SUFFIXES  # numpy comes with it

    path = Path(place)
    if place == STDIN or "://" in place or (as_video and path.is_dir()):
        return True
    return path.suffix.lower() in VIDEO_SUFFIXES or path.is_fifo()


STREAM_EFFECTS = (
    Effect(
        ("fps", "stall_timeout"),
        lambda options: is_stream(options.input, as_video=options.as_video),
        "with {input}",
        "it is for videos",
    ),
    Effect(("as_video",), lambda options: Path(options.input).is_dir(), "with {input}", "it is for folders of frames"),
)


@dataclass(frozen=True)
class LiveOptions:
    """Where frames come from, and when. ValueError for what can't be."""

    input: str
    size: tuple[int, int] | None = None
    """Width and height of raw frames."""
    fps: float | None = None
    stall_timeout: float = 10.0
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ValueError(f"--fps is {self.fps:g}; it must be above 0, and 1000 at most")
        if not self.stall_timeout > 0:
            raise ValueError(f"--stall-timeout is {self.stall_timeout:g}; it must be above 0 seconds")
        if (self.input == STDIN) != (self.size is not None):
            raise ValueError(
                "raw frames on standard input need their --size WIDTHxHEIGHT"
                if self.size is None
                else f"--size is that of raw frames on standard input, and {self.input} is none: leave it out"
            )
