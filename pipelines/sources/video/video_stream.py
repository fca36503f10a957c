"""A container's video as ffmpeg opens it, for files and live streams alike: one stream, upright frames of bounded size.

Rotation is applied, pixels are made square, transparency is laid over white, more than 8 bits are rounded, and colours
are converted by the matrix that the file names. A frame may not be larger than ``MAX_FRAME_PIXELS``, whatever the
header says: the decoder refuses it before it takes memory.
"""

from __future__ import annotations

import functools
import stat
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.errors import UserError
from pipelines.sources.images import MAX_SIDE, BadImage

MAX_FRAME_PIXELS = 8192 * 4352
"""The largest frame of level 6.2 of H.264, H.265 and AV1; a decoder may hold 16 of them."""

UNTIMED = ("avi",)
"""Containers whose frames have no times of their own, but follow each other at a rate."""

_PLAYLISTS = ("hls", "concat", "dash", "imf", "sdp", "rtsp", "image2", "lavfi", "tee", "vapoursynth", "avisynth")
"""Formats of ffmpeg that name other files, or run scripts: no file becomes one of them by what is in it."""

LONGEST_GAP = 60.0
"""Seconds; a clock that runs on by more, in a broadcast or a live stream, has been set anew."""

_MOST_ASPECT = 10
"""Pixels that are longer than that, either way, are damage; a few bytes would make gigabytes of a narrow video."""

_MATRICES = {1: "ITU709", 4: "FCC", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M", 9: "BT2020"}
"""ffmpeg's numbers of colour matrices, and PyAV's names."""

_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
"""By degrees counterclockwise."""


def require_av() -> Any:
    """The module ``av``; UserError where it is not installed."""
    try:
        import av
    except ImportError:
        raise UserError("video files need PyAV: pip install 'saliency-mae[video]'") from None
    av.logging.set_level(None)
    return av


def require_regular(path: str | Path) -> None:
    """BadImage for a pipe, device or folder, which could be waited for or read for ever; OSError if there is none."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise BadImage("not a regular file")


def open_container(place: str) -> Any:
    """The container at a path or URL, to be closed. Raises what ffmpeg says of it, ``av.error.FFmpegError``."""
    return _open(place, {"max_pixels": str(MAX_FRAME_PIXELS)})


def _open(place: str, options: dict[str, str]) -> Any:
    av = require_av()
    if "://" in place:
        return av.open(place, metadata_errors="replace", options=options)
    # a colon in a name would be taken for a protocol
    return av.open(f"file:{place}", metadata_errors="replace", options={"format_whitelist": _own_formats(), **options})


@functools.cache
def _own_formats() -> str:
    return ",".join(sorted(require_av().formats_available - set(_PLAYLISTS)))


def video_stream(container: Any, options: Mapping[str, str] | None = None) -> Any:
    """The first video stream that is not a still cover, ready to decode. BadImage if there is none, or too large.

    ``options`` are further ones of its decoder.
    """
    av = require_av()
    cover = av.stream.Disposition.attached_pic
    streams = [each for each in container.streams.video if each.codec_context and not each.disposition & cover]
    if not streams:
        raise BadImage("it has no video stream")
    stream = streams[0]
    check_size(stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS), **(options or {})}
    return stream


def packets_of(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of one stream, then an empty one that makes the decoder give away what it holds."""
    try:
        yield from container.demux(stream)
    except IndexError:  # PyAV's, at the end of a file in which further streams appear
        return


def frames_of(container: Any, stream: Any) -> Iterator[Any]:
    """The frames of one stream."""
    for packet in packets_of(container, stream):
        yield from packet.decode()


def header_size(path: str) -> tuple[int, int]:
    """Width and height by a file's header alone, where no decoder would take it; 0 if it doesn't say."""
    with _open(path, {"codec_whitelist": "none"}) as container:
        context = video_stream(container).codec_context
        return context.width, context.height


def check_size(width: int, height: int) -> None:
    """BadImage for a frame that is larger than any may be."""
    if width * height > MAX_FRAME_PIXELS or max(width, height) > MAX_SIDE:
        raise BadImage(f"too large: {width}×{height} pixels")


def reason_of(error: BaseException) -> str:
    """What ffmpeg says, in a few words."""
    return str(error).split("]")[-1].split(":")[0].strip() or type(error).__name__


def pixel_aspect(stream: Any) -> float:
    """Width of a pixel by its height, 1 where the header says none, or one that no picture has."""
    aspect = float(stream.sample_aspect_ratio or 1)
    return aspect if 1 / _MOST_ASPECT <= aspect <= _MOST_ASPECT else 1.0


def upright(frame: Any, aspect: float = 1.0) -> Image.Image:
    """A frame in RGB with square pixels, turned as its display matrix says, transparency over white.

    ``aspect`` is :func:`pixel_aspect`. Raises BadImage if the frame would be too large.
    """
    from av.video.reformatter import Colorspace

    width = max(round(frame.width * aspect), 1)
    check_size(width, frame.height)
    options = {}
    if frame.format.name.startswith("yuv") and int(frame.colorspace) in _MATRICES:
        options["src_colorspace"] = getattr(Colorspace, _MATRICES[int(frame.colorspace)])
    if any(component.is_alpha for component in frame.format.components):
        image = Image.fromarray(frame.to_ndarray(format="rgba", **options))
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image).convert("RGB")
    else:
        image = Image.fromarray(frame.to_ndarray(format="rgb24", **options))
    if width != image.width:
        image = image.resize((width, image.height), Image.Resampling.BICUBIC)
    turns = _TURNS.get(round(frame.rotation / 90) * 90 % 360)
    return image if turns is None else image.transpose(turns)


class ChunkClock:
    """When the frames of an untimed container are shown, in ticks of its rate.

    It has a chunk a tick. An empty one, which ffmpeg passes over, shows the frame before once more, and so does one
    of MPEG-4 that codes nothing. All chunks are to be added as they are read, the frames asked for as they come.
    """

    def __init__(self, stream: Any) -> None:
        self._may_code_nothing = stream.codec_context.name == "mpeg4"
        self._ticks = array("q")
        self._place = -1
        self._delay: int | None = None

    def add(self, packet: Any) -> None:
        """A chunk that is not empty."""
        following = self._ticks[-1] + 1 if self._ticks else 0
        self._ticks.append(following if packet.dts is None else max(packet.dts, following))

    def tick(self, frame: Any) -> int:
        """When the next frame is shown; None stands for one that could not be decoded."""
        place = self._place + 1
        if self._may_code_nothing and frame is not None and frame.dts is not None:
            chunk = bisect_left(self._ticks, frame.dts)  # the one that made the decoder give the frame away
            self._delay = chunk - place if self._delay is None else self._delay
            place = max(place, chunk - self._delay)
        self._place = place
        if place < len(self._ticks):
            return self._ticks[place]
        last = self._ticks[-1] if self._ticks else -1
        return last + place - len(self._ticks) + 1
