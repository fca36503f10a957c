"""Faithfulness and localisation against captum, and against quantus where it is installed.

quantus brings another build of OpenCV, and is no dependency of the tests: ``pip install quantus`` in an environment of
its own. The figures agreed with version 0.6.0.
"""

import numpy as np
import pytest
import torch

from saliency.faithfulness import Perturbed, mean_colour, pixel_ranks
from saliency.quality import energy_inside, lay_on_image, pixel_auc, pointing

SIDE, STEPS, GROUPS = 20, 10, 10


class Model(torch.nn.Module):
    """Something nonlinear of a grey image [B, 1, S, S], two classes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE, 8), torch.nn.Tanh())
        self.last = torch.nn.Linear(8, 2)

    def forward(self, images):
        return self.last(self.layers(images / 255))


@pytest.fixture
def case():
    """A model, its score of class 1, a grey image [1, S, S] and the map [5, 5] that is judged."""
    model, rng = Model().eval(), np.random.default_rng(0)

    @torch.inference_mode()
    def score(images):
        return model(torch.from_numpy(images))[:, 1].double().numpy()

    return model, score, rng.uniform(0, 255, (1, SIDE, SIDE)).astype(np.float32), rng.random((5, 5), np.float32)


def test_the_deletion_curve_is_pixel_flipping(case):
    quantus = pytest.importorskip("quantus")
    model, score, image, values = case
    metric = quantus.PixelFlipping(
        features_in_step=SIDE * SIDE // STEPS,
        normalise=False,
        perturb_baseline=float(mean_colour(image)[0, 0, 0]),
        disable_warnings=True,
    )
    # corner cells are flat once laid on pixels, and quantus has an order of its own for equal ones
    perturbed = Perturbed(image, score)
    laid = lay_on_image(values, (SIDE, SIDE))
    ranks = pixel_ranks(laid, lay_on_image(perturbed.random_map((5, 5)), (SIDE, SIDE)))
    (curve,) = metric(
        model=model,
        x_batch=image[None],
        y_batch=np.asarray([1]),
        a_batch=(-ranks[None, None]).astype(np.float32),
        softmax=False,
        device="cpu",
    )
    found = perturbed.measure(values, steps=STEPS)
    np.testing.assert_allclose(found.deletion["mean"][1:], curve, atol=1e-5)
    assert np.ptp(curve) > 0.05


@pytest.mark.parametrize("metric", ["PointingGame", "AttributionLocalisation", "AUC"])
def test_figures_of_maps_against_masks_are_those_of_quantus(metric):
    quantus = pytest.importorskip("quantus")
    rng, ours = np.random.default_rng(1), {"PointingGame": pointing, "AttributionLocalisation": energy_inside}
    maps = rng.random((6, SIDE, SIDE), np.float32)
    masks = np.zeros((6, SIDE, SIDE), bool)
    for number, mask in enumerate(masks):
        mask[number : number + 9, 2 : 8 + number] = True
    judge = getattr(quantus, metric)(normalise=False, abs=False, disable_warnings=True)
    known = judge(
        model=None,
        x_batch=np.zeros((6, 1, SIDE, SIDE), np.float32),
        y_batch=np.zeros(6, int),
        a_batch=maps[:, None],
        s_batch=masks[:, None],
    )
    found = [ours.get(metric, pixel_auc)(values, mask) for values, mask in zip(maps, masks, strict=True)]
    np.testing.assert_allclose(found, np.asarray(known, np.float64), atol=1e-5)


def test_the_effects_of_pixel_groups_are_those_of_feature_ablation(case):
    attr = pytest.importorskip("captum.attr")
    model, score, image, values = case
    perturbed = Perturbed(image, score)
    laid, ties = (lay_on_image(one, (SIDE, SIDE)) for one in (values, perturbed.random_map((5, 5))))
    group = pixel_ranks(laid, ties) * GROUPS // SIDE**2
    ablated = attr.FeatureAblation(model).attribute(
        torch.from_numpy(image)[None],
        baselines=torch.from_numpy(mean_colour(image))[None],
        target=1,
        feature_mask=torch.from_numpy(group)[None, None],
    )[0, 0]
    known = [float(ablated[torch.from_numpy(group == one)].mean()) for one in range(GROUPS)]
    np.testing.assert_allclose(perturbed.measure(values, groups=GROUPS).effects, known, atol=1e-5)
    assert np.ptp(known) > 0.01
