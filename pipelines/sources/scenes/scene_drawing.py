"""The built-in scenes: image–caption pairs with known truth, drawn on the spot, nothing downloaded.

Each scene is a textured background with one to three coloured objects and a caption that names exactly one of
them. The named object's true mask and its colour or shape come with it, so maps and features are measured against
truth. The class label is the colour, or the shape, which takes a model far longer to learn. A scene is a pure
function of ``(split, index)``: the same on every machine and in every order. Within a scene all shapes and all
colours differ, so a caption is never ambiguous; which object is named does not depend on its size or place, so
neither "the largest" nor "the central" object is a shortcut.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (255, 140, 20),
    "yellow": (240, 220, 40),
    "green": (44, 150, 50),
    "cyan": (50, 205, 220),
    "blue": (35, 70, 200),
    "purple": (130, 50, 170),
    "pink": (250, 130, 190),
}
LABELS = {"color": tuple(COLORS), "shape": SHAPES}
"""What the label of a scene can be, of the named object."""
TEMPLATES = (
    "{a} {color} {shape}",
    "a photo of {a} {color} {shape}",
    "there is {a} {color} {shape} in the picture",
    "the {color} {shape}",
)
OBJECT_COUNTS = (0.4, 0.35, 0.25)
"""Share of scenes with one, two and three objects."""

_OVERSAMPLE = 4
RADIUS = (0.15, 0.23)
"""The least and the largest radius of an object, as fractions of the side, unless other ones are asked for."""


@dataclass(frozen=True)
class Scene:
    """One scene: ``image`` uint8 [S, S, 3], ``mask`` bool [S, S] of the named object, ``label`` indexes COLORS."""

    image: NDArray[np.uint8]
    caption: str
    mask: NDArray[np.bool_]
    label: int
    objects: tuple[tuple[str, str], ...]
    """(colour, shape) of every object; the first is the named one."""

    def png(self) -> bytes:
        """The image encoded as PNG."""
        buffer = io.BytesIO()
        Image.fromarray(self.image).save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue()


def draw_scene(
    index: int,
    *,
    split: str = "train",
    objects: tuple[int, int] = (1, 3),
    size: int = 96,
    radius: tuple[float, float] = RADIUS,
) -> Scene:
    """The scene number ``index`` of a split.

    ``objects`` bounds the number of objects, inclusive; ``size`` is the side in pixels; ``radius`` bounds the radius
    of the objects, as fractions of the side.
    """
    plan = plan_scene(index, split, objects, size, radius)
    image, masks = plan.paint()
    return Scene(image, plan.caption, masks[0], plan.label, plan.objects)


def scene_label(
    index: int, *, split: str = "train", objects: tuple[int, int] = (1, 3), labelled_by: str = "color"
) -> int:
    """The named object's index into LABELS[labelled_by], at any size and radius, without drawing anything."""
    shapes, colors = _choose_objects(generator_of(index, split), objects)
    return int((colors if labelled_by == "color" else shapes)[0])


Place = tuple[float, float, float]
"""Column and row of an object's centre and its radius, as fractions of the side."""


@dataclass(frozen=True)
class ScenePlan:
    """A scene with every random choice made."""

    template: str
    label: int
    objects: tuple[tuple[str, str], ...]
    places: list[Place]
    background: Callable[[], NDArray[np.float64]]
    """→ [S, S, 3] in 0..255."""
    draw: Callable[[NDArray[np.float64], int, Place], tuple[NDArray[np.float64], NDArray[np.bool_]]]
    """A picture, the number of an object, its place → the picture with the object, and its mask [S, S]."""

    @property
    def caption(self) -> str:
        """The caption, which names the first object."""
        return self.caption_of(self.objects[0])

    def caption_of(self, named: tuple[str, str]) -> str:
        """The same caption for another (colour, shape), in the scene or not."""
        color, shape = named
        return self.template.format(a="an" if color == "orange" else "a", color=color, shape=shape)

    def paint(self) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
        """The image, and the masks of all objects."""
        image, masks = self.background(), []
        for number, place in enumerate(self.places):
            image, mask = self.draw(image, number, place)
            masks.append(mask)
        return np.clip(image, 0, 255).round().astype(np.uint8), masks


def plan_scene(
    index: int, split: str, objects: tuple[int, int], size: int, radius: tuple[float, float] = RADIUS
) -> ScenePlan:
    """The scene number ``index`` of a split, as :func:`draw_scene` draws it."""
    # The order of the draws is part of the data: another order would be other scenes.
    rng = generator_of(index, split)
    shapes, colors = _choose_objects(rng, objects)
    count = len(shapes)
    names = list(COLORS)
    background = _background(rng, size)
    places = _places(rng, count, radius)
    strokes = [
        (rng.uniform(-0.35, 0.35), rng.normal(0, 0.05, (size, size, 1)), _slope(rng, size, 0.12)) for _ in places
    ]
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    described = tuple((names[c], SHAPES[s]) for c, s in zip(colors, shapes, strict=True))

    def draw(image: NDArray[np.float64], number: int, place: Place) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        (cx, cy, radius), (tilt, noise, slope), (color, shape) = place, strokes[number], described[number]
        alpha = _silhouette(shape, cx * size, cy * size, radius * size, tilt, size)
        shade = 1 + noise + slope
        image = image * (1 - alpha[..., None]) + np.asarray(COLORS[color], np.float32) * shade * alpha[..., None]
        return image, alpha > 0.5

    return ScenePlan(template, int(colors[0]), described, places, background, draw)


def generator_of(index: int, split: str) -> np.random.Generator:
    """The random numbers of one scene of a split."""
    return np.random.default_rng([zlib.crc32(split.encode()), index])


