"""Saliency maps of images and captions at hand, made as ``build-saliency`` makes them, and drawn over their image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.api.pictures import Picture, Pictures, each_of, open_picture, read_picture
from pipelines.build.job import DEFAULT_CLIP, recipe_of
from pipelines.build.model_input import Prepared, see, see_image
from pipelines.build.options import BuildOptions, Fit
from pipelines.build.pairs import CAPTIONS_A_LOOK
from pipelines.build.shards import ShardMaps
from pipelines.build.stages import Stages
from pipelines.commandline.machine import usable_device
from pipelines.errors import UserError, user_errors
from pipelines.plots import overlay as draw_over
from pipelines.sources.images import BadImage
from saliency.maps import FULL, Box
from saliency.quality import lay_on_image
from saliency.table.table import Row
from saliency.towers.tower import DEMO_CLIP, Tower, load_tower


@dataclass(frozen=True, eq=False, repr=False)
class Heatmap:
    """The saliency map of an image and a caption. ``numpy.asarray`` gives its ``map``."""

    map: NDArray[np.float32]
    """[G, G], row-major: raw saliency ≥ 0 of every cell of the grid, as the method gives it."""
    caption: str
    score: float
    """cos(image, caption), −1..1."""
    box: Box = FULL
    """The part of the image that the map covers: x0, y0, x1, y1 in fractions of the image."""
    size: tuple[int, int] | None = None
    """(height, width) of the image in pixels; None for a row of a table."""
    key: str | None = None
    """The pair's id, for a row of a table."""

    @property
    def strength(self) -> float:
        """The peak of the raw map; 0 for a map in which nothing speaks for the caption."""
        return float(self.map.max())

    def on_image(self, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """The map on the pixels of its image, float32 [H, W]: bilinear inside ``box``, 0 outside.

        ``size`` is (height, width), the image's own if not given. UserError where that is not known.
        """
        size = size or self.size
        if size is None:
            raise UserError("a row of a table does not know its image's size: give (height, width)")
        return lay_on_image(self.map, size, self.box)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.map, dtype) if copy or dtype is not None else self.map

    def __repr__(self) -> str:
        grid = "×".join(map(str, self.map.shape))
        return f"Heatmap({self.caption!r}, {grid}, score {self.score:.3f}, strength {self.strength:.3g})"


def load_clip(
    clip: str = DEFAULT_CLIP[0],
    pretrained: str | None = None,
    *,
    device: str | None = None,
    precision: str = "auto",
    clip_size: int | None = None,
) -> Tower:
    """Open a CLIP model for :func:`heatmap`.

    ``clip`` is an open_clip model, ``hf-hub:user/name``, ``local-dir:FOLDER``, or ``demo`` for the small one that is
    shipped, which knows the built-in scenes alone. ``pretrained`` is a weights tag or file of an open_clip model
    (``openai`` for ViT-B-16 if not given). ``device`` is the best there is if not given, ``precision`` auto, fp32 or
    bf16 for the trunk, ``clip_size`` the pixels of the square that the model sees (its own if not given).

    Raises UserError if there is no such model, its weights can't be had, or its image tower can't be read.

    >>> clip = sm.load_clip("demo")
    >>> clip.size, clip.grid
    (96, (12, 12))
    """
    name = f"local-dir:{DEMO_CLIP}" if clip == "demo" else clip
    if clip == DEFAULT_CLIP[0]:
        pretrained = pretrained or DEFAULT_CLIP[1]
    with user_errors():
        return load_tower(name, pretrained, device=usable_device(device), precision=precision, size=clip_size)


@overload
def heatmap(  # type: ignore[overload-overlap]  # a text is a sequence of texts as well
    clip: Tower,
    image: Picture,
    caption: str,
    method: str = ...,
    *,
    grid: int | None = ...,
    tiles: int = ...,
    fit: Fit = ...,
    batch_size: int = ...,
) -> Heatmap: ...


@overload
def heatmap(
    clip: Tower,
    image: Pictures,
    caption: Sequence[str],
    method: str = ...,
    *,
    grid: int | None = ...,
    tiles: int = ...,
    fit: Fit = ...,
    batch_size: int = ...,
) -> list[Heatmap]: ...


