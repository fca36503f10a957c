"""One crop and flip for an image and its map.

A view is drawn once, in fractions of the image; the image is resized from that box, and the map, which covers its own
box of the same image, is averaged by area over the training grid laid on it. A map is never cropped on its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from saliency.maps import FULL, Box
from saliency.resample import area_resample

USUAL_CROPS = (0.2, 1.0)
"""Bounds of a training crop's share of the image's area, as in MAE."""


@dataclass(frozen=True)
class View:
    """What is seen of an image: ``box`` x0, y0, x1, y1 in fractions of it, then mirrored left to right if ``flip``."""

    box: Box = FULL
    flip: bool = False


def random_view(
    rng: np.random.Generator,
    width: int,
    height: int,
    *,
    scale: tuple[float, float] = USUAL_CROPS,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
) -> View:
    """A random resized crop (arXiv 1409.4842) and flip, as MAE trains with: no other augmentation.

    ``scale`` bounds the crop's share of the image's area, ``ratio`` its width over height in pixels, ``flip`` is the
    probability of mirroring. Where ten draws do not fit the image, the largest central crop within ``ratio`` is taken.
    """
    mirrored = bool(rng.random() < flip)
    for _ in range(10):
        area = rng.uniform(*scale) * width * height
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return View((x / width, y / height, (x + w) / width, (y + h) / height), mirrored)
    return View(central_box(width, height, min(max(width / height, ratio[0]), ratio[1])), mirrored)


def central_box(width: int, height: int, aspect: float) -> Box:
    """The largest central box whose width over height, in pixels, is ``aspect``."""
    w, h = min(width, height * aspect), min(height, width / aspect)
    x, y = (1 - w / width) / 2, (1 - h / height) / 2
    return (x, y, 1 - x, 1 - y)


def pixel_box(image: Image.Image, view: View) -> Box:
    """What the view shows of an image, x0, y0, x1, y1 in its pixels."""
    width, height = image.size
    x0, y0, x1, y1 = view.box
    # rounding may put an edge a hair outside of the image, which Pillow refuses
    return (x0 * width, y0 * height, min(x1 * width, width), min(y1 * height, height))


def view_image(image: Image.Image, view: View, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The view of an RGB image resized (bicubic, anti-aliased) to ``size`` (height, width), uint8 [3, h, w]."""
    seen = image.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=pixel_box(image, view))
    array = np.asarray(seen)
    return np.ascontiguousarray((array[:, ::-1] if view.flip else array).transpose(2, 0, 1))


def central_view(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The largest central part of an RGB image that has the shape of ``size`` (height, width), uint8 [3, h, w]."""
    return view_image(image, View(central_box(*image.size, size[1] / size[0])), size)


def view_maps(maps: Tensor, covered: Tensor, boxes: Tensor, flips: Tensor, grid: tuple[int, int]) -> Tensor:
    """The same views of a batch of maps: mean saliency of every training patch, float32 [B, H·W].

    maps: [B, G, G]; covered: [B, 4], the part of the image each map covers; boxes: [B, 4] and flips: bool [B], the
    views; grid: the training patch grid (H, W). What a map does not cover counts as 0.
    """
    return area_resample(maps, grid, boxes=boxes, covered=covered, flips=flips).flatten(1)


def stack_views(views: list[View]) -> tuple[Tensor, Tensor]:
    """Views as tensors: boxes float32 [B, 4], flips bool [B]."""
    boxes = torch.tensor([view.box for view in views], dtype=torch.float32).reshape(-1, 4)
    return boxes, torch.tensor([view.flip for view in views], dtype=torch.bool)
