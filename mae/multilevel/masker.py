"""Networks that can be T of MLO-MAE (arXiv 2402.18128): what is known of the patches in, what should be hidden out.

The paper's MLP, which fits one grid; the gate, or any other network from (embeddings, grid) to
logits; and a mix of a few features of the patches, with as many numbers to learn.

Shapes: B images, N patches of width D.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from mae.masks.masking import center_prior
from mae.masks.noise import color_priorities
from mae.multilevel.draws import Choice


class Reader(Protocol):
    """A network that reads features of its own in the place of the encoder's patch embeddings."""

    def read(self, patches: Tensor, saliency: Tensor | None, noise: Tensor | None) -> Tensor:
        """Features [B, N, F] of normalised patches [B, N, p·p·3], maps [B, N] and noises in [0, 1) [B, …]."""


class MlpMasker(nn.Module):
    """The paper's: flatten → Linear(512) → ReLU → Linear(N) → sigmoid, with 512·(N·D + N + 1) + N parameters.

    77 M for the 14×14 patches of a ViT-B at 224 px, 101 M for the 16×16 of the paper's CIFAR models.
    """

    def __init__(self, patches: int, width: int, hidden: int = 512) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(patches * width, hidden), nn.ReLU(), nn.Linear(hidden, patches))

    def forward(self, tokens: Tensor) -> Tensor:
        """Probabilities [B, N] of patch embeddings [B, N, D]."""
        return torch.sigmoid(self.layers(tokens.flatten(1)))


class GridMasker(nn.Module):
    """Any network from patch embeddings [B, N, D] and their grid to logits [B, N], such as the gate, as T.

    An image's logits are taken relative to their mean.
    """

    def __init__(self, network: nn.Module, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.grid = network, grid

    def forward(self, tokens: Tensor) -> Tensor:
        """Probabilities [B, N]."""
        return _relative(self.network(tokens, self.grid))


class MixMasker(nn.Module):
    """A weighted sum of features of the patches as logits, and the share of the hidden patches that T chooses.

    The features are standardised within the image: ``contrast``, the log of the deviation of a patch's pixels;
    ``distinct``, how far its mean colour lies from the image's; ``center``, a centred prior; ``clumps``, green noise
    (``mae.masks.noise``), which hides patches in groups; and ``map``, saliency, with ``maps``. All weights start at 0,
    where masks are random, but that of the noise: its derivative there is 0.
    """

    def __init__(self, grid: tuple[int, int], *, maps: bool = False, share: float = 0.5) -> None:
        super().__init__()
        self.grid = grid
        self.features = ("contrast", "distinct", "center", "clumps", *(("map",) if maps else ()))
        start = torch.zeros(len(self.features))
        start[self.features.index("clumps")] = 0.25
        self.weights = nn.Parameter(start)
        self.share = nn.Parameter(torch.logit(torch.tensor(min(max(share, 0.01), 0.99))))
        self.temperature = nn.Parameter(torch.zeros(()))
        self.noises = _noises(grid)
        """How many random numbers an image's noise takes."""

    def read(self, patches: Tensor, saliency: Tensor | None, noise: Tensor | None) -> Tensor:
        """As :meth:`Reader.read`; without noise ``clumps`` is 0."""
        cells = patches.float().reshape(*patches.shape[:2], -1, 3)  # [B, N, p·p, 3]
        colors = cells.mean(2)
        found = {
            "contrast": torch.log(cells.flatten(2).std(2) + 1e-2),
            "distinct": (colors - colors.mean(1, keepdim=True)).norm(dim=-1),
            "center": center_prior(self.grid, patches.device).expand(len(patches), -1),
            "clumps": torch.zeros(patches.shape[:2], device=patches.device),
        }
        if noise is not None:
            found["clumps"] = color_priorities("green", self.grid, lambda *_: noise[None]).float()
        if "map" in self.features:
            found["map"] = torch.zeros_like(found["clumps"]) if saliency is None else saliency.float()
        stacked = torch.stack([found[name] for name in self.features], -1)
        deviation = stacked.std(1, keepdim=True)
        return (stacked - stacked.mean(1, keepdim=True)) / torch.where(deviation > 1e-6, deviation, 1)

    def forward(self, features: Tensor) -> Choice:
        """What T says of features [B, N, F]."""
        logits = (features.to(self.weights.dtype) @ self.weights) * torch.exp(-self.temperature)
        return Choice(_relative(logits), torch.sigmoid(self.share))

    def numbers(self) -> dict[str, Tensor]:
        """What T has learned, by name: a weight each, in units of log-odds, the share 0..1 and the temperature."""
        named = dict(zip(self.features, self.weights.detach(), strict=True))
        return named | {
            "share": torch.sigmoid(self.share.detach()),
            "temperature": torch.exp(self.temperature.detach()),
        }


def _relative(logits: Tensor) -> Tensor:
    """Probabilities by logits relative to their mean in the image."""
    # Which patch is above which is all that a mask asks; left free, what all patches share was seen to carry the
    # probabilities of all of them to 0, where nothing is learned any more.
    return torch.sigmoid(logits - logits.mean(1, keepdim=True))


def _noises(grid: tuple[int, int]) -> int:
    asked: list[int] = []

    def blank(count: int, numbers: int) -> Tensor:
        asked.append(numbers)
        return torch.zeros(count, 1, numbers)

    color_priorities("green", grid, blank)
    return asked[0]