def _choose_objects(rng: np.random.Generator, bounds: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices into SHAPES and into COLORS, all different, one for each object; the first is the named one."""
    low, high = bounds
    weights = np.asarray(OBJECT_COUNTS[low - 1 : high])
    count = int(low + rng.choice(len(weights), p=weights / weights.sum()))
    return rng.permutation(len(SHAPES))[:count], rng.permutation(len(COLORS))[:count]


def _places(rng: np.random.Generator, count: int, bounds: tuple[float, float]) -> list[tuple[float, float, float]]:
    """Centres and radii within ``bounds``, as fractions of the side, of ``count`` objects that do not overlap."""
    while True:
        places: list[tuple[float, float, float]] = []
        for _ in range(20 * count):
            radius = rng.uniform(*bounds)
            cx, cy = rng.uniform(radius, 1 - radius, 2)
            if all(math.hypot(cx - x, cy - y) > 1.15 * (radius + r) for x, y, r in places):
                places.append((cx, cy, radius))
            if len(places) == count:
                return [places[i] for i in rng.permutation(count)]


def _slope(rng: np.random.Generator, size: int, strength: float) -> NDArray[np.float64]:
    """A linear light gradient in a random direction, ±strength over the image, [S, S, 1]."""
    angle = rng.uniform(0, 2 * math.pi)
    axis = np.linspace(-1, 1, size)
    return np.asarray(strength * (np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]))[..., None]


def _background(rng: np.random.Generator, size: int) -> Callable[[], NDArray[np.float64]]:
    """A painter of two muted colours mixed by a texture (stripes, checks, blobs or a gradient), with noise.

    It gives [S, S, 3] in 0..255.
    """
    grey = rng.uniform(60, 200, (2, 1))
    first, second = np.clip(grey + rng.normal(0, 22, (2, 3)), 0, 255)
    angle, frequency, phase = rng.uniform(0, math.pi), rng.uniform(3, 9), rng.uniform(0, 2 * math.pi)
    kind = rng.integers(4)
    blobs = (rng.random((8, 8)) * 255).astype(np.uint8) if kind == 2 else None
    noise = rng.normal(0, 6, (size, size, 3))

    def paint() -> NDArray[np.float64]:
        yy, xx = np.mgrid[0:size, 0:size] / size
        along = math.cos(angle) * xx + math.sin(angle) * yy
        across = math.cos(angle) * yy - math.sin(angle) * xx
        if kind == 0:
            mix = np.sin(2 * math.pi * frequency * along + phase) > 0
        elif kind == 1:
            mix = np.sin(2 * math.pi * frequency * along + phase) * np.sin(2 * math.pi * frequency * across) > 0
        elif blobs is not None:
            mix = np.asarray(Image.fromarray(blobs).resize((size, size), Image.Resampling.BICUBIC)) / 255
        else:
            mix = along
        blend = np.asarray(mix, np.float64)[..., None]
        return np.asarray(first * (1 - blend) + second * blend + noise, np.float64)

    return paint


def _silhouette(shape: str, cx: float, cy: float, radius: float, tilt: float, size: int) -> NDArray[np.float64]:
    """Anti-aliased coverage in 0..1, [S, S], of a shape with its circumscribed circle at (cx, cy)."""
    k = _OVERSAMPLE
    canvas = Image.new("L", (size * k, size * k), 0)
    pen = ImageDraw.Draw(canvas)

    def disc(x: float, y: float, r: float, fill: int) -> None:
        pen.ellipse([k * (x - r), k * (y - r), k * (x + r), k * (y + r)], fill=fill)

    def polygon(points: list[tuple[float, float]]) -> None:
        c, s = math.cos(tilt), math.sin(tilt)
        turned = [(cx + radius * (c * x - s * y), cy + radius * (s * x + c * y)) for x, y in points]
        pen.polygon([(k * x, k * y) for x, y in turned], fill=255)

    if shape == "circle":
        disc(cx, cy, 0.9 * radius, 255)
    elif shape == "ring":
        disc(cx, cy, radius, 255)
        disc(cx, cy, 0.5 * radius, 0)
    elif shape == "crescent":
        disc(cx, cy, radius, 255)
        disc(cx + 0.55 * radius * math.cos(tilt), cy + 0.55 * radius * math.sin(tilt), 0.75 * radius, 0)
    else:
        polygon(_OUTLINES[shape])
    reduced = canvas.resize((size, size), Image.Resampling.BOX)
    return np.asarray(reduced, np.float64) / 255


def _regular(angles: list[float], radii: list[float]) -> list[tuple[float, float]]:
    return [(r * math.sin(math.radians(a)), -r * math.cos(math.radians(a))) for a, r in zip(angles, radii, strict=True)]


def _heart() -> list[tuple[float, float]]:
    points = []
    for t in np.linspace(0, 2 * math.pi, 40, endpoint=False):
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((16 * math.sin(t) ** 3 / 17, -y / 17))
    return points


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": _regular([45, 135, 225, 315], [1.0] * 4),
    "triangle": _regular([0, 120, 240], [1.0] * 3),
    "star": _regular([36 * i for i in range(10)], [1.0, 0.45] * 5),
    "cross": [
        (-0.33, -0.95), (0.33, -0.95), (0.33, -0.33), (0.95, -0.33), (0.95, 0.33), (0.33, 0.33),
        (0.33, 0.95), (-0.33, 0.95), (-0.33, 0.33), (-0.95, 0.33), (-0.95, -0.33), (-0.33, -0.33),
    ],
    "heart": _heart(),
}  # fmt: skip
