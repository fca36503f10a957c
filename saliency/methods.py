"""The methods a saliency map can be made by: one row a method, under the name that ``--method`` takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from saliency.gradcam import gradcam_maps
from saliency.towers import Tower

Maps = Callable[[Tower, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(tower, normalised inputs float32 [B, 3, S, S], unit-length texts float32 [B, D]) → raw maps float32 [B, H, W] ≥ 0
on the tower's grid and scores float32 [B], cos(image, caption)."""

POOLINGS = ("class token", "average", "attention", "convolutional")
"""How image towers pool; see :mod:`saliency.towers`."""


@dataclass(frozen=True)
class Method:
    """How a map is made: the function, the poolings it supports, and the paper it follows."""

    maps: Maps
    poolings: tuple[str, ...]
    paper: str


METHODS: dict[str, Method] = {"gradcam": Method(gradcam_maps, POOLINGS, "arXiv 1610.02391")}


def check_method(method: str, tower: Tower) -> None:
    """ValueError, one line that says what to use, if the method is unknown or can't read this tower."""
    if method not in METHODS:
        raise ValueError(f"--method is {method!r}; it must be one of {', '.join(METHODS)}")
    pooling = tower.layer.pooling
    if pooling not in METHODS[method].poolings:
        able = ", ".join(name for name, row in METHODS.items() if pooling in row.poolings)
        raise ValueError(f"--method {method} can't read a tower that pools by {pooling}; use one of {able}")


def saliency_maps(tower: Tower, pixels: Tensor, texts: Tensor, *, method: str = "gradcam") -> tuple[Tensor, Tensor]:
    """Raw saliency maps of B image–caption pairs.

    pixels: uint8 [B, 3, S, S] as ``tower.squash`` gives them; texts: unit-length float32 [B, D].
    Returns maps float32 [B, H, W] ≥ 0 and scores float32 [B], cos(image, caption).
    """
    if len(pixels) != len(texts):
        raise ValueError(f"{len(pixels)} images but {len(texts)} texts: a pair needs one of each")
    maps, scores = METHODS[method].maps(tower, tower.normalise(pixels), texts.to(tower.device))
    return maps.detach(), scores.detach()
