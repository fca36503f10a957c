import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from mae.evaluation import probes
from mae.evaluation.probes import PENALTIES, accuracy, knn_predict, logistic_predict


def clusters(count, classes=4, width=6, spread=1.0, seed=0):
    """Features [n, D] around one centre a class, and labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(classes, (count,), generator=generator)
    return centres[labels] + spread * torch.randn(count, width, generator=generator), labels


def knn_by_hand(train, labels, test, k, temperature):
    predictions = []
    for x in test.double().numpy():
        similarity = [float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for y in train.double().numpy()]
        votes = {}
        for i in sorted(range(len(train)), key=lambda i: -similarity[i])[:k]:
            votes[int(labels[i])] = votes.get(int(labels[i]), 0) + math.exp(similarity[i] / temperature)
        predictions.append(max(votes, key=votes.get))
    return torch.tensor(predictions)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 1.0), (500, 0.2)])
def test_knn_is_the_loop_written_out(k, temperature):
    train, labels = clusters(60)
    test, _ = clusters(40, seed=1)
    predictions = knn_predict(train, labels, test, k=k, temperature=temperature)
    assert torch.equal(predictions, knn_by_hand(train, labels, test, k, temperature))


def test_knn_is_scikit_learns():
    (train, labels), (test, _) = clusters(300), clusters(200, seed=1)
    theirs = KNeighborsClassifier(
        n_neighbors=20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(train, labels)
    assert knn_predict(train, labels, test).tolist() == theirs.predict(test).tolist()


def test_knn_does_not_depend_on_the_chunk(monkeypatch):
    (train, labels), (test, _) = clusters(60), clusters(50, seed=1)
    whole = knn_predict(train, labels, test)
    monkeypatch.setattr(probes, "_CHUNK", 7)
    assert torch.equal(knn_predict(train, labels, test), whole)


def test_knn_at_a_tiny_temperature_is_the_nearest_neighbour():
    (train, labels), (test, _) = clusters(60), clusters(40, seed=1)
    nearest = knn_predict(train, labels, test, k=1)
    assert torch.equal(knn_predict(train, labels, test, k=20, temperature=1e-4), nearest)


def test_knn_corner_cases():
    train, labels = clusters(10)
    assert knn_predict(train, labels, train[:0]).shape == (0,)
    assert knn_predict(train[:1], labels[:1], train, classes=9).tolist() == [int(labels[0])] * 10
    assert knn_predict(train.half(), labels, train.half()).shape == (10,)
    with pytest.raises(ValueError, match="at least one training feature"):
        knn_predict(train[:0], labels[:0], train)


@given(st.floats(0.01, 100), st.integers(0, 5))
@settings(max_examples=20)
def test_knn_sees_directions_alone(scale, seed):
    (train, labels), (test, _) = clusters(40, seed=seed), clusters(20, seed=seed + 1)
    assert torch.equal(knn_predict(train * scale, labels, test / scale), knn_predict(train, labels, test))


def standardised(train, *others):
    mean, deviation = train.mean(0), train.std(0, unbiased=False)
    return [(x - mean) / deviation for x in (train, *others)]


@pytest.mark.parametrize("spread", [0.2, 2.0], ids=["separable", "noisy"])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_linear_fit_is_scikit_learns_at_the_same_penalty(spread, penalty):
    features, labels = clusters(200, spread=spread)
    (train,) = standardised(features)
    ours = probes.fit_weights(train, labels, penalty, torch.zeros(7, 4)).double().numpy()
    # scikit-learn minimises ½‖W‖² + C · the sum of the losses
    theirs = LogisticRegression(C=1 / (penalty * len(train)), tol=1e-8, max_iter=10_000).fit(train, labels)
    scale = np.abs(theirs.coef_).max()
    np.testing.assert_allclose(ours[:-1].T, theirs.coef_, atol=0.02 * scale)
    # the losses do not see a shift of all classes' biases
    bias, their_bias = (values - values.mean() for values in (ours[-1], theirs.intercept_))
    np.testing.assert_allclose(bias, their_bias, atol=0.02 * scale)


@pytest.mark.parametrize("spread", [0.2, 1.0, 3.0])
def test_the_linear_probe_is_as_good_as_scikit_learns_at_the_penalty_it_chose(spread):
    (train, labels), (test, truth) = clusters(300, spread=spread), clusters(300, spread=spread, seed=1)
    predictions, penalty = logistic_predict(train, labels, test)
    scaled, scaled_test = standardised(train, test)
    theirs = LogisticRegression(C=1 / (penalty * len(train)), max_iter=10_000).fit(scaled, labels)
    agreement = (predictions.numpy() == theirs.predict(scaled_test)).mean()
    assert agreement > 0.99
    assert accuracy(predictions, truth)[0] == pytest.approx(theirs.score(scaled_test, truth), abs=0.01)


def test_noise_asks_for_a_strong_penalty_and_signal_for_a_weak_one():
    train, _ = clusters(600, width=40)
    coin = torch.randint(2, (600,), generator=torch.Generator().manual_seed(5))
    direction = torch.randn(40, generator=torch.Generator().manual_seed(6))
    exact = (train @ direction > 0).long()
    assert logistic_predict(train, exact, train)[1] < logistic_predict(train, coin, train)[1]


def test_the_penalty_is_the_best_on_a_held_out_fifth():
    train, labels = clusters(200, spread=2.0)
    (scaled,) = standardised(train)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    held, fitted = order[:40], order[40:]
    scores = {
        penalty: LogisticRegression(C=1 / (penalty * 160), tol=1e-8, max_iter=10_000)
        .fit(scaled[fitted], labels[fitted])
        .score(scaled[held], labels[held])
        for penalty in PENALTIES
    }
    assert scores[logistic_predict(train, labels, train, seed=3)[1]] == max(scores.values())


def test_the_test_set_is_only_predicted():
    (train, labels), (test, _) = clusters(100, spread=2), clusters(50, seed=1)
    whole, penalty = logistic_predict(train, labels, test)
    parts = [logistic_predict(train, labels, part) for part in (test[:20], test[20:] * 1)]
    assert torch.equal(torch.cat([part for part, _ in parts]), whole)
    assert {chosen for _, chosen in parts} == {penalty}
    assert logistic_predict(train, labels, 1000 * torch.randn(50, 6))[1] == penalty


def test_linear_corner_cases():
    train, labels = clusters(4)
    assert logistic_predict(train, labels, train)[0].tolist() == labels.tolist()  # too few to hold out any
    train, labels = clusters(50)
    constant = torch.cat([train, torch.full((50, 2), 3.0)], dim=1)
    assert torch.equal(logistic_predict(constant, labels, constant)[0], logistic_predict(train, labels, train)[0])
    predictions, _ = logistic_predict(train, labels, train, classes=9)
    assert int(predictions.max()) < 4
    with torch.inference_mode():
        features = train * 1
    assert logistic_predict(features, labels, features)[0].shape == (50,)


def test_accuracy_and_its_interval():
    labels = torch.arange(400)
    predictions = torch.where(labels < 300, labels, -1)
    share, interval = accuracy(predictions, labels)
    assert share == 0.75
    assert interval == pytest.approx(1.96 * math.sqrt(0.75 * 0.25 / 400))
    assert accuracy(labels, labels) == (1.0, 0.0)
    with pytest.raises(ValueError, match="no test sample"):
        accuracy(labels[:0], labels[:0])
    # the interval covers the true rate 19 times of 20
    draws = torch.rand(2000, 200, generator=torch.Generator().manual_seed(0)) < 0.3
    found = [accuracy(draw.long(), torch.ones(200, dtype=torch.int64)) for draw in draws]
    covered = np.mean([abs(share - 0.3) <= interval for share, interval in found])
    assert 0.92 < covered < 0.97
