"""Texts for what is behind things: CLIP-ES and the dense method weigh a caption against them.

A softmax needs something for a patch to be instead of the caption; words for stuff (sky, grass, a wall) are what most
photos are filled with. The list is short and general on purpose: it is no label set, and is the same for all images.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from saliency.towers.tower import Tower

BACKGROUNDS = (
    "sky", "clouds", "fog", "sunlight", "shadow", "grass", "trees", "leaves", "bushes", "soil", "sand", "gravel",
    "rocks", "a hillside", "snow", "water", "waves", "a road", "pavement", "a fence", "a building", "a wall",
    "a ceiling", "a floor", "a carpet", "a curtain", "cloth", "wood", "paper", "a blurry background",
)  # fmt: skip
PROMPT = "a photo of {}"

_FEATURES: WeakKeyDictionary[Tower, Tensor] = WeakKeyDictionary()


def background_features(tower: Tower) -> Tensor:
    """Unit-length features float32 [n, D] of the background texts, encoded once a tower."""
    if tower not in _FEATURES:
        _FEATURES[tower] = tower.encode_texts([PROMPT.format(word) for word in BACKGROUNDS])
    return _FEATURES[tower]


def caption_logits(tower: Tower, features: Tensor, texts: Tensor) -> Tensor:
    """Scaled cosines float64 [K, B, ..., 1 + n] of unit-length features [B, ..., D] with a caption, then backgrounds.

    texts: unit-length [K, B, D], K captions for each image. The scale is the tower's own, learned with its features. In
    float64 where the device has it: a float32 softmax that is sure of the caption has no gradient left.
    """
    own = torch.einsum("b...d,kbd->kb...", features, texts)[..., None]
    others = (features @ background_features(tower).T).expand(len(texts), *[-1] * features.ndim)
    scale: Tensor = tower._model.logit_scale
    exact = torch.float32 if features.device.type == "mps" else torch.float64
    return torch.cat([own, others], dim=-1).to(exact) * scale.exp()
