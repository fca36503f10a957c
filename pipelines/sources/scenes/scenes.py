"""The built-in scenes as a source: ``shapes:N``, drawn when they are read.

Labels are known at once; captions cost about half a millisecond a scene and are computed when first asked for. The
pictures of a small source are kept once drawn, so that a second epoch is not drawn again.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.errors import UserError
from pipelines.sources.scenes.scene_drawing import (
    COLORS,
    LABELS,
    OBJECT_COUNTS,
    RADIUS,
    SHAPES,
    Scene,
    ScenePlan,
    draw_scene,
    generator_of,
    plan_scene,
    scene_label,
)
from pipelines.sources.source import Source, Swap

GRAMMAR = "shapes:N[,split=NAME][,objects=A-B][,size=PIXELS][,radius=A-B][,label=color|shape]"

_MOST = len(OBJECT_COUNTS)
_SIZE = 96
_SIZES = (16, 2048)
_RADII = (0.02, 0.3)
_CACHED_SCENES = 20_000


@dataclass(frozen=True)
class Scenes:
    """The first ``count`` scenes of a split; ``objects`` None for one to three of them."""

    count: int
    split: str = "train"
    objects: tuple[int, int] | None = None
    size: int = _SIZE
    radius: tuple[float, float] = RADIUS
    labelled_by: str = "color"
    """A key of LABELS."""

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the most objects in a scene."""
        return self.objects or (1, _MOST)

    def keys(self) -> pa.Array:
        """Keys that name everything a scene depends on."""
        parts = ["shapes", self.split]
        parts += [] if self.objects is None else ["objects{}-{}".format(*self.objects)]
        parts += [] if self.size == _SIZE else [f"size{self.size}"]
        parts += [] if self.radius == RADIUS else ["radius{:g}-{:g}".format(*self.radius)]
        return pa.array([f"{'-'.join(parts)}-{i:06d}" for i in range(self.count)], pa.string())

    def plan(self, row: int) -> ScenePlan:
        """Everything about one scene but its pixels."""
        return plan_scene(row, self.split, self.bounds, self.size, self.radius)

    def draw(self, row: int) -> Scene:
        """One scene, drawn."""
        return draw_scene(row, split=self.split, objects=self.bounds, size=self.size, radius=self.radius)

    def labels(self) -> NDArray[np.int64]:
        """Indices into LABELS of its kind."""
        options: dict[str, Any] = {"split": self.split, "objects": self.bounds, "labelled_by": self.labelled_by}
        return np.fromiter((scene_label(i, **options) for i in range(self.count)), np.int64, self.count)

    def captions(self, rows: NDArray[np.int64]) -> pa.Array:
        """The captions of these scenes."""
        return pa.array([self.plan(int(row)).caption for row in rows], pa.string())


@dataclass(frozen=True)
class SceneImages:
    """The scenes as PNG."""

    scenes: Scenes
    drawn: dict[int, bytes] = field(default_factory=dict)

    def __getitem__(self, row: int) -> bytes:
        png = self.drawn.get(row)
        if png is None:
            png = self.scenes.draw(row).png()
            if self.scenes.count <= _CACHED_SCENES:
                self.drawn[row] = png
        return png

    def __reduce__(self) -> tuple[type[SceneImages], tuple[Scenes]]:
        # A worker draws its own share; the pictures are not sent to it.
        return SceneImages, (self.scenes,)


@dataclass(frozen=True)
class SceneMasks:
    """The true masks of the named objects."""

    scenes: Scenes

    def __getitem__(self, row: int) -> NDArray[np.bool_]:
        return self.scenes.draw(row).mask


@dataclass(frozen=True)
class SceneSwaps:
    """The captions of the scenes with another object named: one of the same scene, and one that is not there."""

    scenes: Scenes

    def __getitem__(self, row: int) -> Swap:
        plan = self.scenes.plan(row)
        taken = {word for named in plan.objects for word in named}
        rng = generator_of(row, f"{self.scenes.split}, absent")  # other numbers than those that draw the scene
        absent = [str(rng.choice([word for word in words if word not in taken])) for words in (COLORS, SHAPES)]
        present, mask = None, None
        if len(plan.objects) > 1:
            present, mask = plan.caption_of(plan.objects[1]), plan.paint()[1][1]
        return Swap(plan.caption_of((absent[0], absent[1])), present, mask)


def open_scenes(spec: str, limit: int | None = None, split: str | None = None) -> Source:
    """The source that ``shapes:N,…`` asks for; ``split`` is used unless the text names one."""
    scenes = parse_scenes(spec, split)
    if limit is not None:
        scenes = replace(scenes, count=min(scenes.count, limit))
    return Source(
        spec,
        scenes.keys(),
        SceneImages(scenes),
        scenes.captions,
        scenes.labels(),
        list(LABELS[scenes.labelled_by]),
        masks=SceneMasks(scenes),
        swaps=SceneSwaps(scenes),
    )


def parse_scenes(spec: str, split: str | None = None) -> Scenes:
    """Reads ``shapes:N,…``; raises UserError, with the grammar, for anything else."""
    count, *rest = spec.removeprefix("shapes:").split(",")
    options = dict(option.partition("=")[::2] for option in rest)
    unknown = options.keys() - {"split", "objects", "size", "radius", "label"}
    if unknown or len(options) < len(rest):
        raise _bad(spec, f"option {min(unknown)!r} is unknown" if unknown else "an option stands twice")
    if not re.fullmatch("[0-9]{1,9}", count) or int(count) < 1:
        raise _bad(spec, f"N is {count!r}, not a number from 1 on")
    name = options.get("split", split or "train")
    if not re.fullmatch("[A-Za-z0-9_]+", name) or (split is not None and name != split):
        raise _bad(spec, f"the split is {name!r}" if split is None else f"the split is {name!r} and {split!r}")
    objects = None
    if "objects" in options:
        found = re.fullmatch("([0-9]+)(?:-([0-9]+))?", options["objects"])
        objects = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= objects[0] <= objects[1] <= _MOST:
            raise _bad(spec, f"objects is {options['objects']!r}, not within 1-{_MOST}")
    size = options.get("size", str(_SIZE))
    if not re.fullmatch("[0-9]{1,5}", size) or not _SIZES[0] <= int(size) <= _SIZES[1]:
        raise _bad(spec, f"size is {size!r}, not within {_SIZES[0]} to {_SIZES[1]}")
    radius, labelled_by = RADIUS, options.get("label", "color")
    if "radius" in options:
        low, _, high = options["radius"].partition("-")
        radius = (_fraction(low), _fraction(high or low))
        if not _RADII[0] <= radius[0] <= radius[1] <= _RADII[1]:
            raise _bad(spec, f"radius is {options['radius']!r}, not within {_RADII[0]} to {_RADII[1]} of the side")
        if radius[1] > RADIUS[1] and (objects or (1, _MOST))[1] > 1:
            raise _bad(spec, f"several objects with a radius above {RADIUS[1]} may not fit; add objects=1")
    if labelled_by not in LABELS:
        raise _bad(spec, f"label is {labelled_by!r}, not {' or '.join(LABELS)}")
    return Scenes(int(count), name, objects, int(size), radius, labelled_by)


def _fraction(text: str) -> float:
    """A number such as 0.1; nan, which no bound admits, for anything else."""
    return float(text) if re.fullmatch(r"[0-9]*\.?[0-9]+", text) else math.nan


def _bad(spec: str, why: str) -> UserError:
    return UserError(f"{spec!r}: {why}; write {GRAMMAR}, for example shapes:1000,split=test,objects=2-3")
