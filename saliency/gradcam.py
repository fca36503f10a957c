"""Grad-CAM of the cosine between image and caption, at the cost of a forward pass.

Grad-CAM (arXiv 1610.02391) needs the gradient of the score at one late layer, and nothing before that layer needs a
graph. A forward hook replaces the layer's output by ``output.detach().requires_grad_(True)``: with the parameters
frozen, everything before runs without a graph, and the gradient is the one the full backward pass would give.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saliency.towers import Tower


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """ReLU(Σ_c α_c A_c) with α_c the mean gradient of channel c over the grid; [B, C, H, W] twice → [B, H, W] ≥ 0."""
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    return (weights * activations).sum(dim=1).relu()


def gradcam_maps(tower: Tower, inputs: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Grad-CAM at the tower's layer; see :data:`saliency.methods.Maps` for the arguments and what is returned."""
    activations, gradients, scores = read_layer(tower, inputs, texts)
    return gradcam(activations, gradients), scores


def read_layer(tower: Tower, inputs: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Activations and gradients float32 [B, C, H, W] at the tower's layer, and the scores float32 [B]."""
    with GraphCut(tower.layer.module) as cut, torch.enable_grad(), trunk_precision(tower):
        scores = (tower.encode_images(inputs) * texts).sum(dim=1)
        # one score depends on one image, so the gradient of the sum holds every pair's own gradient
        (gradients,) = torch.autograd.grad(scores.sum(), cut.output)
    return tower.to_grid(cut.output.detach()).float(), tower.to_grid(gradients).float(), scores.detach()


class GraphCut:
    """While entered, the module's output starts a new graph; ``output`` is that leaf, float32."""

    output: Tensor

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __enter__(self) -> GraphCut:
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


def trunk_precision(tower: Tower) -> torch.autocast:
    """The context in which the tower's trunk, all before the cut, runs: bfloat16 or float32, as the tower says."""
    return torch.autocast(tower.device.type, dtype=torch.bfloat16, enabled=tower.precision == "bf16")
