"""What moves in a video against the camera: from the motion vectors that a codec stores, or from differences of frames.

An encoder looks for each block of a frame in another frame, and stores how far it moved. Decoders of H.264, MPEG-4 and
MPEG-2 hand these vectors out, so they cost next to nothing; those of HEVC, VP9 and AV1 do not. The camera's motion is
the median vector of a frame, and what is left is how fast a block moves against it. It is divided by its mean over the
frame, since frames refer to others at any distance. A frame has the mean of the last two that have vectors, and so has
a keyframe, which has none of its own. Where no frame of a video has any, its frames are encoded as H.264 in small, each
from the one before, and these vectors are taken.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.sources.images import BadImage
from pipelines.sources.source import Video
from pipelines.sources.video.video_stream import require_av

GRID = 32
"""Cells a side of a frame's motion, whatever its shape."""
EXPORT = {"flags2": "+export_mvs"}
"""The decoder's option that hands out vectors."""

_UNIT = 8  # pixels; few blocks are smaller
_STILL = 0.05  # pixels, added to the mean: where nothing moves, noise is not blown up
_ENCODED_SIDE, _DIFFERENCE_SIDE = 320, 128  # pixels
_AT_ONCE = 64  # frames
_ENCODER = {
    "preset": "veryfast",
    "qp": "26",
    "x264-params": "bframes=0:ref=1:keyint=infinite:scenecut=0:rc-lookahead=0:sync-lookahead=0:threads=1",
}


def has_motion(frame: Any) -> bool:
    """Whether a decoded frame has motion vectors."""
    return frame.side_data.get("MOTION_VECTORS") is not None


def motion_of_frame(frame: Any) -> NDArray[np.float32] | None:
    """How fast the parts of a decoded frame move against the camera, float32 [GRID, GRID], ≥ 0; None without vectors.

    1 is the mean of the frame. A part that was coded without a vector counts as the mean. It is turned as the frame is
    shown.
    """
    data = frame.side_data.get("MOTION_VECTORS")
    vectors = None if data is None else data.to_ndarray()
    if vectors is None or not len(vectors):
        return None
    turned = np.rot90(_against_camera(vectors, frame.width, frame.height), round(frame.rotation / 90) % 4)
    return _on_grid(np.ascontiguousarray(turned))


@dataclass(frozen=True)
class MovingFrame:
    """A decoded frame, whose motion is computed when it is asked for."""

    frame: Any

    @functools.cached_property
    def motion(self) -> NDArray[np.float32] | None:
        """See :func:`motion_of_frame`."""
        return motion_of_frame(self.frame)


