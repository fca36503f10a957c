"""A planted task: the label depends on one region of the image.

Every image has four blocks of 2×2 patches. Two of them, diagonal to each other, show one of twelve patterns each, drawn
independently; the other two are smooth noise. The label is the pattern of the first. Both patterned blocks are as easy
to fill in, so reconstruction cannot tell them apart: only the label can.

With distractors all blocks, of which there are nine on 48 pixels, show patterns of their own, equally striking, and the
label is the first one's.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae.multilevel.mlo_training import LabelledImages

PATTERNS = 12


def patterns_of(generator: torch.Generator, blocks: int = 2) -> Tensor:
    """[blocks, 12, 3, 16, 16]: what the blocks show."""
    coarse = torch.randn(blocks * PATTERNS, 3, 4, 4, generator=generator)
    return F.interpolate(coarse, size=16, mode="bilinear").reshape(blocks, PATTERNS, 3, 16, 16)


def scenes(count: int, patterns: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``count`` images 32×32 as uint8 and their labels; with the ``patterns`` of k² > 2 blocks, k·16 pixels wide."""
    blocks = len(patterns)
    side = 2 if blocks == 2 else round(blocks**0.5)
    shown = torch.randint(0, PATTERNS, (blocks, count), generator=generator)
    noise = torch.randn(count, 3, 8 * side, 8 * side, generator=generator)
    images = F.interpolate(noise, size=16 * side, mode="bilinear")
    places = [(0, 0), (1, 1)] if blocks == 2 else itertools.product(range(side), repeat=2)
    for (row, column), of_block, chosen in zip(places, patterns, shown, strict=True):
        images[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = of_block[chosen]
    images = 128 + 50 * (images + 0.3 * torch.randn(images.shape, generator=generator))
    return images.clamp(0, 255).to(torch.uint8), shown[0]


class Places(nn.Module):
    """The smallest T there is: a probability for each place, whatever is there."""

    def __init__(self, places: int = 16) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(places))

    def forward(self, tokens: Tensor) -> Tensor:
        """Probabilities [B, N] for tokens [B, N, D]."""
        return torch.sigmoid(self.logits - self.logits.mean()).expand(len(tokens), -1)


def scene_batches(seed: int, batch: int, stream: int = 0) -> Callable[[], LabelledImages]:
    """A function that draws the next batch of new scenes; another ``stream`` has others with the same patterns."""
    patterns = patterns_of(torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(1000 * (stream + 1) + seed)
    return lambda: LabelledImages(*scenes(batch, patterns, generator))
