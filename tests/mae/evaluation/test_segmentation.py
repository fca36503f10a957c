import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mae.evaluation.segmentation import class_ious, fit_patches, mean_iou, overlaps, segment


def brute_ious(predicted, truth, classes):
    ious = []
    for c in range(classes):
        either = ((predicted == c) | (truth == c)).sum()
        ious.append(((predicted == c) & (truth == c)).sum() / either if either else np.nan)
    return ious


def test_overlaps_are_those_of_sets():
    predicted, truth = np.random.default_rng(0).integers(0, 3, (2, 9, 7))
    sums = overlaps(torch.from_numpy(predicted), torch.from_numpy(truth), 4).numpy()
    assert class_ious(sums) == pytest.approx(brute_ious(predicted, truth, 4), nan_ok=True)
    assert np.isnan(class_ious(sums)[3])
    assert float(mean_iou(sums)) == pytest.approx(np.nanmean(brute_ious(predicted, truth, 4)))


def test_sums_of_images_are_as_one_image():
    predicted, truth = torch.from_numpy(np.random.default_rng(1).integers(0, 3, (2, 5, 6, 7)))
    sums = sum(overlaps(p, t, 3) for p, t in zip(predicted, truth, strict=True))
    assert (sums == overlaps(predicted.reshape(-1, 7), truth.reshape(-1, 7), 3)).all()


def test_patches_of_one_class_each_are_fitted_as_scikit_learn_does():
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (400,))
    features = torch.randn(400, 6) + 1.5 * torch.randn(3, 6)[labels]
    probe = fit_patches(features, torch.nn.functional.one_hot(labels, 3).float(), torch.arange(400) // 10)
    standardised = ((features - features.mean(0)) / features.std(0, unbiased=False)).numpy()
    theirs = LogisticRegression(C=1 / (probe.penalty * 400), max_iter=1000, tol=1e-8).fit(standardised, labels.numpy())
    ours = torch.softmax(probe.logits(features), 1).numpy()
    assert np.abs(ours - theirs.predict_proba(standardised)).max() < 5e-3


def test_shares_are_learned_as_shares():
    """Half of a patch object: one half is predicted, and no class."""
    features = torch.eye(2).repeat(50, 1)
    targets = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).repeat(50, 1)
    probe = fit_patches(features, targets, torch.arange(100))
    found = torch.softmax(probe.logits(torch.eye(2)), 1)
    torch.testing.assert_close(found, targets[:2], atol=0.02, rtol=0)


def test_scores_of_features_are_features_of_scores():
    """A linear classifier may be asked before or after the interpolation."""
    torch.manual_seed(0)
    weights, features = torch.randn(5, 3), torch.randn(5, 4, 4)
    scores = torch.einsum("dc,dhw->chw", weights, features)
    large = torch.nn.functional.interpolate(features[None], size=(13, 9), mode="bilinear")[0]
    assert torch.equal(segment(scores, (13, 9)), torch.einsum("dc,dhw->chw", weights, large).argmax(0))


def test_few_images_are_enough():
    probe = fit_patches(torch.randn(8, 3), torch.full((8, 2), 0.5), torch.zeros(8, dtype=torch.int64))
    assert probe.weights.isfinite().all()
