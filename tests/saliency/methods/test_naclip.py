"""NACLIP against its equations in explicit loops."""

import math

import pytest
import torch

from saliency.methods.backgrounds import BACKGROUNDS, PROMPT
from saliency.methods.naclip import naclip_maps, neighbourhood
from tests.saliency.explicit_vit import Block, modules, norm_and_project
from tests.saliency.methods.test_grad_eclip_legrad import setting


@pytest.mark.parametrize("kind", ["class token", "average", "timm class token"])
def test_every_patch_is_a_softmax_over_caption_and_backgrounds(kind):
    tower, inputs, texts, tokens = setting(kind)
    texts, inputs = texts[:1], inputs[:1]
    block = Block(modules(tower.model.visual)[-1])
    _, keys, values = block.project(tokens[-2][:1])
    rows, columns = tower.grid
    prefix = tower.layer.prefix_tokens
    backgrounds = tower.encode_texts([PROMPT.format(word) for word in BACKGROUNDS])
    expected = torch.zeros(rows, columns)
    for r in range(rows):
        for c in range(columns):
            outputs = []
            for head in range(keys.shape[1]):
                k, v = keys[0, head], values[0, head]
                logits = k @ k[prefix + r * columns + c] / math.sqrt(k.shape[1])
                for i in range(rows):
                    for j in range(columns):
                        logits[prefix + i * columns + j] += math.exp(-((i - r) ** 2 + (j - c) ** 2) / 50)
                outputs.append(logits.softmax(0) @ v)
            patch = norm_and_project(tower.model.visual, block.scale(block.out(torch.cat(outputs))))
            cosines = torch.cosine_similarity(patch[None], torch.cat([texts, backgrounds]), dim=-1)
            expected[r, c] = (cosines * tower.model.logit_scale.exp()).softmax(0)[0]
    [maps], [scores] = naclip_maps(tower, inputs, texts[None])
    torch.testing.assert_close(maps[0], expected.detach(), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(scores, (tower.encode_images(inputs) * texts).sum(1), atol=1e-6, rtol=0)
    assert maps.max() <= 1
    assert maps.std() > 0


def test_the_prior_falls_off_as_a_gaussian():
    prior = neighbourhood((2, 3))
    assert prior.shape == (6, 6)
    assert prior.diagonal().tolist() == [1] * 6
    assert prior[0, 5] == pytest.approx(math.exp(-(1 + 4) / 50))
    torch.testing.assert_close(prior, prior.T)
