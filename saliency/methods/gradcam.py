"""Grad-CAM of the cosine between image and caption, at the cost of a forward pass.

Grad-CAM (arXiv 1610.02391) needs the gradient of the score at one late layer, and nothing before that layer needs a
graph. A hook replaces the tensor there by ``tensor.detach().requires_grad_(True)``: with the parameters frozen,
everything before runs without a graph, and the gradient is the one the full backward pass would give. Every method
that reads gradients cuts the graph this way, at a place of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saliency.towers.class_token import class_token_alone
from saliency.towers.tower import Tower


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """ReLU(Σ_c α_c A_c) with α_c the mean gradient of channel c over the grid; [B, C, H, W] twice → [B, H, W] ≥ 0."""
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    return (weights * activations).sum(dim=1).relu()


def gradcam_maps(tower: Tower, inputs: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Grad-CAM at the tower's layer; see :data:`saliency.methods.methods.Maps` for the arguments and what is
    returned."""
    activations, gradients, scores = read_layer(tower, inputs, texts)
    return torch.stack([gradcam(activations, each) for each in gradients]), scores


def read_layer(tower: Tower, inputs: Tensor, texts: Tensor) -> tuple[Tensor, Iterator[Tensor], Tensor]:
    """Activations float32 [B, C, H, W] at the tower's layer, the gradients there for each caption of the images in
    turn, [B, C, H, W], and the scores float32 [K, B]."""
    cutting = GraphCut(Place(tower.layer.module))
    with class_token_alone(tower), cutting as cut, torch.enable_grad(), trunk_precision(tower):
        scores = (tower.encode_images(inputs) * texts).sum(dim=-1)
    gradients = (tower.to_grid(each) for each in caption_gradients(scores, cut.leaf))
    return tower.to_grid(cut.leaf.detach()), gradients, scores.detach()


def caption_gradients(scores: Tensor, leaf: Tensor) -> Iterator[Tensor]:
    """∂s/∂leaf for each caption in turn: scores [K, B] → K tensors like the leaf, whose first dimension is B.

    Images go through the model once, however many captions they have: only the way back from a score to the leaf is
    gone once per caption. One score depends on one image, so the gradient of their sum holds each pair's own.
    """
    for number, each in enumerate(scores, start=1):
        (gradients,) = torch.autograd.grad(each.sum(), leaf, retain_graph=number < len(scores))
        yield gradients


@dataclass(frozen=True)
class Place:
    """Where a tensor passes through a model: a module's output, or its first input."""

    module: nn.Module
    side: Literal["output", "input"] = "output"

    def replace(self, function: Callable[[Tensor], Tensor]) -> torch.utils.hooks.RemovableHandle:
        """From now on, what passes here is ``function`` of what would have passed; returns the hook's handle."""
        if self.side == "output":
            return self.module.register_forward_hook(lambda _module, _inputs, output: function(output))
        return self.module.register_forward_pre_hook(lambda _module, inputs: (function(inputs[0]), *inputs[1:]))


class _Hooked(AbstractContextManager[Any]):
    """A place that is watched while this is entered."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def __enter__(self) -> Any:
        self._handle = self._place.replace(self._pass)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _pass(self, tensor: Tensor) -> Tensor:
        raise NotImplementedError


class Watch(_Hooked):
    """While entered, ``seen`` is the last tensor that passed the place, unchanged."""

    seen: Tensor

    def __enter__(self) -> Watch:
        super().__enter__()
        return self

    def _pass(self, tensor: Tensor) -> Tensor:
        self.seen = tensor
        return tensor


class GraphCut(_Hooked):
    """While entered, what passes the place starts a new graph; ``leaf`` is its start, float32."""

    leaf: Tensor

    def __enter__(self) -> GraphCut:
        super().__enter__()
        return self

    def _pass(self, tensor: Tensor) -> Tensor:
        # gradients here are ~1e-5 and smaller: what follows the cut runs in float32, whatever the trunk ran in.
        # The surrounding autocast context restores the flag when it exits.
        torch.set_autocast_enabled(tensor.device.type, False)
        self.leaf = tensor.detach().float().requires_grad_(True)
        return self.leaf


def trunk_precision(tower: Tower) -> torch.autocast:
    """The context in which the tower's trunk, all before the cut, runs: bfloat16 or float32, as the tower says."""
    return torch.autocast(tower.device.type, dtype=torch.bfloat16, enabled=tower.precision == "bf16")