def _against_camera(vectors: NDArray[Any], width: int, height: int) -> NDArray[np.float32]:
    """How fast each unit of a frame moves against the median, by the mean over the frame, [rows, columns]."""
    shape = (-(-height // _UNIT), -(-width // _UNIT))
    total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    scale = np.maximum(vectors["motion_scale"], 1)
    moved = np.stack([vectors["motion_x"] / scale, vectors["motion_y"] / scale]).astype(np.float32)
    for past in (True, False):  # a block may be made of both
        side = (vectors["source"] < 0) == past
        if not side.any():
            continue
        painted = _paint(vectors[side], moved[:, side], shape)
        known = ~np.isnan(painted[0])
        if known.any():
            camera = np.median(painted[:, known], axis=1)
            total[known] += np.hypot(*(painted[:, known] - camera[:, None]))
            count += known
    known = count > 0
    if not known.any():
        return np.ones(shape, np.float32)
    speed = total / np.maximum(count, 1)
    mean = speed[known].mean()
    return np.asarray(np.where(known, speed, mean) / (mean + _STILL), np.float32)


def _paint(vectors: NDArray[Any], moved: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """The vectors [2, n] laid on the units of a frame that their blocks cover, [2, *shape]; NaN where none is."""
    canvas = np.full((2, *shape), np.nan, np.float32)
    sizes = vectors["w"].astype(np.int32) * 256 + vectors["h"]
    for size in np.unique(sizes).tolist():
        width, height = divmod(size, 256)
        of_size = sizes == size
        left = (vectors["dst_x"][of_size] - width // 2) // _UNIT
        top = (vectors["dst_y"][of_size] - height // 2) // _UNIT
        for down in range(max(height // _UNIT, 1)):
            for right in range(max(width // _UNIT, 1)):
                rows, columns = top + down, left + right
                inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
                canvas[:, rows[inside], columns[inside]] = moved[:, of_size][:, inside]
    return canvas


def _on_grid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean over each cell of the grid; values weigh by what a cell has of them."""
    rows, columns = (_shares(side) for side in values.shape)
    return np.asarray(rows @ values @ columns.T, np.float32)


@functools.lru_cache(maxsize=64)
def _shares(side: int) -> NDArray[np.float32]:
    """How much of each cell of the grid lies in each of ``side`` equal parts, float32 [GRID, side]; rows sum to 1."""
    before = np.clip(np.linspace(0, side, GRID + 1)[:, None] - np.arange(side), 0, 1)
    return np.asarray(np.diff(before, axis=0) * GRID / side, np.float32)


def filled(maps: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    """The motion of frames, [n, GRID, GRID]: what has none has that of the last one before, or of the first one.

    None where no frame has any.
    """
    last = next((each for each in maps if each is not None), None)
    if last is None:
        return None
    made = []
    for each in maps:
        last = last if each is None else each
        made.append(last)
    return np.stack(made)


def encoded_motion(pictures: Iterable[Image.Image]) -> NDArray[np.float32]:
    """The motion of pictures that follow each other, [n, GRID, GRID], by an encoder that sees each after the other.

    Raises BadImage where there is no encoder of H.264.
    """
    av = require_av()
    try:
        encoder = av.CodecContext.create("libx264", "w")
    except (ValueError, av.error.FFmpegError) as error:
        raise BadImage("it has no motion vectors, and PyAV has no encoder of H.264 (libx264) here") from error
    decoder = av.CodecContext.create("h264", "r")
    decoder.options, decoder.thread_count = EXPORT, 1
    encoder.options, encoder.pix_fmt = _ENCODER, "yuv420p"
    maps: list[NDArray[np.float32] | None] = []
    for packet in _encode(encoder, pictures):
        maps += [motion_of_frame(frame) for frame in decoder.decode(packet)]
    maps += [motion_of_frame(frame) for frame in decoder.decode(None)]
    found = filled(maps)
    return np.zeros((len(maps), GRID, GRID), np.float32) if found is None else found


def motion_of(video: Video, method: str) -> tuple[NDArray[np.float32], bool]:
    """The motion of every frame of a video, [n, GRID, GRID], by ``motion`` or ``frame-difference``.

    Second, whether the file carries what it was read from: false where frames were encoded for it. Raises BadImage.
    """
    count = len(video.times)
    if method == "frame-difference":
        return frame_differences(_pictures(video)), True
    _, carried = video.read_moving(range(count), pictures=False)
    return (encoded_motion(_pictures(video)), False) if carried is None else (carried, True)


def _pictures(video: Video) -> Iterator[Image.Image]:
    """All frames, a few at a time."""
    for start in range(0, len(video.times), _AT_ONCE):
        yield from video.read(range(start, min(start + _AT_ONCE, len(video.times))), draft=_ENCODED_SIDE)


def _encode(encoder: Any, pictures: Iterable[Image.Image]) -> Iterator[Any]:
    av = require_av()
    for number, picture in enumerate(pictures):
        if number == 0:
            shrink = min(1.0, _ENCODED_SIDE / max(picture.size))
            encoder.width, encoder.height = (max(round(side * shrink / 2) * 2, 16) for side in picture.size)
        small = picture.resize((encoder.width, encoder.height), Image.Resampling.BILINEAR, reducing_gap=2.0)
        frame = av.VideoFrame.from_image(small)
        frame.pts = number
        yield from encoder.encode(frame)
    yield from encoder.encode(None)


def frame_differences(pictures: Iterable[Image.Image]) -> NDArray[np.float32]:
    """How much pictures differ from the one before, 0..1 by place, [n, GRID, GRID]; the first from the one after."""
    side = (_DIFFERENCE_SIDE, _DIFFERENCE_SIDE)
    maps: list[NDArray[np.float32] | None] = []
    before: NDArray[np.float32] | None = None
    for picture in pictures:
        small = picture.convert("L").resize(side, Image.Resampling.BOX, reducing_gap=2.0)
        grey = np.asarray(small, np.float32) / np.float32(255)
        maps.append(None if before is None else _on_grid(np.asarray(np.abs(grey - before), np.float32)))
        before = grey
    found = filled(maps)
    return np.zeros((len(maps), GRID, GRID), np.float32) if found is None else found
