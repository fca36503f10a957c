"""What ``encode`` can be asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pipelines.commandline.effects import Effect
from pipelines.commandline.option import Option
from pipelines.commandline.shared_options import Device, Precision, Run
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


@dataclass(frozen=True)
class EncodeOptions:
    """What ``encode`` was asked for; the CLI's options under the same names."""

    effects: ClassVar[tuple[Effect, ...]] = (
        *STREAM_EFFECTS,
        Effect(("skip_below",), STREAM_EFFECTS[0].when, "with {input}", "it is for videos"),
        Effect(("keep_by",), lambda options: options.keep < 1, "without --keep below 1"),
    )

    run: Run
    input: StreamInput
    out: Annotated[Path, Option("Parquet file for the features, with a row per image or per tubelet of a video.")]
    as_video: AsVideo = False
    size: RawSize = None
    fps: Fps = None
    stall_timeout: StallTimeout = 10.0
    limit: FrameLimit = None
    skip_below: SkipBelow = 0.0
    keep: Annotated[float, Option("Fraction of the patches to encode, of every image or tubelet.")] = 1.0
    keep_by: Annotated[
        Literal["gate", "random", "center"],
        Option("What chooses the patches to encode: the run's gate, chance or the distance from the centre."),
    ] = "gate"
    precision: Precision = "auto"
    device: Device = "cpu"

    @property
    def live(self) -> LiveOptions:
        """The input as a stream; ValueError for what can't be."""
        return LiveOptions(self.input, self.size, self.fps, self.stall_timeout, self.limit)
