"""CLIP-ES (CVPR 2023, arXiv 2212.09506): Grad-CAM of how much rather the caption than a background describes a photo.

Its two changes to Grad-CAM: the score is the softmax over caption and backgrounds, so that what all texts share drops
out of the gradient; and the image's feature is the mean of the last block's patch tokens, since the class token's
gradient reaches the patches by attention alone. The refinement by attention and the CRF that follow in the paper are
segmentation's, and are not part of this.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saliency.methods.attention import blocks
from saliency.methods.backgrounds import caption_logits
from saliency.methods.gradcam import GraphCut, Place, Watch, caption_gradients, gradcam, trunk_precision
from saliency.towers.heads import pool_tokens, project_tokens
from saliency.towers.tower import Tower


def clip_es_maps(tower: Tower, inputs: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """CLIP-ES at the tower's layer: gradcam of softmax(t·cos(f, [caption, backgrounds]))_caption.

    f is the mean over the patches of the last block's output after the final norm and the projection (in an
    average-pooled tower its own feature), t the tower's own logit scale. Arguments and what is returned:
    :data:`saliency.methods.methods.Maps`.
    """
    last = Place(blocks(tower)[-1][1])
    layer = Place(tower.layer.module)
    with Watch(last) as output, GraphCut(layer) as cut, torch.enable_grad(), trunk_precision(tower):
        scores = (tower.encode_images(inputs) * texts).sum(dim=-1)
        features = _patch_mean(tower, output.seen)
        probabilities = caption_logits(tower, features, texts).softmax(dim=-1)[..., 0]
    activations = tower.to_grid(cut.leaf.detach())
    maps = [gradcam(activations, tower.to_grid(each)) for each in caption_gradients(probabilities, cut.leaf)]
    return torch.stack(maps), scores.detach()


def _patch_mean(tower: Tower, tokens: Tensor) -> Tensor:
    if tower.layer.pooling == "average":
        return pool_tokens(tower, tokens)
    return F.normalize(project_tokens(tower, tokens[:, tower.layer.prefix_tokens :]).mean(dim=1), dim=-1)
