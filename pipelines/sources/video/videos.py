"""Videos as a source: files, folders of numbered frames, one folder a class, and the built-in moving shapes.

Below a folder, every video file is a clip and so is every folder of numbered pictures; keys are their paths. Classes
are the first folder of each path, as with images, and a text file beside a clip is its caption. A picture
``NAME_mask.png`` beside ``NAME.jpg`` is that frame's true mask. To commands that know images alone, a video is its
middle frame.
"""

from __future__ import annotations

import functools
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pipelines.outputs import is_ours
from pipelines.sources.folders import class_caption, class_names
from pipelines.sources.images import SUFFIXES, BadImage, EncodedImage, decode_mask
from pipelines.sources.names import text_names
from pipelines.sources.source import Source, Video, Videos, read_file
from pipelines.sources.tables.columns import Wishes
from pipelines.sources.text_files import BadText, read_text
from pipelines.sources.video.video_file import VIDEO_SUFFIXES, VideoFile
from pipelines.sources.video.video_stream import require_av, require_regular

_NUMBERED = re.compile(r"\d+$")
_FEWEST_FRAMES = 2


@dataclass(frozen=True)
class FileVideos:
    """Videos by path: files, or folders of frames."""

    paths: tuple[str, ...]

    def __getitem__(self, row: int) -> Video:
        path = self.paths[row]
        return FrameFolder(path) if os.path.isdir(path) else VideoFile(path)  # noqa: PTH112 (as often as frames)


class FrameFolder:
    """A folder of numbered pictures as :class:`pipelines.sources.source.Video`; a frame lasts a second, for
    want of a rate."""

    def __init__(self, path: str) -> None:
        self._folder = Path(path)
        self._names, self._masks = frame_names(path)
        if not self._names:
            raise BadImage("it holds no numbered pictures any more")

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """Width and height of the first frame."""
        return EncodedImage(self._bytes(self._names[0])).size

    @property
    def times(self) -> NDArray[np.float64]:
        """0, 1, 2, …"""
        return np.arange(len(self._names), dtype=np.float64)

    def read(self, frames: Sequence[int], *, draft: int | None = None) -> list[Image.Image]:
        """These frames in upright RGB; BadImage if one can't be decoded or has another size than the first."""
        images = []
        for frame in frames:
            name = self._names[frame]
            try:
                encoded = EncodedImage(self._bytes(name))
                if encoded.size != self.size:
                    raise BadImage(f"{encoded.size[0]}×{encoded.size[1]}, the first is {self.size[0]}×{self.size[1]}")
                images.append(encoded.decode(draft=draft))
            except BadImage as error:
                raise BadImage(f"frame {name}: {error}") from error
        return images

    def read_moving(
        self, frames: Sequence[int], *, draft: int | None = None, pictures: bool = True
    ) -> tuple[list[Image.Image], None]:
        """These frames; they carry no motion."""
        return self.read(frames, draft=draft) if pictures else [], None

    def masks(self, frames: Sequence[int]) -> NDArray[np.bool_] | None:
        """The masks beside these frames, None where one has none."""
        names = [self._masks.get(frame) for frame in frames]
        if any(name is None for name in names):
            return None
        return np.stack([decode_mask(self._bytes(str(name))) for name in names])

    def _bytes(self, name: str) -> bytes:
        require_regular(self._folder / name)
        return read_file(str(self._folder / name))


def open_videos(name: str, folder: Path, limit: int | None = None) -> Source | None:
    """The source of the videos below a folder, None if there are none; ``name`` is what the user typed."""
    found = sorted(_walk(str(folder), ""))[:limit]
    return video_source(name, folder, found) if found else None


def open_video_files(name: str, files: list[Path], wishes: Wishes) -> Source:
    """The source of these video files; their keys are their paths below the folder that they have in common."""
    folder = files[0].parent if len(files) == 1 else Path(os.path.commonpath([file.parent for file in files]))
    return video_source(name, folder, [file.relative_to(folder).as_posix() for file in files][: wishes.limit])


