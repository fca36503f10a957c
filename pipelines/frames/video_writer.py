"""Videos written as they come, and whole or not at all: H.264 in MP4 for any player, or FFV1 in Matroska, lossless.

H.264 halves the colours' resolution and loses a little everywhere; a side that is odd is one pixel longer there, for
players know no others. Colours are BT.709, and the file says so. There is no sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.video.video_stream import require_av
from saliency.files import opened_atomically

_X264 = {"crf": "18", "x264-params": "cpu-independent=1"}
"""A quality hard to tell from the original, and the same bytes from the same frames: the vector code that x264 picks by
the processor (for its macroblock tree) rounds differently from one run to the next."""
_BT709 = 1


class VideoWriter:
    """Takes frames uint8 [H, W, 3] in RGB, all of one size; what ``open_video`` gives."""

    def __init__(self, container: Any, fps: Fraction, *, lossless: bool) -> None:
        self._container, self._fps, self._lossless = container, fps, lossless
        self._stream: Any = None
        self.frames = 0

    def write(self, frame: NDArray[np.uint8]) -> None:
        """The next frame."""
        from av import VideoFrame
        from av.video.reformatter import Colorspace

        if not self._lossless and (frame.shape[0] % 2 or frame.shape[1] % 2):
            frame = np.pad(frame, [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)], mode="edge")
        if self._stream is None:
            self._begin(frame.shape[1], frame.shape[0])
        picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        if not self._lossless:
            picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
        picture.pts, picture.time_base = self.frames, 1 / self._fps
        self._container.mux(self._stream.encode(picture))
        self.frames += 1

    def finish(self) -> None:
        """Write what the encoder holds back."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))

    def _begin(self, width: int, height: int) -> None:
        codec, pixels, options = ("ffv1", "bgr0", {}) if self._lossless else ("libx264", "yuv420p", _X264)
        self._stream = self._container.add_stream(codec, rate=self._fps, options=options)
        self._stream.codec_context.thread_count = 1  # the bytes depend on their number, and machines differ
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, pixels
        context = self._stream.codec_context
        context.time_base = 1 / self._fps
        if not self._lossless:
            context.colorspace = context.color_primaries = context.color_trc = _BT709


def video_suffix(*, lossless: bool) -> str:
    """What a file of that kind is called."""
    return ".mkv" if lossless else ".mp4"


@contextmanager
def open_video(path: Path, fps: Fraction, *, lossless: bool = False) -> Iterator[VideoWriter]:
    """A writer of the video ``path``, which is there when the block ends without an error, and else is untouched."""
    av = require_av()
    with (
        opened_atomically(path) as file,
        av.open(file, "w", format="matroska" if lossless else "mp4") as container,
    ):
        writer = VideoWriter(container, fps, lossless=lossless)
        yield writer
        writer.finish()
