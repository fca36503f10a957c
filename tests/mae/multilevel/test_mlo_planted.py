"""A planted task: the label depends on one region of the image, and the learned mask has to find it.

T is the smallest there is, a number for each
place, and acts through the weights of the errors alone (masks are drawn nearly at random), so that what is tested is
the hypergradient, not what a network can be made to learn in 160 steps of 64 images.
"""

import pytest
import torch
from torch import nn

from mae.masks.masking import Masking
from mae.multilevel.mlo_training import LabelledImages, MultilevelTraining
from mae.multilevel.settings import MultilevelSettings
from mae.pixels import normalise
from mae.training.settings import TrainingSettings
from tests.planted import PATTERNS, patterns_of, scenes
from tests.tiny_mae import nano

BATCH, STEPS = 64, 160
REGION = torch.zeros(4, 4, dtype=torch.bool)
REGION[:2, :2] = True


class Places(nn.Module):
    """A probability for each of 16 places, whatever is there."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(16))

    def forward(self, tokens):
        return torch.sigmoid(self.logits).expand(len(tokens), -1)


def learn(seed, *, steps=STEPS, **settings):
    """Mean score of the patches in the region, in the other patterned block, and in the noise, on unseen scenes."""
    generator = torch.Generator().manual_seed(seed)
    patterns = patterns_of(generator)
    parts = {name: scenes(count, patterns, generator) for name, count in (("lower", 4096), ("upper", 1024))}
    unseen, _ = scenes(256, patterns, generator)
    torch.manual_seed(seed)
    model = nano(norm_pix=False)
    training = MultilevelTraining(
        model,
        PATTERNS,
        Masking(mask_ratio=0.75),
        TrainingSettings(epochs=1, batch_size=BATCH, blr=2e-3 * 256 / BATCH, warmup_epochs=0.05, seed=seed),
        MultilevelSettings(
            unroll=(4, 1), head_rate=1e-2, masker_rate=5.0, masker_rule="momentum", exploration=100.0, **settings
        ),
        steps,
        masker=Places(),
    )

    def draw(name):
        images, labels = parts["upper" if name == "masker" else "lower"]
        rows = torch.randint(0, len(images), (BATCH,), generator=generator)
        return LabelledImages(images[rows], labels[rows])

    for _ in range(steps):
        training.update({name: [draw(name) for _ in range(n)] for name, n in training.batches_per_step.items()})
    scores = training.probabilities(normalise(unseen)).mean(0).reshape(4, 4)
    other = torch.zeros_like(REGION)
    other[2:, 2:] = True
    return tuple(scores[cells].mean().item() for cells in (REGION, other, ~REGION & ~other))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_region_that_the_label_depends_on_is_found(seed):
    region, other, noise = learn(seed)
    assert region - (other + noise) / 2 > 0.05
    assert region - max(other, noise) > 0.02
