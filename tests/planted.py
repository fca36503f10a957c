"""A planted task: the label depends on one region of the image.

Every image has four blocks of 2×2 patches. Two of them, diagonal to each other, show one of twelve patterns each, drawn
independently; the other two are smooth noise. The label is the pattern of the first. Both patterned blocks are as easy
to fill in, so reconstruction cannot tell them apart: only the label can.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mae.multilevel.mlo_training import LabelledImages

PATTERNS = 12


def patterns_of(generator: torch.Generator) -> Tensor:
    """[2, 12, 3, 16, 16]: what the two blocks show."""
    coarse = torch.randn(2 * PATTERNS, 3, 4, 4, generator=generator)
    return F.interpolate(coarse, size=16, mode="bilinear").reshape(2, PATTERNS, 3, 16, 16)


def scenes(count: int, patterns: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``count`` images 32×32 as uint8 and their labels."""
    shown = torch.randint(0, PATTERNS, (2, count), generator=generator)
    images = F.interpolate(torch.randn(count, 3, 16, 16, generator=generator), size=32, mode="bilinear")
    images[:, :, :16, :16] = patterns[0][shown[0]]
    images[:, :, 16:, 16:] = patterns[1][shown[1]]
    images = 128 + 50 * (images + 0.3 * torch.randn(images.shape, generator=generator))
    return images.clamp(0, 255).to(torch.uint8), shown[0]


def scene_batches(seed: int, batch: int, stream: int = 0) -> Callable[[], LabelledImages]:
    """A function that draws the next batch of new scenes; another ``stream`` has others with the same patterns."""
    patterns = patterns_of(torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(1000 * (stream + 1) + seed)
    return lambda: LabelledImages(*scenes(batch, patterns, generator))
