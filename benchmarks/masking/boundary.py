"""The boundary prior as a mask, nothing learned: what is unlike the border of the picture is hidden for certain."""

from __future__ import annotations

import torch
from torch import Tensor

from mae.mask_learners.gate_loss import background_distance, frame_of

SHARE = 0.25
"""Of all patches, hidden for certain; the others are hidden at random."""


class Boundary:
    """The gate's background distance where nothing is known yet: every patch is as likely important as not."""

    def __call__(self, images: Tensor, grid: tuple[int, int], noise: Tensor) -> Tensor:
        """``images`` [B, 3, H, W], ``noise`` [B, N] in 0..1; the scores are [B, N]."""
        rows, columns = grid
        height, width = images.shape[2] // rows, images.shape[3] // columns
        patches = torch.nn.functional.unfold(images.float(), (height, width), stride=(height, width)).mT
        half = torch.full_like(noise, 0.5)
        distance = background_distance(half, patches, frame_of(grid, images.device), with_itself=True)
        certain = distance.topk(round(SHARE * rows * columns), dim=1).indices
        return noise.scatter_add(1, certain, torch.ones_like(distance).gather(1, certain).to(noise))
