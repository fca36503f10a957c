"""Which of the hidden patches are decoded, when it is not all of them: a choice that is made anew at every step.

It is uniform, or of videos by a running cell (VideoMAE v2, Wang et al. 2023, arXiv 2303.16727): the four patches of
every 2×2 cell take turns from one time slot to the next, so that at a ratio of a half each place is decoded in two of
four slots, two of a cell are in each slot, and all cells of a video are in step.

The loss is then over a part, and the decoder sees fewer mask tokens. Over the choice, its mean is the mean over *all*
hidden patches of the error that each has when it is decoded in the company of a random choice of the others. That is
an unbiased estimate over the hidden patches, but not of the loss of the full decoder, whose every patch has the
company of all others. CrossMAE (arXiv 2401.14391) decodes a part too, with a decoder whose hidden patches look at the
visible ones alone, so that there the company makes no difference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mae.devices import copy_to
from mae.masks.masking import Part
from mae.models.mask import Mask

DECODER_MASKINGS = ("random", "running-cell")


def decoded_count(hidden: int, ratio: float) -> int:
    """round(ratio · M) of M hidden patches, at least one."""
    return max(1, round(ratio * hidden))


def choose_decoded(
    mask: Mask,
    ratio: float,
    generator: torch.Generator,
    part: Part | None = None,
    *,
    running_cell: tuple[int, ...] | None = None,
) -> Tensor | None:
    """The hidden patches to decode, int64 [B, M'], or None for all of them (``ratio`` 1, which draws nothing).

    ``generator`` is the CPU's, and should be no other draw's: the masks are to be the same at every ratio. The noise of
    a ``part`` is the whole batch's, as with masks. ``running_cell`` is a video's grid (slots, rows, columns): the
    patches whose turn it is come first, and noise decides only where they are more or fewer than M', as they may be
    where masks are no tubes or the slots no multiple of four.
    """
    if ratio == 1:
        return None
    hidden = mask.ids_hidden
    cells = 1 if running_cell else 0
    drawn = torch.rand(part.size if part else len(hidden), hidden.shape[1] + cells, generator=generator)
    noise = copy_to(drawn[part.rows] if part else drawn, hidden.device)
    if running_cell:
        noise = noise[:, 1:] + cell_turns(running_cell, hidden, (4 * noise[:, :1]).long())
    order = torch.argsort(noise, dim=1, stable=True)
    return hidden.gather(1, order[:, : decoded_count(hidden.shape[1], ratio)])


def cell_turns(grid: tuple[int, ...], patches: Tensor, phase: Tensor) -> Tensor:
    """The turn 0..3 of ``patches``, int64 [B, n] of a grid (slots, rows, columns), in their 2×2 cells; [B, n].

    A place's turn moves by one from slot to slot; ``phase``, int64 [B, 1], is where a video begins.
    """
    _, rows, columns = grid
    row, column = patches // columns % rows, patches % columns
    return (2 * (row % 2) + column % 2 + patches // (rows * columns) + phase) % 4
