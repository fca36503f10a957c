"""What becomes of scores: a confusion, five guesses, and means over the clips of a video."""

import numpy as np
import pytest
import torch

from pipelines.evaluate.results.outcome import Outcome, Scored

RNG = np.random.default_rng(0)


def scored(scores, indices=None, **more):
    return Scored(torch.as_tensor(scores), np.arange(len(scores)) if indices is None else np.asarray(indices), **more)


def test_five_guesses_are_those_of_a_sort():
    scores, labels = RNG.random((200, 12)), RNG.integers(0, 12, 200)
    found = Outcome.of(scored(scores), labels, facts={})
    assert found.accuracy == np.mean(scores.argmax(1) == labels)
    best = np.argsort(-scores, axis=1)[:, :5]
    assert found.top5 == pytest.approx(np.mean([label in row for label, row in zip(labels, best, strict=True)]))
    assert found.accuracy < found.top5 < 1


def test_what_is_equal_to_six_others_is_no_guess():
    labels = np.asarray([0, 1, 7])
    assert Outcome.of(scored(np.zeros((3, 8))), labels, facts={}).top5 == pytest.approx(1 / 3)  # the prediction, 0
    votes = np.zeros((3, 8))
    votes[:, 1] = 1.0  # as k-NN has it whose neighbours are of one class
    assert Outcome.of(scored(votes), labels, facts={}).top5 == pytest.approx(1 / 3)
    assert Outcome.of(scored(np.eye(5)[:3]), np.arange(3), facts={}).top5 is None


def test_scores_of_clips_are_averaged_where_all_clips_can_be_read():
    one, two = RNG.random((3, 4)), RNG.random((3, 4))
    found = Scored.mean([scored(one, [0, 1, 3]), scored(two, [1, 2, 3], unreadable={"c": "torn"})])
    assert found.indices.tolist() == [1, 3]
    np.testing.assert_allclose(found.scores, (one[1:] + two[[0, 2]]) / 2)
    assert found.unreadable == {"c": "torn"}
    labels = np.asarray([0, 1, 2, 3])
    assert np.sum(Outcome.of(found, labels, facts={}).confusion, axis=1).tolist() == [0, 1, 0, 1]
