"""Built-in videos: scenes of which one object moves, with its true mask in every frame.

``shapes-video:N`` needs no download. The object that the caption names goes left, right, up or down, grows or shrinks;
which of these is the label, and no single frame tells it: where and how large the object is half-way does not depend on
it. With ``label=color`` the label is that object's colour, as in the still scenes. All else stands still. A video is a
pure function of ``(split, index)`` and its options, and a frame costs about what a still scene does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pipelines.errors import UserError
from pipelines.sources.scenes.scene_drawing import COLORS, ScenePlan, generator_of, plan_scene, scene_label
from pipelines.sources.scenes.scenes import Scenes, parse_scenes
from pipelines.sources.source import Source
from pipelines.sources.video.videos import MiddleFrames, MiddleMasks

MOTIONS = {
    "going left": (-1, 0, 0),
    "going right": (1, 0, 0),
    "going up": (0, -1, 0),
    "going down": (0, 1, 0),
    "growing": (0, 0, 1),
    "shrinking": (0, 0, -1),
}
"""What the object does: the signs of its change in column, row and size."""

GRAMMAR = "shapes-video:N[,split=NAME][,objects=A-B][,size=PIXELS][,radius=A-B][,frames=N][,label=motion|color]"
LABELS = {"motion": list(MOTIONS), "color": list(COLORS)}

_FRAMES = 64
_MOST_FRAMES = 10_000
_RATE = 25
_WAY = (0.25, 0.5)
"""How far it goes in all, in sides of the picture."""
_SCALE = 0.6
"""The smaller of its two sizes, of the larger."""


@dataclass(frozen=True)
class MovingScenes:
    """Moving scenes by number: ``scenes[row]`` is a :class:`pipelines.sources.source.Video`."""

    scenes: Scenes
    frames: int = _FRAMES
    labelled_by: str = "motion"
    """A key of LABELS."""

    def __getitem__(self, row: int) -> MovingScene:
        return MovingScene(row, self.scenes, self.frames)

    def label(self, row: int) -> int:
        """Index into LABELS of its kind."""
        if self.labelled_by == "color":
            return scene_label(row, split=_plan_split(self.scenes), objects=self.scenes.bounds)
        return int(_motion_stream(row, self.scenes.split).integers(len(MOTIONS)))


@dataclass(frozen=True)
class MovingScene:
    """One video, as :class:`pipelines.sources.source.Video`; frames are drawn when they are read."""

    index: int
    scenes: Scenes
    frames: int

    @property
    def times(self) -> NDArray[np.float64]:
        """At 25 frames a second."""
        return np.arange(self.frames) / _RATE

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.scenes.size, self.scenes.size

    @cached_property
    def _plan(self) -> ScenePlan:
        scenes = self.scenes
        return plan_scene(self.index, _plan_split(scenes), scenes.bounds, scenes.size, scenes.radius)

    @cached_property
    def _behind(self) -> NDArray[np.float64]:
        canvas = self._plan.background()
        for number in range(1, len(self._plan.places)):
            canvas = self._plan.draw(canvas, number, self._plan.places[number])[0]
        return canvas

    @cached_property
    def _way(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Column, row and radius of the object in the middle of the video, and their change over all of it."""
        rng = _motion_stream(self.index, self.scenes.split)
        motion = list(MOTIONS.values())[int(rng.integers(len(MOTIONS)))]
        largest = self._plan.places[0][2]
        # Drawn alike for every motion, so that the middle frame tells nothing of it.
        way = min(rng.uniform(*_WAY), 0.95 - 2 * largest)
        low = largest + way / 2
        middle = np.asarray([*rng.uniform(low, 1 - low, 2), largest * (1 + _SCALE) / 2])
        return middle, np.asarray(motion) * np.asarray([way, way, largest * (1 - _SCALE)])

    def _draw(self, frame: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        middle, change = self._way
        column, row, radius = middle + change * (frame / max(self.frames - 1, 1) - 0.5)
        return self._plan.draw(self._behind, 0, (column, row, radius))

    def read(self, frames: Sequence[int], *, draft: int | None = None) -> list[Image.Image]:
        """These frames in RGB."""
        drawn = [np.clip(self._draw(frame)[0], 0, 255).round().astype(np.uint8) for frame in frames]
        return [Image.fromarray(pixels) for pixels in drawn]

    def read_moving(
        self, frames: Sequence[int], *, draft: int | None = None, pictures: bool = True
    ) -> tuple[list[Image.Image], None]:
        """These frames; they carry no motion."""
        return self.read(frames, draft=draft) if pictures else [], None

    def masks(self, frames: Sequence[int]) -> NDArray[np.bool_]:
        """Where the object that moves is in these frames."""
        return np.stack([self._draw(frame)[1] for frame in frames])

    @property
    def caption(self) -> str:
        """The named object, and what it does."""
        motion = int(_motion_stream(self.index, self.scenes.split).integers(len(MOTIONS)))
        return f"{self._plan.caption} {list(MOTIONS)[motion]}"


def open_moving_scenes(spec: str, limit: int | None = None, split: str | None = None) -> Source:
    """The source that ``shapes-video:N,…`` asks for; ``split`` is used unless the text names one. UserError."""
    videos = _parse(spec, split)
    scenes = videos.scenes
    if limit is not None:
        scenes = replace(scenes, count=min(scenes.count, limit))
        videos = replace(videos, scenes=scenes)
    length = "" if videos.frames == _FRAMES else f"frames{videos.frames}-"
    keys = [key.as_py().replace("shapes-", f"shapes-video-{length}", 1) for key in scenes.keys()]  # noqa: SIM118 (of pyarrow)

    def captions(rows: NDArray[np.int64]) -> pa.Array:
        return pa.array([videos[int(row)].caption for row in rows], pa.string())

    return Source(
        spec,
        pa.array(keys, pa.string()),
        MiddleFrames(videos),
        captions,
        np.asarray([videos.label(i) for i in range(scenes.count)], np.int64),
        LABELS[videos.labelled_by],
        masks=MiddleMasks(videos),
        videos=videos,
    )


def _parse(spec: str, split: str | None) -> MovingScenes:
    frames, labelled_by = _FRAMES, "motion"
    kept = []
    for part in spec.removeprefix("shapes-video:").split(","):
        if part.startswith("frames="):
            count = part.removeprefix("frames=")
            if not re.fullmatch("[0-9]{1,6}", count) or not 1 <= int(count) <= _MOST_FRAMES:
                raise UserError(f"{spec!r}: frames is {count!r}, not within 1 to {_MOST_FRAMES}; write {GRAMMAR}")
            frames = int(count)
        elif part.startswith("label="):
            labelled_by = part.removeprefix("label=")
            if labelled_by not in LABELS:
                known = " or ".join(LABELS)
                raise UserError(f"{spec!r}: label is {labelled_by!r}, not {known}; write {GRAMMAR}")
        else:
            kept.append(part)
    try:
        return MovingScenes(parse_scenes("shapes:" + ",".join(kept), split), frames, labelled_by)
    except UserError as error:
        reason = str(error).partition(": ")[2].partition("; write ")[0]
        raise UserError(f"{spec!r}: {reason}; write {GRAMMAR}") from error


def _plan_split(scenes: Scenes) -> str:
    """The split that the scenes' plans are drawn from; still scenes of the same split are others."""
    return f"video-{scenes.split}"


def _motion_stream(index: int, split: str) -> np.random.Generator:
    return generator_of(index, f"motion-{split}")
