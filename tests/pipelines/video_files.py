"""Writes small videos whose frames tell their number, for the tests of clips."""

from fractions import Fraction

import av
import numpy as np
from av.stream import Disposition  # noqa: F401 (PyAV imports it late)

LEVELS = 7
"""Grey levels between two frames."""


def grey(number):
    return 20 + LEVELS * number


def pictures(count, width=32, height=24):
    """Frame k is grey(k), but for its upper left quarter, which is black: to see turns."""
    frames = np.stack([np.full((height, width, 3), grey(k), np.uint8) for k in range(count)])
    frames[:, : height // 2, : width // 2] = 0
    return frames


def write_video(
    path, frames, *, codec="ffv1", pixels="yuv444p", rate=25, stamps=None, rotation=None, options=None, container=None
):
    """Frames uint8 [T, H, W, 3 or 4] as a video; ``stamps`` are their times in units of 1/1000 s."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        file.start_encoding()
        for number, pixel in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixel, format="rgba" if pixel.shape[-1] == 4 else "rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def numbers(images):
    """Which frames these are, by the lower right pixel."""
    return [round((int(np.asarray(image)[-1, -1, 0]) - 20) / LEVELS) for image in images]
