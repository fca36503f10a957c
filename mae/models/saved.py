"""A model with the arguments that a file gives, which may be anyone's: refused before it takes time or memory.

The arguments have to be of the declared kinds and ranges, and the model they describe has to be the one whose weights
lie beside them. Both are seen without the memory of a single weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mae.models.video import POSITIONS, new_model
from mae.models.vit import MaskedAutoencoder

_RANGES: dict[str, tuple[int, int]] = {
    "patch_size": (1, 1 << 10),
    "frames": (1, 1 << 12),
    "tubelet": (1, 1 << 12),
    "width": (4, 1 << 14),
    "depth": (0, 1 << 10),
    "heads": (1, 1 << 10),
    "decoder_width": (4, 1 << 14),
    "decoder_depth": (1, 1 << 10),
    "decoder_heads": (1, 1 << 10),
    "channels": (1, 1 << 10),
    "class_tokens": (1, 1 << 10),
}
"""Of the whole numbers, least and greatest."""
_TRUTHS = ("norm_pix", "class_token", "decoder_bias")
_LARGEST_SIDE = 1 << 16  # pixels
_LARGEST_RATIO = 64
_LARGEST_TABLE = 1 << 27  # numbers of the positions, 512 MB
_MOST_FRESH = 1 << 28  # numbers that the weights lack, 1 GB


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """ValueError if these can't be arguments of a masked autoencoder of images, or of video, by kind or size."""
    for name, value in arguments.items():
        if not _can_be(name, value):
            raise ValueError(f"{name} can't be {str(value)[:60]}")
    sides = arguments.get("image_size", 224)
    height, columns = (sides, sides) if isinstance(sides, int) else sides
    patch_size, slots = arguments.get("patch_size", 16), arguments.get("frames", 1) // arguments.get("tubelet", 1)
    cells = slots * (height // patch_size) * (columns // patch_size)
    widest = max(arguments.get("width", 768), arguments.get("decoder_width", 512))
    if cells * widest > _LARGEST_TABLE:
        raise ValueError(f"{cells:,} patches of {widest} numbers are more than this release takes")


def saved_model(arguments: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> MaskedAutoencoder:
    """The untrained model with a file's arguments, for weights of these ``shapes`` by name. ValueError if they differ.

    Names that the weights lack stay as they are, unless there is more to them than to a usual decoder.
    """
    check_arguments(arguments)
    try:
        with torch.device("meta"):
            described = new_model(arguments).state_dict()
    except TypeError as error:
        raise ValueError(f"these are no arguments of a masked autoencoder: {error}") from error
    for name, weight in described.items():
        if name in shapes and list(shapes[name]) != list(weight.shape):
            raise ValueError(f"{name} is {list(shapes[name])} in the weights, and {list(weight.shape)} by the config")
    if sum(math.prod(weight.shape) for name, weight in described.items() if name not in shapes) > _MOST_FRESH:
        raise ValueError("the config describes a model of which the weights are a small part")
    return new_model(arguments)


def _can_be(name: str, value: Any) -> bool:
    if name in _RANGES:
        least, most = _RANGES[name]
        return type(value) is int and least <= value <= most
    if name == "image_size":
        sides = value if isinstance(value, (list, tuple)) else (value, value)
        return len(sides) == 2 and all(type(side) is int and 1 <= side <= _LARGEST_SIDE for side in sides)
    if name == "mlp_ratio":
        return type(value) in (int, float) and 0 < value <= _LARGEST_RATIO
    if name == "positions":
        return value in POSITIONS
    return name in _TRUTHS and type(value) is bool
