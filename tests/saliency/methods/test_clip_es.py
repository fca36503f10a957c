"""CLIP-ES against autograd through the whole model, uncut."""

import pytest
import torch

from saliency.methods.backgrounds import BACKGROUNDS, PROMPT, background_features
from saliency.methods.clip_es import clip_es_maps
from tests.saliency.explicit_vit import modules, norm_and_project
from tests.saliency.methods.test_grad_eclip_legrad import setting


@pytest.mark.parametrize("kind", ["class token", "average", "timm class token"])
def test_clip_es_is_grad_cam_of_a_softmax_of_the_mean_patch(kind):
    tower, inputs, texts, _ = setting(kind)
    [maps], [scores] = clip_es_maps(tower, inputs, texts[None])

    tower.model.requires_grad_(True)
    kept = {}
    last = modules(tower.model.visual)[-1]
    handles = [
        tower.layer.module.register_forward_hook(lambda _m, _i, output: kept.update(layer=output)),
        last.register_forward_hook(lambda _m, _i, output: kept.update(tokens=output)),
    ]
    image = tower.encode_images(inputs)
    for handle in handles:
        handle.remove()
    backgrounds = tower.encode_texts([PROMPT.format(word) for word in BACKGROUNDS])
    prefix = tower.layer.prefix_tokens
    expected = []
    for b in range(len(inputs)):
        feature = norm_and_project(tower.model.visual, kept["tokens"][b, prefix:]).mean(0)
        cosines = torch.cosine_similarity(feature[None], torch.cat([texts[b : b + 1], backgrounds]), dim=-1)
        probability = (cosines * tower.model.logit_scale.exp()).softmax(0)[0]
        (gradients,) = torch.autograd.grad(probability, kept["layer"], retain_graph=True)
        weights = gradients[b, prefix:].mean(0)
        expected.append((kept["layer"][b, prefix:] @ weights).relu().view(tower.grid))
    torch.testing.assert_close(maps, torch.stack(expected).detach(), atol=1e-9, rtol=1e-3)
    torch.testing.assert_close(scores, (image * texts).sum(1).detach(), atol=1e-6, rtol=0)
    assert maps.max() > 1e-6


def test_a_tower_that_is_sure_still_has_a_map():
    """A float32 softmax of 1.0 would have no gradient left."""
    tower, inputs, texts, _ = setting("average")
    texts = tower.encode_images(inputs)  # cosine 1 with its own image
    tower.model.logit_scale.data.fill_(6)
    [maps], _ = clip_es_maps(tower, inputs, texts.detach()[None])
    assert maps.isfinite().all()


def test_backgrounds_are_encoded_once_a_tower(monkeypatch):
    tower, _, _, _ = setting("class token")
    first = background_features(tower)
    monkeypatch.setattr(tower, "encode_texts", None)
    assert background_features(tower) is first
    assert first.shape == (len(BACKGROUNDS), 16)
    assert len(set(BACKGROUNDS)) == len(BACKGROUNDS)
