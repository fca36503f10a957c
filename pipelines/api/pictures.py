"""Pictures as people have them in Python: paths, Pillow images, arrays and tensors, one or a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipelines.errors import UserError
from pipelines.sources.images import BadImage, decode_rgb, upright_rgb
from pipelines.sources.source import read_file
from saliency.files import user_path

Picture: TypeAlias = str | Path | Image.Image | NDArray[Any] | Tensor
"""A path, a Pillow image of any mode, an array [H, W, 3] or a tensor [3, H, W]. Arrays and tensors are RGB, uint8 in
0..255 or floats in 0..1."""

Pictures: TypeAlias = Picture | Sequence[Picture]
"""A picture, a list of them, or a batch in one: an array [B, H, W, 3] or a tensor [B, 3, H, W]."""


def each_of(pictures: Pictures) -> tuple[list[Picture], bool]:
    """The pictures one by one, and whether they came as a batch."""
    if isinstance(pictures, (np.ndarray, Tensor)):
        return ([pictures], False) if pictures.ndim != 4 else (list(pictures), True)
    return ([pictures], False) if isinstance(pictures, (str, Path, Image.Image)) else (list(pictures), True)


def open_picture(picture: Picture) -> Image.Image:
    """The picture as upright RGB. UserError for what can't be read, or has not the shape or range of a picture."""
    if isinstance(picture, (str, Path)):
        return _readable(picture, lambda: decode_rgb(read_picture(picture)))
    if isinstance(picture, Image.Image):
        return _readable("the image", lambda: upright_rgb(picture))
    if isinstance(picture, Tensor):
        return Image.fromarray(_pixels(picture.detach().cpu().numpy(), "tensor", "[3, H, W]", 0))
    if isinstance(picture, np.ndarray):
        return Image.fromarray(_pixels(picture, "array", "[H, W, 3]", -1))
    raise UserError(f"a {type(picture).__name__} is no picture: give a path, a Pillow image, an array or a tensor")


def read_picture(path: str | Path) -> bytes:
    """The bytes of a file. UserError."""
    try:
        return read_file(str(user_path(path)))
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error


def _readable(name: str | Path, decode: Any) -> Image.Image:
    try:
        image: Image.Image = decode()
    except BadImage as error:
        raise UserError(f"{name} can't be read: {error}") from error
    return image


def _pixels(values: NDArray[Any], kind: str, wanted: str, channels: int) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3]; UserError for another shape or range."""
    shape = list(values.shape)
    if values.ndim != 3 or shape[channels] != 3:
        raise UserError(f"a picture as {kind} has the shape {wanted}, not {shape}")
    if values.dtype != np.uint8:
        if not np.issubdtype(values.dtype, np.floating):
            raise UserError(f"pixels are {values.dtype}: give uint8 in 0..255, or floats in 0..1")
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise UserError(f"pixels lie in {low:.4g}..{high:.4g}: floats go from 0 to 1, and are not normalised")
        values = np.rint(values * 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(values, channels, -1))
