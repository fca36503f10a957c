"""Frames as they come: from a video file, a URL or a pipe, a folder of pictures, or raw ones on standard input.

A thread reads ahead by a few frames, so that a source that stops sending ends the stream instead of hanging it. Times
become regular ticks, each showing the latest frame; damaged and missing frames repeat the last one; frames of another
size are brought to the first one's. All of this is counted in :class:`Faults`. Nothing depends on how long the stream
is, and a stream that gives no frame at all is a UserError.
"""

from __future__ import annotations

import itertools
import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.errors import UserError
from pipelines.frames.options import STDIN, LiveOptions
from pipelines.frames.ticks import Arrival, Ticks
from pipelines.sources.folders import pictures_below
from pipelines.sources.images import SUFFIXES, BadImage, decode_rgb
from pipelines.sources.source import read_file
from pipelines.sources.video.video_end import Extent, missing_frames
from pipelines.sources.video.video_stream import (
    UNTIMED,
    ChunkClock,
    open_container,
    packets_of,
    pixel_aspect,
    reason_of,
    require_av,
    upright,
    video_stream,
)
from pipelines.sources.video.videos import frame_names

DEFAULT_FPS = Fraction(25)
"""Of frames that have no times."""

_AHEAD = 4
_CLOSING_SECONDS = 2.0


@dataclass
class Faults:
    """What was wrong with a stream, and what was done about it, in frames."""

    corrupt: int = 0
    """Frames that could not be decoded, or only in part."""
    repeated: int = 0
    """Ticks at which the frame before was shown again."""
    skipped: int = 0
    """Frames that no tick showed, for there was a later one."""
    resized: int = 0
    """Frames of another size than the first."""
    jumps: int = 0
    """Times that ran back, or on by more than a minute; the frames then follow each other."""
    truncated: bool = False
    """The stream ended within a frame, or before the end that it says it has."""
    stalled: bool = False
    """The stream stopped sending, and was given up."""

    def shown(self) -> dict[str, int | bool]:
        """What there was."""
        return {name: value for name, value in asdict(self).items() if value}


@dataclass
class Live:
    """The frames of a stream at regular ticks, uint8 [H, W, 3] in RGB, all of one size; to be iterated once."""

    options: LiveOptions
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self._arrivals = Watched(_arrivals(self.options, self.faults), self.options.stall_timeout)
        rate = next(self._arrivals, None)
        if not isinstance(rate, Fraction):
            raise UserError(self._nothing())
        wished = self.options.fps
        self.fps = rate if wished is None else Fraction(wished).limit_denominator(1001)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        ticks = Ticks(self.fps, self.faults)
        shown = itertools.islice(self._shown(ticks), self.options.limit)
        count = 0
        try:
            for frame in shown:
                count += 1
                yield frame
        finally:
            self.close()
        self.faults.stalled = self._arrivals.stalled
        if not count:
            raise UserError(self._nothing())

    def close(self) -> None:
        """Let go of the source."""
        self._arrivals.close()

    def _shown(self, ticks: Ticks) -> Iterator[NDArray[np.uint8]]:
        size: tuple[int, int] | None = None
        for arrival in self._arrivals:
            assert isinstance(arrival, Arrival)
            if arrival.image is not None:
                size = size or arrival.image.size
                if arrival.image.size != size:
                    self.faults.resized += 1
                    arrival = Arrival(arrival.time, arrival.image.resize(size, Image.Resampling.BICUBIC))
            for image in ticks.add(arrival):
                yield np.asarray(image)

    def _nothing(self) -> str:
        place = "standard input" if self.options.input == STDIN else self.options.input
        if self._arrivals.stalled:
            return f"{place} sent no frame for {self.options.stall_timeout:g} seconds"
        return f"{place} has no frame that can be decoded"


