"""Pictures of any size completed: what is hidden of them is filled in by a model of another size, without a seam.

The picture is brought to the model's size by averaging visible pixels alone, so that nothing of what is hidden is ever
seen; :func:`mae.recovery.recover.recover` fills in; the result is enlarged again, and its colours are bent towards
those just outside of the hidden region: the difference there is spread smoothly over the region (a membrane, as in
Pérez et al., "Poisson image editing", 2003, here by pull and push over a pyramid). Pixels outside the region are kept
to the bit.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mae.devices import copy_to
from mae.models.vit import MaskedAutoencoder
from mae.recovery.recover import recover


@torch.no_grad()
def complete(
    model: MaskedAutoencoder, images: Tensor, hidden: Tensor, *, blend: bool = True, precision: str = "fp32"
) -> Tensor:
    """Images uint8 [B, 3, H, W] of any size whose pixels under ``hidden`` bool [B, H, W] are the model's.

    All other pixels are untouched. The whole image is squashed to the model's size. Without ``blend`` the edge of the
    region shows. The result is on the model's device; inputs may lie on the host. ValueError for shapes that do not
    fit.
    """
    if images.ndim != 4 or hidden.shape != (len(images), *images.shape[2:]):
        raise ValueError(f"hidden pixels of shape {list(hidden.shape)} do not fit images of {list(images.shape)}")
    device = model.pos_embed.device
    images = copy_to(images, device)
    small, covered = shrink_visible(images, hidden, model.image_size)
    filled = recover(model, small, covered, precision)
    return enlarge_into(images, copy_to(hidden, device), filled, copy_to(covered, device), blend=blend)


def enlarge_into(images: Tensor, hidden: Tensor, small: Tensor, covered: Tensor, *, blend: bool = True) -> Tensor:
    """Images uint8 [B, 3, H, W] whose pixels under ``hidden`` bool [B, H, W] are those of smaller pictures.

    ``small`` uint8 [B, 3, h, w] is what a model filled in where ``covered`` bool [B, h, w] (:func:`shrink_visible`).
    """
    size = (small.shape[2], small.shape[3])
    known = covered[:, None].float()
    # Only what the model filled in is enlarged: its edge must not be mixed with what lies around it.
    filled = spread_inwards(*_outwards(small.float() * known, known))
    large = _enlarge(filled, (images.shape[2], images.shape[3]))
    if blend:
        edge = _edge(hidden, size)
        large = large + spread_inwards((images.float() - large) * edge, edge)
    completed = large.round().clamp(0, 255).to(torch.uint8)
    return torch.where(hidden[:, None], completed, images)


def shrink_visible(images: Tensor, hidden: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The images at ``size`` (height, width), each pixel the mean of visible ones, and what is hidden there.

    uint8 [B, 3, h, w] and bool [B, h, w]: a pixel is hidden if any that it covers is, and no visible one knows anything
    of a hidden one. What is hidden may lie on the host with the images on a GPU, and then does so at ``size`` as well.
    """
    share = F.adaptive_avg_pool2d((~hidden)[:, None].float(), size)
    covered = share[:, 0] < 1 - 1e-4
    visible, share = copy_to(~hidden, images.device)[:, None].float(), copy_to(share, images.device)
    mean = F.adaptive_avg_pool2d(images.float() * visible, size) / share.clamp_min(1e-6)
    return mean.round().clamp(0, 255).to(torch.uint8), covered


def spread_inwards(values: Tensor, weights: Tensor) -> Tensor:
    """Values float [B, C, H, W], known where ``weights`` [B, 1, H, W] is 1 and 0 elsewhere, carried on smoothly.

    Pull and push (Gortler et al. 1996, "The lumigraph"): means of what is known at every halving, and from the coarsest
    on what is not known takes the value above it. Zero where nothing is known at all.
    """
    levels = [(values, weights)]
    while max(values.shape[2:]) > 1:
        padded_values, padded_weights = (_even(each) for each in levels[-1])
        share = F.avg_pool2d(padded_weights, 2)
        mean = F.avg_pool2d(padded_values * padded_weights, 2) / share.clamp_min(1e-6)
        values, weights = mean, (4 * share).clamp(max=1)  # one known pixel of four is knowledge enough
        levels.append((values, weights))
    filled = levels[-1][0] * (levels[-1][1] > 0)
    for known, weight in reversed(levels[:-1]):
        height, width = known.shape[2:]
        above = _enlarge(filled, (height + height % 2, width + width % 2))[:, :, :height, :width]
        filled = weight * known + (1 - weight) * above
    return filled


def seam(images: Tensor, hidden: Tensor) -> Tensor:
    """How visible the edge of the hidden region is, float32 [B]: the mean absolute step between neighbouring pixels,
    one hidden and one not, in 0..255; NaN where there is no edge.
    """
    steps = torch.zeros(len(images), device=images.device)
    edges = torch.zeros(len(images), device=images.device)
    pixels = images.float()
    for axis in (2, 3):
        crossing = (hidden.diff(dim=axis - 1) != 0).float()
        steps += (pixels.diff(dim=axis).abs().mean(1) * crossing).sum((1, 2))
        edges += crossing.sum((1, 2))
    return steps / edges


def _edge(hidden: Tensor, size: tuple[int, int]) -> Tensor:
    """The visible pixels just outside the region, 1 or 0, [B, 1, H, W]: as far as a pixel of the model's is wide."""
    there = hidden[:, None].float()
    reach = [max(1, math.ceil(large / small)) for large, small in zip(hidden.shape[1:], size, strict=True)]
    reached = there
    for kernel, padding in (((2 * reach[0] + 1, 1), (reach[0], 0)), ((1, 2 * reach[1] + 1), (0, reach[1]))):
        reached = F.max_pool2d(reached, kernel, stride=1, padding=padding)  # a side at a time: far cheaper
    return reached - there


def _outwards(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Values and weights as of ``spread_inwards``, known two pixels further out: the mean of what is known beside them.

    Just outside of its region the model's picture goes on as it was at the edge; a coarser mean, which is what pull and
    push has there, would let the bending bring in all the detail that the picture already has, once more.
    """
    for _ in range(2):
        share = F.avg_pool2d(weights, 3, stride=1, padding=1)
        mean = F.avg_pool2d(values, 3, stride=1, padding=1) / share.clamp_min(1e-6)
        values, weights = weights * values + (1 - weights) * mean, (share > 0).float()
    return values * weights, weights


def _even(values: Tensor) -> Tensor:
    """One more row or column of zeros where a side is odd."""
    height, width = values.shape[2:]
    return F.pad(values, (0, width % 2, 0, height % 2))


def _enlarge(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)