def heatmap(
    clip: Tower,
    image: Pictures,
    caption: str | Sequence[str],
    method: str = "gradcam",
    *,
    grid: int | None = None,
    tiles: int = 1,
    fit: Fit = "squash",
    batch_size: int = 64,
) -> Heatmap | list[Heatmap]:
    """What speaks for a caption in an image: the map that ``build-saliency`` stores of them.

    ``image`` is a path, a Pillow image, an array [H, W, 3] or a tensor [3, H, W] (uint8, or floats in 0..1). With one
    caption the result is a :class:`Heatmap`; with a list of captions it is a list: of several captions of one image,
    or of a batch (a list, an array [B, H, W, 3], a tensor [B, 3, H, W]) with a caption for each image.

    ``method``, ``grid``, ``tiles``, ``fit`` and ``batch_size`` are the options of ``build-saliency``. A path is read as
    that command reads it: large JPEGs are decoded small, which moves maps a little (correlation 0.999).

    Raises UserError for pictures that can't be used, a method that can't read the model, and captions that do not fit.

    >>> heat = sm.heatmap(clip, "scene.jpg", "a red circle")
    >>> heat.map.shape, heat.on_image().shape
    ((12, 12), (96, 96))
    """
    alone = isinstance(caption, str)
    images, batch = each_of(image)
    captions = [caption] if isinstance(caption, str) else list(caption)
    if (batch and len(images) != len(captions)) or (batch and alone):
        given = "one caption" if alone else f"{len(captions)} captions"
        raise UserError(f"{len(images)} images and {given}: give a list with a caption for each image")
    if blank := [text for text in captions if not text.strip()]:
        raise UserError(f"the caption {blank[0]!r} says nothing")
    with user_errors():
        asked = BuildOptions("", Path(), method=method, grid=grid, tiles=tiles, fit=fit, batch_size=batch_size)
        made = ShardMaps(clip, recipe_of(asked, clip), Stages())
    if batch:
        groups = [[text] for text in captions]
    else:  # one image, which the model sees once for all of its captions
        groups = [captions[start : start + CAPTIONS_A_LOOK] for start in range(0, len(captions), CAPTIONS_A_LOOK)]
    seen = [_see(each, clip, asked) for each in images]
    for number, texts in enumerate(groups):
        pixels, size, box = seen[number if batch else 0]
        made.take(Prepared([Row("", None, text, "", *size, box, math.nan) for text in texts], pixels))
    made.finish()
    if made.rejected:
        raise UserError(f"{made.rejected[0].caption!r}: {made.rejected[0].reason}")
    found = [
        Heatmap(raw.numpy(), row.caption, row.clip_score, row.crop_box, (row.height, row.width))
        for row, raw in zip(made.rows, made.maps, strict=True)
    ]
    return found[0] if alone else found


def overlay(image: Picture, map: Heatmap | NDArray[Any]) -> Image.Image:
    """A map laid over its image in colours, as a Pillow image of the image's size; where the map is low it is dark.

    ``map`` is a :class:`Heatmap`, or an array [h, w] ≥ 0 that covers the whole image. Raises UserError for what is no
    picture or no map.

    >>> sm.overlay("scene.jpg", heat).size
    (96, 96)
    """
    pixels = np.asarray(open_picture(image))
    if not isinstance(map, Heatmap):
        map = Heatmap(np.asarray(map, np.float32), "", math.nan)
    if map.map.ndim != 2 or not np.isfinite(map.map).all() or map.map.min() < 0:
        raise UserError(
            f"a map is an array [h, w] of finite numbers ≥ 0, not one of shape {list(map.map.shape)} like this"
        )
    return Image.fromarray(draw_over(pixels, map.on_image((pixels.shape[0], pixels.shape[1]))))


def _see(picture: Picture, clip: Tower, asked: BuildOptions) -> tuple[NDArray[np.uint8], tuple[int, int], Box]:
    """What the model sees of a picture; see :func:`pipelines.build.model_input.see`. UserError."""
    try:
        if isinstance(picture, (str, Path)):
            return see(read_picture(picture), clip, asked.fit, asked.tiles)
        image = open_picture(picture)
        return see_image(image, image.size, clip, asked.fit, asked.tiles)
    except BadImage as error:
        name = picture if isinstance(picture, (str, Path)) else "the image"
        raise UserError(f"{name} can't be used: {error}") from error
