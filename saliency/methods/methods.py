"""The methods a saliency map can be made by: one row a method, under the name that ``--method`` takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from saliency.devices import copy_to
from saliency.methods.attention import pooling_attention
from saliency.methods.cam_adapter import adapted_maps, check_package
from saliency.methods.clip_es import clip_es_maps
from saliency.methods.grad_eclip_legrad import grad_eclip_maps, legrad_maps, legrad_name
from saliency.methods.gradcam import gradcam_maps
from saliency.methods.naclip import naclip_maps
from saliency.towers.tower import Tower

Maps = Callable[[Tower, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(tower, normalised inputs float32 [B, 3, S, S], unit-length texts float32 [K, B, D]: K captions for each image) → raw
maps float32 [K, B, H, W] ≥ 0 on the tower's grid and scores float32 [K, B], cos(image, caption)."""

POOLINGS = ("class token", "average", "attention", "convolutional")
"""How image towers pool; see :mod:`saliency.towers.tower`."""

_TRANSFORMERS = ("class token", "average", "attention")
_OWN_TOKENS = ("class token", "average")  # towers whose patch tokens can be projected into the captions' space
# An attention pool normalises each token of the layer that is read, which makes Σ_c gradient · activation zero there.
_UNNORMALISED = ("class token", "average", "convolutional")


def _tower_layer(tower: Tower) -> str:
    return tower.layer.name


def _last_attention(tower: Tower) -> str:
    return pooling_attention(tower).name


@dataclass(frozen=True)
class Method:
    """How a map is made: the function, the poolings it supports, the paper it follows, and the layer it reads.

    ``layer`` gives the layer's name, or ValueError for a tower whose modules are not of a kind that can be read.
    ``adapted``: made by pytorch-grad-cam's own class. ``deep``: it reads blocks before the last, which
    then can't be compiled.
    """

    maps: Maps
    poolings: tuple[str, ...]
    paper: str
    layer: Callable[[Tower], str] = _tower_layer
    adapted: bool = False
    deep: bool = False


def _adapted(method: str, paper: str, poolings: tuple[str, ...] = POOLINGS) -> Method:
    return Method(partial(adapted_maps, method=method), poolings, paper, adapted=True)


METHODS: dict[str, Method] = {
    "gradcam": Method(gradcam_maps, POOLINGS, "arXiv 1610.02391"),
    "grad-eclip": Method(grad_eclip_maps, _TRANSFORMERS, "arXiv 2502.18816", _last_attention),
    "legrad": Method(legrad_maps, _TRANSFORMERS, "arXiv 2404.03214", legrad_name, deep=True),
    "clip-es": Method(clip_es_maps, _OWN_TOKENS, "arXiv 2212.09506"),
    "naclip": Method(naclip_maps, _OWN_TOKENS, "arXiv 2404.08181", _last_attention),
    "gradcam++": _adapted("gradcam++", "arXiv 1710.11063"),
    "layercam": _adapted("layercam", "IEEE TIP 2021, 10.1109/TIP.2021.3089943"),
    "hirescam": _adapted("hirescam", "arXiv 2011.08891", _UNNORMALISED),
    "xgradcam": _adapted("xgradcam", "arXiv 2008.02312"),
    "eigengradcam": _adapted("eigengradcam", "arXiv 2008.00299", _UNNORMALISED),
    "scorecam": _adapted("scorecam", "arXiv 1910.01279"),
}


def check_method(method: str, tower: Tower) -> None:
    """ValueError, one line that says what to use, if the method is unknown, not installed, or can't read this tower."""
    if method not in METHODS:
        raise ValueError(f"--method is {method!r}; it must be one of {', '.join(METHODS)}")
    row, pooling = METHODS[method], tower.layer.pooling
    if pooling not in row.poolings:
        able = ", ".join(name for name, other in METHODS.items() if pooling in other.poolings)
        raise ValueError(f"--method {method} can't read a tower that pools by {pooling}; use one of {able}")
    if row.adapted:
        check_package(method)
    try:
        row.layer(tower)
    except ValueError as error:
        able = ", ".join(name for name, other in METHODS.items() if other.layer is _tower_layer)
        raise ValueError(f"--method {method} can't read this tower: {error}; use one of {able}") from error


def layer_name(method: str, tower: Tower) -> str:
    """What a method reads of a tower, such as ``transformer.resblocks.11.attn``; for the maps' metadata."""
    return METHODS[method].layer(tower)


def saliency_maps(tower: Tower, pixels: Tensor, texts: Tensor, *, method: str = "gradcam") -> tuple[Tensor, Tensor]:
    """Raw saliency maps of B images, each with one caption or with K.

    pixels: uint8 [B, 3, S, S] as ``tower.squash`` gives them; texts: unit-length float32 [B, D] or [K, B, D].
    Returns maps float32 [B, H, W] or [K, B, H, W], ≥ 0, and scores float32 [B] or [K, B], cos(image, caption). An image
    goes through the tower's trunk once for all of its captions. Whether the method can read the tower,
    :func:`check_method` says before.
    """
    if len(pixels) != texts.shape[-2]:
        raise ValueError(f"{len(pixels)} images but {texts.shape[-2]} texts: a pair needs one of each")
    several = texts if texts.ndim == 3 else texts[None]
    maps, scores = METHODS[method].maps(tower, tower.normalise(pixels), copy_to(several, tower.device))
    return (maps.detach(), scores.detach()) if texts.ndim == 3 else (maps[0].detach(), scores[0].detach())
