"""Blind strategies: functions from the settings of a mask and a draw to each patch's priority, [B, N].

``mae.masks.strategies`` names them. The noise patterns themselves are in ``mae.masks.noise``, and what ranks patches by
a map is :meth:`mae.masks.masking.Masking.rank`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mae.masks.masking import Draw, Masking, center_prior
from mae.masks.noise import RECTANGLES, block_priorities, color_priorities, grid_priorities


def random(masking: Masking, draw: Draw) -> Tensor:
    """Any patches, as in MAE; ``tube`` is the same, in every time slot of a video."""
    return draw.uniform


def block(masking: Masking, draw: Draw) -> Tensor:
    """Rectangles."""
    return block_priorities(draw.grid, draw.uniform, draw.noise(4, RECTANGLES))


def grid(masking: Masking, draw: Draw) -> Tensor:
    """All but a regular lattice."""
    return grid_priorities(draw.grid, draw.hidden, draw.uniform, draw.noise(1, 2)[0])


def color(masking: Masking, draw: Draw) -> Tensor:
    """Filtered noise of the colour that the strategy's name ends with."""
    return color_priorities(masking.strategy.removeprefix("color-"), draw.grid, draw.noise)


def salient(masking: Masking, draw: Draw) -> Tensor:
    """The salient patches, as the settings say."""
    return masking.rank(draw.saliency, draw)


def inverse(masking: Masking, draw: Draw) -> Tensor:
    """The least salient patches."""
    return masking.rank(draw.saliency.amax(1, keepdim=True) - draw.saliency, draw)


def shuffled(masking: Masking, draw: Draw) -> Tensor:
    """By the map of another image: the one before in the batch. ValueError for a batch of one."""
    if draw.before is not None:
        return masking.rank(torch.cat([draw.before[None], draw.saliency[:-1]]), draw)
    if len(draw.saliency) < 2:
        raise ValueError("--masking shuffled takes another image's map; --batch-size must be at least 2")
    return masking.rank(draw.saliency.roll(1, dims=0), draw)


def center(masking: Masking, draw: Draw) -> Tensor:
    """By no map but a centred prior."""
    return masking.rank(center_prior(draw.grid, draw.uniform.device).expand_as(draw.uniform), draw)