class Watched(Iterator[Any]):
    """Items that a thread takes from an iterator, a few ahead; they end when none came for ``timeout`` seconds.

    ``stalled`` says that this is why. What the iterator raises is raised here.
    """

    def __init__(self, items: Iterator[Any], timeout: float) -> None:
        self.stalled = False
        self._timeout = timeout
        self._queue: queue.Queue[tuple[Any, BaseException | None, bool]] = queue.Queue(_AHEAD)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(items,), daemon=True)
        self._thread.start()

    def __next__(self) -> Any:
        if self._closing.is_set():
            raise StopIteration
        try:
            item, error, more = self._queue.get(timeout=self._timeout)
        except queue.Empty:
            self.stalled, more, error, item = True, False, None, None
        if not more:
            self.close()
            if error is not None:
                raise error
            raise StopIteration
        return item

    def close(self) -> None:
        """Stop reading; a thread that is stuck is left behind, and ends with the process."""
        self._closing.set()
        if not self.stalled:
            self._thread.join(_CLOSING_SECONDS)

    def _work(self, items: Iterator[Any]) -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not self._hand_on((item, None, True)):
                    break
        except BaseException as raised:
            error = raised
        finally:
            getattr(items, "close", lambda: None)()
        self._hand_on((None, error, False))

    def _hand_on(self, item: tuple[Any, BaseException | None, bool]) -> bool:
        while not self._closing.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


def _arrivals(options: LiveOptions, faults: Faults) -> Iterator[Fraction | Arrival]:
    """The rate of the frames, then the frames. Raises UserError for what can't be opened."""
    if options.size is not None:
        return _raw(sys.stdin.buffer, options.size, faults)
    path = Path(options.input)
    if path.is_dir():
        return _pictures(path, faults)
    if "://" not in options.input:
        if not path.exists():
            raise UserError(f"{path} does not exist")
        if path.is_char_device() or path.is_block_device():
            raise UserError(f"{path} is a device, not a video or a pipe")
    return _video(options.input, faults)


def _raw(file: BinaryIO, size: tuple[int, int], faults: Faults) -> Iterator[Fraction | Arrival]:
    """Raw RGB24 frames, one after the other."""
    yield DEFAULT_FPS
    # A buffered reader would be locked by a thread that is stuck in it, and the process could not end.
    source: Any = getattr(file, "raw", file)
    frame = bytearray(size[0] * size[1] * 3)
    while True:
        view = memoryview(frame)
        while view and (count := source.readinto(view)):
            view = view[count:]
        if view:
            faults.truncated = len(view) < len(frame)
            return
        yield Arrival(None, Image.frombytes("RGB", size, bytes(frame)))


