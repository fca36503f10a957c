"""What ``reconstruct`` can be asked for, checked before anything is opened."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pipelines.commandline.effects import Effect
from pipelines.commandline.option import Option
from pipelines.commandline.shared_options import VIDEO, Device, Precision, Run
from pipelines.frames.options import (
    STREAM_EFFECTS,
    AsVideo,
    Fps,
    FrameLimit,
    LiveOptions,
    RawSize,
    SkipBelow,
    StallTimeout,
    StreamInput,
)

HIDDEN = "What is hidden (at least one of these)"
"""A panel of ``--help``."""

Box = tuple[float, float, float, float]

_KEY = re.compile(r"#?([0-9a-fA-F]{6})(?::(\d{1,3}))?")
_TOLERANCE = 24


def parse_box(text: str) -> Box:
    """``0.1,0.2,0.5,0.6`` as x0, y0, x1, y1 in fractions of the picture; ValueError."""
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--box {text!r}: give x0,y0,x1,y1 in fractions of the picture") from None
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(f"--box {text}: give x0,y0,x1,y1 in fractions of the picture, x0 < x1 and y0 < y1")
    return (x0, y0, x1, y1)


def parse_color(text: str) -> tuple[tuple[int, int, int], int]:
    """``00ff00`` or ``#00ff00:40`` as a colour and a tolerance; ValueError."""
    match = _KEY.fullmatch(text.strip())
    if match is None or int(match[2] or 0) > 255:
        raise ValueError(f"--color-key {text!r}: give RRGGBB, or RRGGBB:TOLERANCE with a tolerance from 0 to 255")
    red, green, blue = (int(match[1][i : i + 2], 16) for i in (0, 2, 4))
    return (red, green, blue), int(match[2] or _TOLERANCE)


@dataclass(frozen=True)
class ReconstructOptions:
    """What ``reconstruct`` was asked for; the CLI's options under the same names."""

    effects: ClassVar[tuple[Effect, ...]] = (
        *STREAM_EFFECTS,
        Effect(
            ("lossless", "side", "find", "find_threshold", "look_ahead", "skip_below"),
            STREAM_EFFECTS[0].when,
            "with {input}",
            "it is for videos",
        ),
        Effect(("find_threshold",), lambda options: options.find, "without --find"),
        Effect(("skip_below",), lambda options: not options.look_ahead, "with --look-ahead, which encodes all"),
    )

    run: Run
    input: StreamInput
    out: Annotated[Path, Option("Folder for the completed images or video, and for report.json.")]
    mask: Annotated[
        Path | None,
        Option(
            "Image that is white where the input is hidden, or a folder of them with the names of the input's images. "
            "For a video it can also be a video.",
            panel=HIDDEN,
        ),
    ] = None
    box: Annotated[
        tuple[str, ...],
        Option("Box x0,y0,x1,y1 in fractions of the image. Can be given several times.", panel=HIDDEN),
    ] = ()
    color_key: Annotated[
        str | None, Option("Colour of the hidden pixels: RRGGBB, or RRGGBB:TOLERANCE (0 to 255).", panel=HIDDEN)
    ] = None
    gate: Annotated[bool, Option("Hide what the run's gate finds important.", panel=HIDDEN)] = False
    find: Annotated[bool, Option("Hide what comes over content that was seen earlier in a video.", panel=HIDDEN)] = (
        False
    )
    truth: Annotated[
        Path | None,
        Option("The true image, folder or video, to compute PSNR and SSIM. It can be the input itself."),
    ] = None
    blend: Annotated[bool, Option("Match the colours at the edge of a hidden region.")] = True
    limit: FrameLimit = None
    as_video: AsVideo = False
    size: RawSize = None
    fps: Fps = None
    stall_timeout: StallTimeout = 10.0
    side: Annotated[
        bool, Option("Also write a video that shows the completed one beside what was given.", panel=VIDEO)
    ] = False
    find_threshold: Annotated[
        float,
        Option("How far colours must differ from what was seen earlier, in units of their range.", panel=VIDEO),
    ] = 0.06
    look_ahead: Annotated[
        bool, Option("Fill in a frame from later frames too. A frame then waits for a whole window.", panel=VIDEO)
    ] = False
    skip_below: SkipBelow = 0.0
    lossless: Annotated[bool, Option("Write lossless FFV1 (.mkv) instead of H.264 (.mp4).", panel=VIDEO)] = False
    precision: Precision = "auto"
    device: Device = "cpu"

    def __post_init__(self) -> None:
        if self.mask is None and not self.box and self.color_key is None and not self.gate and not self.find:
            raise ValueError("nothing says what is occluded: give --mask, --box, --color-key, --gate or --find")
        if not 0 < self.find_threshold < 1:
            raise ValueError(f"--find-threshold is {self.find_threshold:g}; it must be above 0 and below 1")
        if self.color_key is not None:
            parse_color(self.color_key)
        self.boxes  # noqa: B018, a mistake in a box is found here

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The boxes as numbers."""
        return tuple(parse_box(text) for text in self.box)

    @property
    def live(self) -> LiveOptions:
        """The input as a stream; ValueError for what can't be."""
        return LiveOptions(self.input, self.size, self.fps, self.stall_timeout, self.limit)
