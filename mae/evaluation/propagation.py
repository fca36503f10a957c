"""Labels carried through a video by likeness of features, as DINO (arXiv 2104.14294) and STC (arXiv 2006.14613) do it.

A patch takes the labels of the patches most like it in the first frame and in the frames just before: of all patches of
those within ``radius`` rows and columns of its own place, the ``neighbours`` of highest cosine similarity, weighted by
exp(similarity / temperature). Nothing is learned. Labels stay soft from frame to frame.

Shapes: T frames of h×w patches with D features; C labels, the first of which is the background.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_AT_ONCE = 16_000_000  # similarities computed together


def propagate(
    features: Tensor,
    first: Tensor,
    *,
    context: int = 7,
    neighbours: int = 5,
    radius: int = 12,
    temperature: float = 0.1,
) -> Tensor:
    """Soft labels float32 [T, C, h, w] of features [T, D, h, w] from those of the first frame, ``first`` [C, h, w].

    A frame looks at the first one and at the ``context`` frames before it.
    """
    frames, _, rows, columns = features.shape
    tokens = F.normalize(features.float(), dim=1).flatten(2).transpose(1, 2)  # [T, N, D]
    labels = [first.float().flatten(1).T]  # [N, C]
    for frame in range(1, frames):
        seen = [0, *range(max(1, frame - context), frame)]
        labels.append(
            _carried(
                tokens[frame],
                torch.cat([tokens[i] for i in seen]),
                torch.cat([labels[i] for i in seen]),
                (rows, columns),
                (neighbours, radius, temperature),
            )
        )
    return torch.stack(labels).transpose(1, 2).reshape(frames, -1, rows, columns)


def _carried(
    target: Tensor, sources: Tensor, labels: Tensor, grid: tuple[int, int], settings: tuple[int, int, float]
) -> Tensor:
    """Labels [N, C] for patches [N, D] of one frame from those [S·N, C] of patches [S·N, D] of S others."""
    neighbours, radius, temperature = settings
    count = len(target)
    places = torch.cartesian_prod(*(torch.arange(side, device=target.device) for side in grid))  # [N, 2]
    found = []
    for start in range(0, count, max(1, _AT_ONCE // len(sources))):
        part = slice(start, start + max(1, _AT_ONCE // len(sources)))
        far = (places[part, None] - places[None]).abs().amax(2) > radius  # [n, N]
        similarity = target[part] @ sources.T  # [n, S·N]
        similarity = similarity.masked_fill(far.repeat(1, len(sources) // count), -torch.inf)
        best, which = similarity.topk(min(neighbours, len(sources)), dim=1)
        weights = (best / temperature).softmax(1)
        found.append((weights[:, :, None] * labels[which]).sum(1))
    return torch.cat(found)


def to_mask(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """The highest label of every pixel, int64 [H, W], of soft ones [C, h, w]: made bilinear, each stretched to 0..1."""
    large = F.interpolate(labels[None], size=size, mode="bilinear", align_corners=False)[0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    stretched = torch.where(high > 0, (large - low) / (high - low).clamp(min=1e-12), large)
    return stretched.argmax(0)
