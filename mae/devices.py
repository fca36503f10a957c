"""Copies to a device that nobody waits for."""

from __future__ import annotations

import torch
from torch import Tensor


def copy_to(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on ``device``; the host does not wait for its copy to a GPU, for which it is pinned first."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    if tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # as it is, where it is pinned already
    return tensor.to(device, non_blocking=True)
