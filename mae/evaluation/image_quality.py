"""How near a filled-in picture is to the true one, inside the region that was hidden.

PSNR of the region's pixels, and the mean over the region of the SSIM index of Wang et al. 2004 (IEEE TIP 13, Gaussian
window of 11×11, deviation 1.5, K 0.01 and 0.03), each channel on its own; at the image's borders the window holds what
there is. SSIM looks beyond the region by the window's half width. Of a clip [B, 3, T, H, W] with a region [B, T, H, W]
the means are over the regions of all frames; no window spans two.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW, _DEVIATION = 11, 1.5
SSIM_REACH = _WINDOW // 2
"""Pixels that SSIM looks beyond a region."""
_K1, _K2 = 0.01, 0.03
_PERFECT = 1e-10  # mean squared error below which the PSNR is not counted higher: 100 dB


def psnr(images: Tensor, truth: Tensor, region: Tensor) -> Tensor:
    """Peak signal to noise ratio in dB, float32 [B], of uint8 images [B, 3, H, W] in ``region`` bool [B, H, W].

    At most 100; NaN where the region is empty.
    """
    error = ((images.float() - truth.float()) / 255).square().mean(1)  # as the region
    return -10 * _mean_in(error, region).clamp(min=_PERFECT).log10()


def ssim(images: Tensor, truth: Tensor, region: Tensor) -> Tensor:
    """Mean structural similarity, float32 [B], −1..1, of uint8 images [B, 3, H, W] in ``region`` bool [B, H, W].

    NaN where the region is empty.
    """
    x, y = (pixels.movedim(1, -3).flatten(0, -4).double() / 255 for pixels in (images, truth))  # frame by frame
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    index = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    index = index / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return _mean_in(index.mean(1).reshape(region.shape), region).float()


def _blur(images: Tensor) -> Tensor:
    steps = torch.arange(_WINDOW, device=images.device, dtype=images.dtype) - _WINDOW // 2
    line = torch.exp(-(steps**2) / (2 * _DEVIATION**2))
    for kernel in (line[:, None], line[None, :]):
        weights = kernel.expand(images.shape[1], 1, *kernel.shape)
        padding = (kernel.shape[0] // 2, kernel.shape[1] // 2)
        there = F.conv2d(torch.ones_like(images[:1, :1]), kernel[None, None], padding=padding)
        images = F.conv2d(images, weights, padding=padding, groups=images.shape[1]) / there
    return images


def _mean_in(values: Tensor, region: Tensor) -> Tensor:
    """The mean of values [B, …] in a region of that shape, [B]; NaN where it is empty."""
    return (values * region).flatten(1).sum(1) / region.flatten(1).sum(1)
