"""Video files decoded by PyAV, which brings ffmpeg's libraries: any container and codec, by time, upright, 8-bit RGB.

The packets are indexed first, one at a time and without decoding: that tells every frame's time, whether the file is
whole, and where to begin decoding. A file that is no regular one, can't be opened, has no video, no frames, or lacks
its end raises ``BadImage`` with a short reason. Where times can't tell frames apart, the frames are counted instead: in
containers without times of their own (AVI), and in joined streams, whose times repeat or begin anew and then go on from
where they were.
"""

from __future__ import annotations

import functools
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.sources.images import BadImage
from pipelines.sources.video.motion import EXPORT, MovingFrame, filled, has_motion
from pipelines.sources.video.video_end import PROGRAM_STREAMS, Extent, missing_frames, missing_seconds
from pipelines.sources.video.video_stream import (
    LONGEST_GAP,
    UNTIMED,
    ChunkClock,
    frames_of,
    header_size,
    open_container,
    packets_of,
    pixel_aspect,
    reason_of,
    require_av,
    require_regular,
    upright,
    video_stream,
)

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv", ".ogv", ".3gp")
)
"""File name endings, in lower case, that make a file a video."""

_SHOWN = 0x10
"""The bit of a VP8 frame's first byte that says whether it is shown, or only referred to."""


@dataclass(frozen=True)
class _Index:
    stamps: NDArray[np.int64] | None
    """When each frame is shown, in the stream's time base, ascending; None where frames can only be counted."""
    times: NDArray[np.float64]
    """The same in seconds."""
    size: tuple[int, int]
    """Width and height as shown."""


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
        """These frames, ascending numbers, in upright RGB, all of one size. Raises BadImage."""
        return self._read(frames, self._shown)

    def read_moving(
        self, frames: Sequence[int], *, draft: int | None = None, pictures: bool = True
    ) -> tuple[list[Image.Image], NDArray[np.float32] | None]:
        """These frames and their motion, None where no frame that was decoded for them has any. Raises BadImage.

        It is the mean of the last two frames that have vectors: single ones are noisy, above all B-frames.
        """
        recent: deque[MovingFrame] = deque(maxlen=2)

        def take(frame: Any, aspect: float, *, wanted: bool) -> tuple[Image.Image | None, NDArray[np.float32] | None]:
            if has_motion(frame):
                recent.append(MovingFrame(frame))
            if not wanted:
                return None, None
            moving = [each.motion for each in recent if each.motion is not None]
            mean = np.asarray(np.mean(moving, axis=0), np.float32) if moving else None
            return self._shown(frame, aspect) if pictures else None, mean

        found = self._read(frames, take, every=True)
        return [image for image, _ in found if image is not None], filled([moving for _, moving in found])

    def _shown(self, frame: Any, aspect: float) -> Image.Image:
        image = upright(frame, aspect)
        return image if image.size == self.size else image.resize(self.size, Image.Resampling.BICUBIC)

    def _read(self, frames: Sequence[int], take: Callable[..., Any], *, every: bool = False) -> list[Any]:
        """What ``take`` makes of these frames; with ``every``, it is also shown those in between. Raises BadImage."""
        found = self._decode(frames, take, every, seek=self._index.stamps is not None)
        if found is None or len(found) < len(frames):  # it led behind the first one, or its times can't be trusted
            found = self._decode(frames, take, every, seek=False)
        if found is None or len(found) < len(frames):
            raise BadImage(f"damaged: only {len(found or ())} of {len(frames)} frames could be decoded")
        return found

    def _decode(self, frames: Sequence[int], take: Callable[..., Any], every: bool, *, seek: bool) -> list[Any] | None:
        """The frames that were met; None where decoding began behind the first of them, or times run backwards."""
        stamps, wanted, found, previous = self._index.stamps, set(frames), [], -1
        with _opened(self._path, EXPORT if every else {}) as (container, stream):
            if seek and stamps is not None and frames[0] > 0:
                container.seek(int(stamps[frames[0]]), stream=stream, backward=True)
            aspect = pixel_aspect(stream)
            for number, frame in enumerate(frames_of(container, stream)):
                place = previous + 1
                if stamps is not None and frame.pts is not None:
                    place = int(np.searchsorted(stamps, frame.pts))
                if place <= previous or (number == 0 and place > frames[0]):
                    if seek:
                        return None
                    place = previous + 1
                previous = place
                if every:
                    taken = take(frame, aspect, wanted=place in wanted)
                elif place in wanted:
                    taken = take(frame, aspect)
                if place in wanted:
                    found.append(taken)
                if place >= frames[-1]:
                    break
        return found


