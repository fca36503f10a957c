"""Which of the hidden patches are decoded, when it is not all of them: a uniform choice, made anew at every step.

The loss is then over a part, and the decoder sees fewer mask tokens. Over the choice, its mean is the mean over *all*
hidden patches of the error that each has when it is decoded in the company of a random choice of the others. That is
an unbiased estimate over the hidden patches, but not of the loss of the full decoder, whose every patch has the
company of all others. CrossMAE (arXiv 2401.14391) decodes a part too, with a decoder whose hidden patches look at the
visible ones alone, so that there the company makes no difference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mae.masking import Mask, Part, to_device


def decoded_count(hidden: int, ratio: float) -> int:
    """round(ratio · M) of M hidden patches, at least one."""
    return max(1, round(ratio * hidden))


def choose_decoded(mask: Mask, ratio: float, generator: torch.Generator, part: Part | None = None) -> Tensor | None:
    """The hidden patches to decode, int64 [B, M'], or None for all of them (``ratio`` 1, which draws nothing).

    ``generator`` is the CPU's, and should be no other draw's: the masks are to be the same at every ratio. The noise of
    a ``part`` is the whole batch's, as with masks.
    """
    if ratio == 1:
        return None
    hidden = mask.ids_hidden
    drawn = torch.rand(part.size if part else len(hidden), hidden.shape[1], generator=generator)
    noise = to_device(drawn[part.rows] if part else drawn, hidden.device)
    order = torch.argsort(noise, dim=1, stable=True)
    return hidden.gather(1, order[:, : decoded_count(hidden.shape[1], ratio)])
