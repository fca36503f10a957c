"""Grad-CAM of the cosine between image and caption, at the cost of a forward pass.

Grad-CAM (arXiv 1610.02391) needs the gradient of the score at one late layer, and nothing before that layer needs a
graph. A forward hook replaces the layer's output by ``output.detach().requires_grad_(True)``: with the parameters
frozen, everything before runs without a graph, and the gradient is the one the full backward pass would give.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from saliency.towers import Tower


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """ReLU(Σ_c α_c A_c) with α_c the mean gradient of channel c over the grid; [B, C, H, W] twice → [B, H, W] ≥ 0."""
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    return (weights * activations).sum(dim=1).relu()


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"gradcam": gradcam}
"""Each takes the layer's activations and gradients [B, C, H, W] and gives raw maps [B, H, W] ≥ 0."""


def saliency_maps(tower: Tower, pixels: Tensor, texts: Tensor, *, method: str = "gradcam") -> tuple[Tensor, Tensor]:
    """Raw saliency maps of B image–caption pairs.

    pixels: uint8 [B, 3, S, S] as ``tower.squash`` gives them; texts: unit-length float32 [B, D].
    Returns maps float32 [B, H, W] ≥ 0 and scores float32 [B], cos(image, caption).
    """
    if len(pixels) != len(texts):
        raise ValueError(f"{len(pixels)} images but {len(texts)} texts: a pair needs one of each")
    inputs = tower.normalise(pixels)
    with _GraphCut(tower.layer.module) as cut, torch.enable_grad(), _trunk_precision(tower.device):
        scores = (tower.encode_images(inputs) * texts.to(tower.device)).sum(dim=1)
        # one score depends on one image, so the gradient of the sum holds every pair's own gradient
        (gradients,) = torch.autograd.grad(scores.sum(), cut.output)
    with torch.no_grad():
        maps = METHODS[method](tower.to_grid(cut.output.detach()).float(), tower.to_grid(gradients).float())
    return maps, scores.detach()


class _GraphCut:
    """While entered, the module's output starts a new graph; ``output`` is that leaf, float32."""

    output: Tensor

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __enter__(self) -> _GraphCut:
        self._handle = self._module.register_forward_hook(self._replace)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _replace(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        # gradients here are ~1e-5 and smaller: what follows the cut runs in float32, whatever the trunk ran in.
        # The surrounding autocast context restores the flag when it exits.
        torch.set_autocast_enabled(output.device.type, False)
        self.output = output.detach().float().requires_grad_(True)
        return self.output


def _trunk_precision(device: torch.device) -> torch.autocast:
    enabled = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
