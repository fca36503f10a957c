"""What a mask is: which patches of a batch are hidden, 1 = hidden, in the forms that a model needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mask:
    """Which patches of a batch are hidden, in the three forms that a model needs."""

    ids_keep: Tensor
    """int64 [B, K]: the visible patches, lowest priority first (MAE's order)."""
    ids_restore: Tensor
    """int64 [B, N]: where each patch stands in the sequence *kept patches, then hidden ones*."""
    hidden: Tensor
    """bool [B, N]: 1 = hidden, 0 = visible."""

    @property
    def ids_hidden(self) -> Tensor:
        """int64 [B, M]: the hidden patches, lowest priority first."""
        return inverse(self.ids_restore)[:, self.ids_keep.shape[1] :]


def hidden_count(patches: int, mask_ratio: float) -> int:
    """M = N − int(N·(1 − mask ratio)), the number of patches of N that are hidden."""
    return patches - int(patches * (1 - mask_ratio))


def inverse(order: Tensor) -> Tensor:
    """The inverse of each row's permutation, [B, N]."""
    positions = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, positions)
