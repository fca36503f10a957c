"""What goes along with a stream, frame by frame: its masks, or what is true of it where it is occluded.

It is one picture for all frames, a folder of pictures, which go by name with a folder of frames and in order with
anything else, or a video, of which the same ticks are taken. Where it ends before the stream, its last frame stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UserError
from pipelines.frames.live import Live, folder_frames, without_pictures
from pipelines.frames.options import LiveOptions, is_stream
from pipelines.sources.images import SUFFIXES, BadImage, decode_mask, decode_rgb
from pipelines.sources.source import read_file

_WHITE = 128  # of a video: what is white has become a little grey


class Companion:
    """Arrays for a stream's frames, in order. ``option`` is how the user named it, for errors."""

    def __init__(self, option: str, place: Path, live: Live, *, masks: bool) -> None:
        self._what = f"{option} {place}"
        self.ended: int | None = None
        """The number of the first frame that it had nothing for."""
        self._last: NDArray[Any] | None = None
        self._rest: Iterator[NDArray[Any]] | None = None
        self._named: Callable[[str], NDArray[Any]] | None = None
        decode: Callable[[bytes], NDArray[Any]] = decode_mask if masks else _rgb
        if not place.exists():
            raise UserError(f"{self._what} does not exist")
        folder = Path(live.options.input)
        if place.is_dir() and folder.is_dir():
            files = self._pictures(place, masks=masks)
            self._named = lambda name: decode(read_file(str(_file(files, name, place))))
        elif place.is_dir():
            files = self._pictures(place, masks=masks)
            self._rest = (decode(read_file(str(files[stem]))) for stem in sorted(files))
        elif is_stream(str(place)):
            options = LiveOptions(str(place), fps=float(live.fps), stall_timeout=live.options.stall_timeout)
            self._rest = (_white(frame) if masks else frame for frame in Live(options))
        else:
            self._rest = iter((self._decoded(decode, place),))
            self.ended = -1  # one picture is meant for all
        self._names = folder_frames(folder) if self._named else []

    def of(self, number: int) -> NDArray[Any]:
        """That of frame ``number``, to be called for every frame once. UserError."""
        try:
            return self._next(number)
        except (BadImage, OSError) as error:
            raise UserError(f"{self._what}: {error} (frame {number})") from error

    def _next(self, number: int) -> NDArray[Any]:
        if self._named is not None:
            return self._named(self._names[number])
        assert self._rest is not None
        found = next(self._rest, None)
        if found is None:
            assert self._last is not None
            self.ended = number if self.ended is None else self.ended
            return self._last
        self._last = found
        return found

    def _pictures(self, folder: Path, *, masks: bool) -> dict[str, Path]:
        """A folder's pictures by name; ``NAME_mask`` is the mask of NAME, and where masks are wanted it goes first."""
        files = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES}
        if not files:
            raise without_pictures(self._what, folder)
        marked = {stem.removesuffix("_mask"): file for stem, file in files.items() if stem.endswith("_mask")}
        if masks and marked:
            return marked
        return {stem: file for stem, file in files.items() if not stem.endswith("_mask")}

    def _decoded(self, decode: Callable[[bytes], NDArray[Any]], place: Path) -> NDArray[Any]:
        try:
            return decode(read_file(str(place)))
        except (BadImage, OSError) as error:
            raise UserError(f"{self._what}: {error}") from error


def _file(files: dict[str, Path], name: str, folder: Path) -> Path:
    stem = Path(name).stem
    if stem not in files:
        raise BadImage(f"there is no picture for {name} in {folder}")
    return files[stem]


def _rgb(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode_rgb(data))


def _white(frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray(frame.mean(2) >= _WHITE)
