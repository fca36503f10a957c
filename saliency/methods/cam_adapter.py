"""pytorch-grad-cam's methods on the cut graph.

The library's own classes make the maps; what they are given are the activations and gradients of the cut graph, so a
method costs a forward pass where the library alone runs the whole model backwards. The library scales every map to
0..1; here the raw map is kept, so that its strength survives. Needs the optional extra ``cam``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saliency.methods.gradcam import Place, Watch, read_layer, trunk_precision
from saliency.towers.tower import Tower

CLASSES = {
    "gradcam++": "GradCAMPlusPlus",
    "layercam": "LayerCAM",
    "hirescam": "HiResCAM",
    "xgradcam": "XGradCAM",
    "eigengradcam": "EigenGradCAM",
    "scorecam": "ScoreCAM",
}
"""The library's class of each method."""

_SCORECAM_BATCH = 16


def check_package(method: str) -> None:
    """ValueError, one line that says what to install, if the library is not there."""
    if importlib.util.find_spec("pytorch_grad_cam") is None:
        raise ValueError(f"--method {method} needs pytorch-grad-cam: pip install 'saliency-mae[cam]'")


def adapted_maps(tower: Tower, inputs: Tensor, texts: Tensor, *, method: str) -> tuple[Tensor, Tensor]:
    """A method of :data:`CLASSES` at the tower's layer; see :data:`saliency.methods.methods.Maps`."""
    if method == "scorecam":
        return _scorecam_maps(tower, inputs, texts)
    activations, gradients, scores = read_layer(tower, inputs, texts)
    seen = activations.cpu().numpy()  # once, however many captions an image has
    maps = []
    for captions, slopes in zip(texts, gradients, strict=True):
        made = _image(method, tower, inputs, captions, seen, slopes.cpu().numpy())
        if method == "eigengradcam":
            made = _orient(made, (activations * slopes).sum(dim=1).cpu().numpy())
        maps.append(made)
    return torch.from_numpy(np.maximum(np.stack(maps), 0)).float().to(tower.device), scores


def _scorecam_maps(tower: Tower, inputs: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """One pair at a time: the library holds a masked copy of the image for every channel of the layer."""
    with Watch(Place(tower.layer.module)) as layer, torch.no_grad(), trunk_precision(tower):
        scores = (tower.encode_images(inputs) * texts).sum(dim=-1)
    activations = tower.to_grid(layer.seen).float().cpu().numpy()
    images = [slice(i, i + 1) for i in range(len(inputs))]
    maps = [
        np.concatenate([_image("scorecam", tower, inputs[i], captions[i], activations[i], None) for i in images])
        for captions in texts
    ]
    return torch.from_numpy(np.maximum(np.stack(maps), 0)).float().to(tower.device), scores


def _image(
    method: str,
    tower: Tower,
    inputs: Tensor,
    texts: Tensor,
    activations: NDArray[np.float32],
    gradients: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """The library's map [B, H, W] before its ReLU and scaling, from [B, C, H, W]."""
    import pytorch_grad_cam

    cam: Any = getattr(pytorch_grad_cam, CLASSES[method])(_Features(tower), [])  # no layers, so it hooks nothing
    cam.batch_size = _SCORECAM_BATCH
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar, one an image
        image: NDArray[np.float32] = cam.get_cam_image(
            inputs,
            tower.layer.module,
            [_Cosine(text) for text in texts],
            activations,
            gradients,
            False,
        )
    return image


def _orient(maps: NDArray[np.float32], evidence: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each map or its negative, whichever goes with the evidence Σ_c gradient · activation, [B, H, W].

    EigenGradCAM's map is a principal component, whose sign the linear algebra library chooses: left alone, one map
    shows the object and the next all but the object.
    """
    centred = evidence - evidence.mean(axis=(1, 2), keepdims=True)
    agree = (maps * centred).sum(axis=(1, 2), keepdims=True)
    return np.where(agree < 0, -maps, maps)


class _Features(nn.Module):
    """The tower as the library wants a model: images in, features out."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.model = tower.model
        self._tower = tower

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad(), trunk_precision(self._tower):
            return self._tower.encode_images(images)


class _Cosine:
    """The library's target of a pair: the cosine of an image's feature with the caption's."""

    def __init__(self, text: Tensor) -> None:
        self._text = text

    def __call__(self, features: Tensor) -> Tensor:
        return (features * self._text).sum()
