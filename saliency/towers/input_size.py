"""Another input size for a CLIP image tower: its position embeddings interpolated, its weights as they are.

A tower asked for its own size is left alone. The interpolation is the libraries' own, bicubic with antialiasing over
the grid of patches while the class token's embedding stays: open_clip's for its ViT and for the attention pool of its
ResNet (which open_clip itself leaves at the size it was built for), timm's for timm's trunks. Towers without position
embeddings, such as ConvNeXt, only see more pixels.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

_LARGEST_SIDE = 4096
_POSITIONS = "visual.positional_embedding"  # the name open_clip looks for in a state dict


def set_input_size(visual: nn.Module, size: int, new_size: int) -> None:
    """Make an open_clip image tower that sees ``size`` × ``size`` pixels see ``new_size`` × ``new_size``, in place.

    Its ``preprocess_cfg`` follows. Raises ValueError, one line that names the nearest sizes that work, when the
    tower's patches do not fill the square.
    """
    if new_size == size:
        return
    tower: Any = visual
    step = _step(tower, size)
    _check_size(new_size, size, step)
    cells = new_size // step
    with torch.no_grad():
        if hasattr(tower, "trunk"):
            _resize_timm(tower, new_size)
        elif hasattr(tower, "attnpool"):
            tower.image_size = new_size
            tower.attnpool.positional_embedding = _interpolate(tower.attnpool.positional_embedding, cells)
        else:
            tower.image_size, tower.grid_size = (new_size, new_size), (cells, cells)
            tower.positional_embedding = _interpolate(tower.positional_embedding, cells)
    tower.preprocess_cfg = tower.preprocess_cfg | {"size": (new_size, new_size)}


def _check_size(new_size: int, size: int, step: int) -> None:
    if not step <= new_size <= _LARGEST_SIDE:
        raise ValueError(f"--clip-size is {new_size}; it must be between {step} and {_LARGEST_SIDE} pixels")
    if new_size % step:
        below = new_size // step * step
        raise ValueError(
            f"--clip-size is {new_size}, which this model's patches of {step} pixels do not fill: "
            f"take {below} or {below + step} (the model's own size is {size})"
        )


def _step(tower: Any, size: int) -> int:
    """The pixels that one cell of the tower's grid covers along a side."""
    if hasattr(tower, "attnpool"):
        return 32  # a stem of 4 and three stages of 2
    if not hasattr(tower, "trunk"):
        return int(tower.patch_size[0])
    trunk = tower.trunk
    if hasattr(trunk, "patch_embed") and hasattr(trunk.patch_embed, "feat_ratio"):
        return int(trunk.patch_embed.feat_ratio())
    if getattr(trunk, "feature_info", None):
        return int(trunk.feature_info[-1]["reduction"])
    raise ValueError(
        f"--clip-size can't be set for a timm trunk of class {type(trunk).__name__}, whose stride is not known: "
        f"leave it out (the model's own size is {size})"
    )


def _resize_timm(tower: Any, new_size: int) -> None:
    trunk = tower.trunk
    if not hasattr(trunk, "set_input_size") and getattr(trunk, "pos_embed", None) is not None:
        raise ValueError(
            f"--clip-size can't be set for a timm trunk of class {type(trunk).__name__}, which holds fixed position "
            "embeddings: leave it out, or use --tiles"
        )
    tower.set_input_size(new_size)


def _interpolate(positions: Tensor, cells: int) -> nn.Parameter:
    """Embeddings [1 + old grid, C] of a class token and a square grid → [1 + cells², C]."""
    from open_clip.model import resize_pos_embed

    state = {_POSITIONS: positions.detach().float()}
    # It only asks the model for the grid its state is to fit.
    resize_pos_embed(state, SimpleNamespace(visual=SimpleNamespace(grid_size=(cells, cells))))
    return nn.Parameter(state[_POSITIONS].to(positions.dtype), requires_grad=positions.requires_grad)
