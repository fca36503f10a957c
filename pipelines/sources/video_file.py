"""Video files decoded by PyAV, which brings ffmpeg's libraries: any container and codec, by time, upright, 8-bit RGB.

The packets are indexed first, without decoding: that tells every frame's time, whether the file is whole, and where to
begin decoding. Rotation is applied, transparency laid over white, more than 8 bits are rounded, and colours are
converted by the matrix that the file names. A file that can't be opened, has no video, no frames, or less of them than
it says raises ``BadImage`` with a short reason. Containers without times of their own (AVI) are counted instead.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.errors import UserError
from pipelines.sources.images import MAX_PIXELS, BadImage

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv", ".ogv", ".3gp")
)
"""File name endings, in lower case, that make a file a video."""

_MISSING_SHARE, _MISSING_SECONDS = 0.02, 1.0
"""A file whose video ends earlier than it says by more than both of these is not whole; muxers round."""

_UNTIMED = ("avi",)
_MATRICES = {1: "ITU709", 4: "FCC", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M", 9: "BT2020"}
"""ffmpeg's numbers of colour matrices, and PyAV's names."""


@dataclass(frozen=True)
class _Index:
    stamps: NDArray[np.int64] | None
    """When each frame is shown, in the stream's time base, ascending; None where frames can only be counted."""
    times: NDArray[np.float64]
    """The same in seconds."""
    size: tuple[int, int]
    """Width and height as shown."""


def require_av() -> Any:
    """The module ``av``; UserError where it is not installed."""
    try:
        import av
    except ImportError:
        raise UserError("video files need PyAV: pip install 'saliency-mae[video]'") from None
    av.logging.set_level(None)
    return av


class VideoFile:
    """A video file, as :class:`pipelines.sources.source.Video`."""

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._index = _index(self._path, Path(path).stat().st_mtime_ns)
        self.times, self.size = self._index.times, self._index.size

    def masks(self, frames: Sequence[int]) -> NDArray[np.bool_] | None:
        """A file has no masks."""
        return None

    def read(self, frames: Sequence[int], *, draft: int | None = None) -> list[Image.Image]:
        """These frames, ascending numbers, in upright RGB. Raises BadImage."""
        with _opened(self._path) as (container, stream):
            found = self._decode(container, stream, frames, seek=self._index.stamps is not None)
            if found is None:  # the container led behind the first one, or its times are not to be trusted
                container.seek(0)
                found = self._decode(container, stream, frames, seek=False)
        if found is None or len(found) < len(frames):
            raise BadImage(f"damaged: only {len(found or ())} of {len(frames)} frames could be decoded")
        return found

    def _decode(self, container: Any, stream: Any, frames: Sequence[int], *, seek: bool) -> list[Image.Image] | None:
        """The frames that were met; None where decoding began behind the first of them, or times run backwards."""
        stamps, wanted, found = self._index.stamps, set(frames), []
        if seek and stamps is not None and frames[0] > 0:
            container.seek(int(stamps[frames[0]]), stream=stream, backward=True)
        previous = -1
        for number, frame in enumerate(container.decode(stream)):
            place = number if stamps is None else int(np.searchsorted(stamps, frame.pts))
            if place <= previous or (number == 0 and place > frames[0]):
                if seek:
                    return None
                place = previous + 1
            previous = place
            if place in wanted:
                found.append(upright(frame))
            if place >= frames[-1]:
                break
        return found


@functools.lru_cache(maxsize=16_384)
def _index(path: str, changed: int) -> _Index:
    """What the packets of a file tell; ``changed`` is when it was, so that another file of the name is read anew."""
    with _opened(path) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        if not packets:
            raise BadImage("its video has no frames")
        first = _first_frame(container, stream)
        base = float(stream.time_base or 0)
        stamps = None
        if container.format.name not in _UNTIMED and all(packet.pts is not None for packet in packets):
            stamps = np.unique(np.asarray([packet.pts for packet in packets], np.int64))
        if stamps is None:
            times: NDArray[np.float64] = np.arange(_count(container, stream)) / float(stream.average_rate or 25)
        else:
            times = np.asarray(stamps * base, np.float64)
        _check_whole(container, stream, len(packets), times)
        return _Index(stamps, times, first.size)


def _first_frame(container: Any, stream: Any) -> Image.Image:
    container.seek(0)
    for frame in container.decode(stream):
        return upright(frame)
    raise BadImage("no frame of its video can be decoded")


def _count(container: Any, stream: Any) -> int:
    container.seek(0)
    return sum(1 for _ in container.decode(stream))


def _check_whole(container: Any, stream: Any, packets: int, times: NDArray[np.float64]) -> None:
    """BadImage if there is clearly less in the file than its header says."""
    if stream.frames > packets:
        raise BadImage(f"truncated: {packets} of {stream.frames} frames")
    duration = None
    if stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    elif "DURATION" in stream.metadata:
        duration = _seconds(stream.metadata["DURATION"])
    elif container.duration is not None and len(container.streams) == 1:
        duration = container.duration / 1e6
    if duration is None or len(times) < 2:
        return
    shown = times[-1] - times[0] + (times[-1] - times[0]) / (len(times) - 1)
    if duration - shown > max(_MISSING_SECONDS, _MISSING_SHARE * duration):
        raise BadImage(f"truncated: {shown:.1f} of {duration:.1f} seconds")


def _seconds(text: str) -> float | None:
    """Seconds of ``HH:MM:SS.fraction``, None for anything else."""
    try:
        hours, minutes, seconds = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return None


@contextmanager
def _opened(path: str) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; whatever ffmpeg says of either becomes BadImage."""
    av = require_av()
    if Path(path).stat().st_size == 0:
        raise BadImage("empty (0 bytes)")
    try:
        with av.open(path, metadata_errors="replace") as container:
            streams = [s for s in container.streams.video if s.codec_context is not None and not is_cover(av, s)]
            if not streams:
                raise BadImage("it has no video stream")
            stream = streams[0]
            if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
                raise BadImage(f"too large: {stream.codec_context.width}×{stream.codec_context.height} pixels")
            stream.codec_context.thread_count = 1  # the loader has processes enough
            yield container, stream
    except (av.error.FFmpegError, av.error.InvalidDataError) as error:
        text = str(error).split("]")[-1].split(":")[0].strip()
        raise BadImage(f"not a video that can be read ({text or type(error).__name__})") from error


def is_cover(av: Any, stream: Any) -> bool:
    """Whether a stream is a still picture, as music files have them."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def upright(frame: Any) -> Image.Image:
    """A frame in RGB, turned as its display matrix says, transparency over white."""
    from av.video.reformatter import Colorspace

    options = {}
    if frame.format.name.startswith("yuv") and int(frame.colorspace) in _MATRICES:
        options["src_colorspace"] = getattr(Colorspace, _MATRICES[int(frame.colorspace)])
    if _has_alpha(frame.format):
        image = Image.fromarray(frame.to_ndarray(format="rgba", **options))
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image).convert("RGB")
    else:
        image = Image.fromarray(frame.to_ndarray(format="rgb24", **options))
    turns = _TURNS.get(round(frame.rotation / 90) * 90 % 360)
    return image if turns is None else image.transpose(turns)


_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
"""By degrees counterclockwise."""


def _has_alpha(pixels: Any) -> bool:
    return any(component.is_alpha for component in pixels.components)