def video_source(name: str, folder: Path, found: Sequence[str]) -> Source:
    """The source of videos at these paths relative to a folder. UserError if they are files and can't be decoded."""
    paths = [str(folder / path) for path in found]
    if any(PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES for path in found):
        require_av()
    names = class_names(list(found))
    labels = None
    if names is not None:
        numbers = {label: i for i, label in enumerate(names)}
        labels = np.asarray([numbers[path.partition("/")[0]] for path in found], np.int64)
    faults: dict[int, str] = {}
    captions = [_caption(Path(path), row, faults) for row, path in enumerate(paths)]
    if names is not None and labels is not None:
        names = text_names(names)
        for row in (row for row, text in enumerate(captions) if not text and row not in faults):
            captions[row] = class_caption(names[labels[row]])
    videos = FileVideos(tuple(paths))
    return Source(
        name,
        pa.array(text_names(found), pa.string()),
        MiddleFrames(videos),
        pa.array(captions, pa.string()) if any(captions) or faults else None,
        labels,
        names,
        masks=MiddleMasks(videos) if any(map(_has_masks, paths)) else None,
        videos=videos,
        faults=faults,
    )


def _walk(folder: str, prefix: str, parents: tuple[str, ...] = ()) -> Iterable[str]:
    """The relative paths of video files and frame folders."""
    real = os.path.realpath(folder)
    if real in parents:  # a link to a folder above it
        return
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
    if prefix and is_ours({entry.name for entry in found}):
        return
    pictures = [entry.name for entry in found if _is_numbered(entry.name)]
    if len(pictures) >= _FEWEST_FRAMES:
        yield prefix.rstrip("/") or "."
    for entry in found:
        if entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", (*parents, real))
        elif PurePosixPath(entry.name).suffix.lower() in VIDEO_SUFFIXES:
            yield f"{prefix}{entry.name}"


def frame_names(folder: str) -> tuple[list[str], dict[int, str]]:
    """A folder's frames by number, and the names of the masks that some have."""
    with os.scandir(folder) as entries:
        names = {entry.name for entry in entries}
    frames = sorted(filter(_is_numbered, names), key=lambda name: (_number(name), name))
    masks = {i: f"{PurePosixPath(name).stem}_mask.png" for i, name in enumerate(frames)}
    return frames, {i: mask for i, mask in masks.items() if mask in names}


def _is_numbered(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and _NUMBERED.search(path.stem) is not None


def _number(name: str) -> int:
    found = _NUMBERED.search(PurePosixPath(name).stem)
    return int(found[0]) if found else -1


def _has_masks(path: str) -> bool:
    return os.path.isdir(path) and bool(frame_names(path)[1])  # noqa: PTH112


def _caption(path: Path, row: int, faults: dict[int, str]) -> str | None:
    """The text beside a video file or frame folder; why there is none that can be read goes into ``faults``."""
    file = path.with_suffix(".txt") if path.suffix.lower() in VIDEO_SUFFIXES else path.with_name(path.name + ".txt")
    try:
        return read_text(file) or None
    except BadText as error:
        faults[row] = str(error)
    except OSError:
        pass
    return None


@dataclass(frozen=True)
class MiddleFrames:
    """The middle frame of every video, as PNG: what an image is to commands that know images alone."""

    videos: Videos

    def __getitem__(self, row: int) -> bytes:
        video = self.videos[row]
        buffer = io.BytesIO()
        video.read([(len(video.times) - 1) // 2])[0].save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


@dataclass(frozen=True)
class MiddleMasks:
    """The true mask of the same frames."""

    videos: Videos

    def __getitem__(self, row: int) -> NDArray[np.bool_] | None:
        video = self.videos[row]
        masks = video.masks([(len(video.times) - 1) // 2])
        return None if masks is None else masks[0]
