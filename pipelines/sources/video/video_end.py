"""Whether a video lacks its end: what its header promises, what was read of it, and where the file itself ends.

A header's figures alone are no proof. An edit list leaves frames out, dropped frames leave empty chunks, the last frame
may be held long, and tags are copied from longer videos. So less than was promised means a cut
file only if the outermost element of the file reaches beyond the file's end, wherever the container tells that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.sources.video.video_stream import UNTIMED

_MISSING_SHARE, _MISSING_SECONDS = 0.02, 1.0
"""A file whose video ends earlier than it says by more than both of these lacks its end; muxers round."""

PROGRAM_STREAMS = ("mpegts", "mpeg")
"""Containers that promise nothing: their length is ffmpeg's guess."""

_FROM_ZERO = ("matroska,webm", "asf")
"""Containers whose headers tell when the last frame ends, whenever the first one begins."""

_MOST_RIFFS = 10_000
_SEGMENT = b"\x18\x53\x80\x67"


@dataclass
class Extent:
    """How much of a stream was read."""

    packets: int = 0
    """Whole ones that hold something."""
    ticks: int = 0
    """The last decoding time, counted in the stream's time base, and one more."""
    end: float = -math.inf
    """When the last frame ends, in the stream's time base."""

    def add(self, packet: Any) -> None:
        """A packet that was read; an empty one counts for nothing."""
        if not packet.size:
            return
        self.packets += not packet.is_corrupt
        if packet.dts is not None:
            self.ticks = max(self.ticks, packet.dts + 1)
        if packet.pts is not None:
            self.end = max(self.end, packet.pts + (packet.duration or 0))


def missing_frames(container: Any, stream: Any, extent: Extent, path: Path | None) -> str | None:
    """``N of M frames``, where a whole stream was read and less came than its index lists; ``path`` if it is a file."""
    name = container.format.name
    if "mp4" in name:  # what an edit leaves out is not in the index
        read, promised = extent.packets, sum(entry.size > 0 for entry in stream.index_entries)
    else:
        read, promised = (extent.ticks if name in UNTIMED else extent.packets), stream.frames
    if read >= promised or ("mp4" not in name and _is_complete(path, name)):
        return None
    return f"{read} of {promised} frames"


def missing_seconds(container: Any, stream: Any, extent: Extent, times: Any, path: Path) -> str | None:
    """``N of M seconds``, where a file's frames, shown at ``times``, end long before its header says."""
    name = container.format.name
    duration = None
    if stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    elif "DURATION" in stream.metadata:
        duration = _seconds(stream.metadata["DURATION"])
    elif container.duration is not None and len(container.streams) == 1:
        duration = container.duration / 1e6
    if duration is None or len(times) < 2 or name in PROGRAM_STREAMS or ("mp4" in name and stream.frames):
        return None
    length = times[-1] - times[0]
    shown = length + length / (len(times) - 1)
    end = extent.end * float(stream.time_base or 0)
    read = max(shown, end - (0 if name in _FROM_ZERO else times[0]))
    if duration - read <= max(_MISSING_SECONDS, _MISSING_SHARE * duration) or _is_complete(path, name):
        return None
    return f"{read:.1f} of {duration:.1f} seconds"


def _seconds(text: str) -> float | None:
    """Seconds of ``HH:MM:SS.fraction``, None for anything else."""
    try:
        hours, minutes, seconds = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return None


def _is_complete(path: Path | None, name: str) -> bool:
    """Whether a file's outermost element says where it ends, and that is within the file."""
    end_of = _ENDS.get(name)
    if path is None or end_of is None:
        return False
    size = path.stat().st_size
    with path.open("rb") as file:
        end = end_of(file, size)
    return end is not None and end <= size


def _matroska_end(file: BinaryIO, size: int) -> int | None:
    """Where the segment ends; None for a recording that did not know."""
    header, place = _ebml_size(file, 4)
    if header is None:
        return None
    place += min(header, size)
    file.seek(place)
    if file.read(4) != _SEGMENT:
        return None
    segment, place = _ebml_size(file, place + 4)
    return None if segment is None else place + segment


def _ebml_size(file: BinaryIO, place: int) -> tuple[int | None, int]:
    """The size that is written at a place, None if it is unknown, and where what it measures begins."""
    file.seek(place)
    data = file.read(8)
    width = 9 - data[0].bit_length() if data else 9
    ones = (1 << 7 * width) - 1
    value = int.from_bytes(data[:width], "big") & ones
    return (None if width > len(data) or value == ones else value), place + width


def _riff_end(file: BinaryIO, size: int) -> int | None:
    """Where the last of the RIFF chunks ends that follow each other."""
    place = 0
    for _ in range(_MOST_RIFFS):
        file.seek(place)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or length == 0:
            return place or None
        place += 8 + length
        if place >= size:
            return place
        place += length % 2
    return None


def _asf_end(file: BinaryIO, size: int) -> int | None:
    """Where the data object ends, behind the header object; None for a broadcast."""
    file.seek(16)
    begin = int.from_bytes(file.read(8), "little")
    file.seek(min(begin, size) + 16)
    length = int.from_bytes(file.read(8), "little")
    return begin + length if length else None


def _flv_end(file: BinaryIO, size: int) -> int | None:
    """The file's size, if a whole tag with its own length behind it is the last thing in it."""
    file.seek(max(size - 4, 0))
    length = int.from_bytes(file.read(4), "big")
    file.seek(max(size - 4 - length, 0))
    tag = file.read(4)
    return size if 11 + int.from_bytes(tag[1:], "big") == length < size else None


_ENDS: dict[str, Callable[[BinaryIO, int], int | None]] = {
    "matroska,webm": _matroska_end,
    "avi": _riff_end,
    "asf": _asf_end,
    "flv": _flv_end,
}