@functools.lru_cache(maxsize=16_384)
def _index(path: str, changed: int) -> _Index:
    """What the packets of a file tell; ``changed`` is when it was, so that another file of the name is read anew."""
    with _opened(path) as (container, stream):
        scan = _Scan(container, stream)
        if not scan.stamps:
            raise BadImage("its video has no frames")
        if scan.first is None:
            raise BadImage("no frame of its video can be decoded")
        stamps: NDArray[np.int64] | None = None
        if scan.ticks:
            times = (np.asarray(scan.ticks) - scan.ticks[0]) / float(stream.average_rate or 25)
        elif not scan.timed:
            times = np.arange(len(_frame_stamps(path))) / float(stream.average_rate or 25)
        elif scan.anew or len(set(scan.stamps)) < len(scan.stamps):
            times = _continued(_frame_stamps(path), container, stream)
        else:
            stamps = _decodable(np.sort(np.asarray(scan.stamps, np.int64)), scan.first_stamp)
            times = np.asarray(stamps * float(stream.time_base or 0), np.float64)
        missing = missing_frames(container, stream, scan.extent, Path(path))
        missing = missing or missing_seconds(container, stream, scan.extent, times, Path(path))
        if missing:
            raise BadImage(f"truncated: {missing}")
        return _Index(stamps, times, scan.first.size)


class _Scan:
    """All packets of a stream, read one by one, and the first frame; every frame where they have no times."""

    def __init__(self, container: Any, stream: Any) -> None:
        self.stamps, self.ticks, self.timed, self.anew = array("q"), array("q"), True, False
        """The presentation time of each packet that is shown; the tick of each frame, of an untimed container alone;
        whether all packets have times; whether these begin anew somewhere."""
        self.first: Image.Image | None = None
        self.first_stamp: int | None = None
        self.extent = Extent()
        clock = ChunkClock(stream) if container.format.name in UNTIMED else None
        hides = stream.codec_context.name == "vp8"
        broadcast, decoded = container.format.name in PROGRAM_STREAMS, None
        gap = LONGEST_GAP / float(stream.time_base or 1)
        for packet in packets_of(container, stream):
            self.extent.add(packet)
            if packet.size and not packet.is_discard and not (hides and not memoryview(packet)[0] & _SHOWN):
                self.timed &= packet.pts is not None
                self.stamps.append(packet.pts or 0)
                if decoded is not None and packet.pts is not None:
                    self.anew |= packet.pts < decoded or (broadcast and packet.pts - decoded > gap)
                if packet.dts is not None:
                    decoded = packet.dts if decoded is None else max(decoded, packet.dts)
            if clock is not None and packet.size:
                clock.add(packet)
            if clock is None and self.first is not None:
                continue
            for frame in packet.decode():
                if self.first is None:
                    self.first, self.first_stamp = upright(frame, pixel_aspect(stream)), frame.pts
                if clock is not None:
                    self.ticks.append(clock.tick(frame))


def _frame_stamps(path: str) -> list[int | None]:
    """The time that each frame brings, in the order that they are decoded in."""
    with _opened(path) as (container, stream):
        return [frame.pts for frame in frames_of(container, stream)]


def _decodable(stamps: NDArray[np.int64], first: int | None) -> NDArray[np.int64]:
    """The times from the first frame that can be decoded on: those before it refer to what was cut off."""
    place = 0 if first is None else int(np.searchsorted(stamps, first))
    return stamps[place:] if place < len(stamps) and stamps[place] == first else stamps


def _continued(stamps: Sequence[int | None], container: Any, stream: Any) -> NDArray[np.float64]:
    """Ascending seconds of frames whose clock may be set anew: each time, it goes on from where it was."""
    unit, period = float(stream.time_base or 0), 1 / float(stream.average_rate or 25)
    longest = LONGEST_GAP if container.format.name in PROGRAM_STREAMS else np.inf
    times = np.empty(len(stamps))
    offset = 0.0
    for number, stamp in enumerate(stamps):
        time = None if stamp is None else stamp * unit + offset
        if number and (time is None or not 0 <= time - times[number - 1] <= longest):
            time = times[number - 1] + period
            offset = offset if stamp is None else time - stamp * unit
        times[number] = time or 0.0
    return times


@contextmanager
def _opened(path: str, options: Mapping[str, str] | None = None) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; whatever ffmpeg says of either becomes BadImage.

    ``options`` are further ones of the decoder.
    """
    av = require_av()
    require_regular(path)
    if Path(path).stat().st_size == 0:
        raise BadImage("empty (0 bytes)")
    try:
        with open_container(path) as container:
            stream = video_stream(container, options or {})
            if stream.codec_context.width == 0:  # it may have been too large for the decoder
                header_size(path)
            stream.codec_context.thread_count = 1  # the loader has processes enough
            yield container, stream
    except (av.error.FFmpegError, av.error.InvalidDataError) as error:
        raise BadImage(f"not a video that can be read ({reason_of(error)})") from error