def folder_frames(folder: Path) -> list[str]:
    """The names of a folder's frames: numbered pictures by number, else all by name; none that is a ``_mask``.

    UserError if there are none. Those of subfolders are not read: each folder is another video.
    """
    others = (path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    names = frame_names(str(folder))[0] or sorted(name for name in others if not Path(name).stem.endswith("_mask"))
    if not names:
        raise without_pictures(str(folder), folder)
    return names


def without_pictures(what: str, folder: Path) -> UserError:
    """What is wrong with a folder of frames that has none; ``what`` is how the user named it."""
    below = next(iter(pictures_below(folder)), None)
    if below is None:
        return UserError(f"{what} holds no pictures")
    return UserError(f"{what} holds pictures only in subfolders: give one of these, such as {(folder / below).parent}")


def _pictures(folder: Path, faults: Faults) -> Iterator[Fraction | Arrival]:
    names = folder_frames(folder)
    yield DEFAULT_FPS
    for name in names:
        try:
            yield Arrival(None, decode_rgb(read_file(str(folder / name))))
        except (BadImage, OSError):
            faults.corrupt += 1
            yield Arrival(None, None)


def _video(place: str, faults: Faults) -> Iterator[Fraction | Arrival]:
    """The frames of whatever ffmpeg can open, in the order that they are shown in."""
    av = require_av()
    try:
        container = open_container(place)
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(f"{place} is not a video that can be read ({reason_of(error)})") from error
    with container:
        try:
            stream = video_stream(container)
        except BadImage as error:
            raise UserError(f"{place}: {error}") from error
        rate = stream.average_rate or stream.guessed_rate
        yield Fraction(rate) if rate and 0 < rate <= 1000 else DEFAULT_FPS
        extent = Extent()
        packets = _packets(av, packets_of(container, stream), extent, faults)
        if container.format.name in UNTIMED:
            yield from _counted(av, stream, packets, faults)
        else:
            yield from _timed(av, stream, packets, faults)
        path = Path(place)
        faults.truncated |= missing_frames(container, stream, extent, path if path.is_file() else None) is not None


def _packets(av: Any, demuxed: Iterator[Any], extent: Extent, faults: Faults) -> Iterator[Any]:
    try:
        for packet in demuxed:
            extent.add(packet)
            yield packet
    except av.error.FFmpegError:  # the container is torn; what came until here is good
        faults.truncated = True


def _frames(av: Any, packet: Any, faults: Faults) -> list[Any] | None:
    """What a packet makes known, None where that is an error."""
    try:
        return list(packet.decode())
    except av.error.FFmpegError:
        faults.corrupt += 1
        return None


def _shown(frame: Any, aspect: float, faults: Faults) -> Image.Image | None:
    try:
        image = None if frame.is_corrupt else upright(frame, aspect)
    except BadImage:
        image = None
    faults.corrupt += image is None
    return image


def _timed(av: Any, stream: Any, packets: Iterator[Any], faults: Faults) -> Iterator[Arrival]:
    aspect, last, begun = pixel_aspect(stream), None, False

    def seconds(stamp: int | None) -> float | None:
        return None if stamp is None else float(stamp * stream.time_base)

    for packet in packets:
        if packet.pts is not None:
            last = max(last or 0, packet.pts)
        frames = _frames(av, packet, faults)
        if frames is None and not begun:  # later on, the gap in the times will show
            yield Arrival(seconds(packet.pts), None)
        for frame in frames or ():
            begun = True
            yield Arrival(seconds(frame.pts), _shown(frame, aspect, faults))
    if last is not None:  # what could not be decoded at the end
        yield Arrival(seconds(last), None)


def _counted(av: Any, stream: Any, packets: Iterator[Any], faults: Faults) -> Iterator[Arrival]:
    """One arrival a tick; the frame before is shown again at those that have none."""
    aspect, clock, following = pixel_aspect(stream), ChunkClock(stream), None
    for packet in packets:
        if packet.size:
            clock.add(packet)
        frames = _frames(av, packet, faults)
        for frame in [None] if frames is None else frames:
            tick = clock.tick(frame)
            for _ in range(0 if following is None else tick - following):
                yield Arrival(None, None)
            following = tick + 1
            yield Arrival(None, None if frame is None else _shown(frame, aspect, faults))


def faults_in_words(faults: dict[str, int | bool], stall_timeout: float) -> dict[str, str]:
    """What was wrong with a stream, as facts to print."""
    words = {
        "stalled": f"the stream sent nothing for {stall_timeout:g} seconds; what had come is done",
        "truncated": "the stream ended within a frame, or before the end that it says it has",
        "corrupt": "{} frames could not be decoded",
        "repeated": "{} times the last frame stands in for one that is missing",
        "skipped": "{} frames came faster than they were taken",
        "resized": "{} frames had another size than the first",
        "jumps": "{} times the clock of the stream jumped",
        "mask_ended": "the masks ended at frame {}; from there on the last one holds",
        "truth_ended": "the true frames ended at frame {}; from there on the last one holds",
    }
    return {name.replace("_", " "): words[name].format(value) for name, value in faults.items()}


def skipped_in_words(share: float, below: float) -> str:
    """How many of a stream's patches were not encoded again, as a fact to print."""
    return f"{share:.1%} of the patches, which changed by less than {below:g}"
