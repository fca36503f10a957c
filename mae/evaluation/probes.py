"""How good frozen features are, quickly: a weighted k-nearest-neighbour vote and a logistic regression.

k-NN as in Wu et al. 2018 (arXiv 1805.01978): cosine similarity, votes weighted by exp(similarity / temperature).
Logistic: multinomial logistic regression on features standardised by the training set, its L2 penalty chosen on a part
of the training set that is held out for it. The test set is only ever predicted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mae.evaluation.intervals import share_interval

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
"""Tried in this order; of equally good ones the first is taken."""
_FALLBACK = 1e-2  # for fewer than five training features, of which none can be held out
_CHUNK = 1024


def knn_predict(
    train: Tensor, labels: Tensor, test: Tensor, *, k: int = 20, temperature: float = 0.07, classes: int | None = None
) -> Tensor:
    """Predicted classes int64 [m] of test features [m, D] from train features [n, D] with labels int64 [n]."""
    return knn_votes(train, labels, test, k=k, temperature=temperature, classes=classes).argmax(1)


def knn_votes(
    train: Tensor, labels: Tensor, test: Tensor, *, k: int = 20, temperature: float = 0.07, classes: int | None = None
) -> Tensor:
    """The votes of an image's neighbours for each class, float32 [m, classes], the nearest one's being 1."""
    if len(train) == 0:
        raise ValueError("k-NN needs at least one training feature")
    classes = classes or int(labels.max()) + 1
    k = min(k, len(train))
    bank = F.normalize(train.float(), dim=1)
    found = []
    for chunk in torch.split(F.normalize(test.float(), dim=1), _CHUNK):
        similarity, neighbours = (chunk @ bank.T).topk(k, dim=1)
        votes = torch.zeros(len(chunk), classes, device=chunk.device)
        # relative to the nearest one, else a low temperature would overflow
        votes.scatter_add_(1, labels[neighbours], ((similarity - similarity[:, :1]) / temperature).exp())
        found.append(votes)
    return torch.cat(found) if found else bank.new_empty(0, classes)


@dataclass(frozen=True)
class Logistic:
    """A fitted logistic regression on standardised features; ``penalty`` is the one that was chosen."""

    mean: Tensor
    """float32 [D], as ``scale``: what features are standardised by."""
    scale: Tensor
    weights: Tensor
    """float32 [D + 1, classes]; the last row is the bias."""
    penalty: float

    def logits(self, features: Tensor) -> Tensor:
        """Scores float32 [m, classes] of features [m, D]."""
        return _logits(self.weights, (features.float() - self.mean) / self.scale)

    def predict(self, features: Tensor) -> Tensor:
        """Classes int64 [m] of features [m, D]."""
        return self.logits(features).argmax(1)


def fit_logistic(train: Tensor, labels: Tensor, *, classes: int | None = None, seed: int = 0) -> Logistic:
    """The regression of labels int64 [n] on features [n, D].

    The penalty is the best of PENALTIES on a fifth of the features, drawn by ``seed``; the classifier is then fitted to
    all of them.
    """
    classes = classes or int(labels.max()) + 1
    train, mean, scale = standardised(train)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).to(train.device)
    held, fitted = order[: len(train) // 5], order[len(train) // 5 :]
    penalty, start = _choose_penalty(train[fitted], labels[fitted], train[held], labels[held], classes)
    return Logistic(mean, scale, fit_weights(train, labels, penalty, start), penalty)


def standardised(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features float32 [n, D] less their mean, over their deviation where there is one; and both of these, [D]."""
    mean, deviation = features.float().mean(0), features.float().std(0, unbiased=False)
    scale = torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
    return (features.float() - mean) / scale, mean, scale


def logistic_predict(
    train: Tensor, labels: Tensor, test: Tensor, *, classes: int | None = None, seed: int = 0
) -> tuple[Tensor, float]:
    """Predicted classes int64 [m] of test features [m, D] by :func:`fit_logistic`, and the penalty it chose."""
    fitted = fit_logistic(train, labels, classes=classes, seed=seed)
    return fitted.predict(test), fitted.penalty


def accuracy(predictions: Tensor, labels: Tensor) -> tuple[float, float]:
    """Share of right predictions, and the half width of its 95 % interval (normal approximation), both 0..1."""
    count = len(labels)
    if count == 0:
        raise ValueError("no test sample to judge by")
    share = float((predictions == labels).double().mean())
    return share, share_interval(share, count)


def _choose_penalty(
    train: Tensor, labels: Tensor, held: Tensor, held_labels: Tensor, classes: int
) -> tuple[float, Tensor]:
    """The penalty whose classifier is right most often on the held-out features, and that classifier's weights."""
    weights = torch.zeros(train.shape[1] + 1, classes, device=train.device)
    best = (-1, _FALLBACK, weights)
    for penalty in PENALTIES if len(held) else ():
        # each fit starts where the last one ended, which takes fewer iterations than from zero
        weights = fit_weights(train, labels, penalty, weights)
        right = int((_logits(weights, held).argmax(1) == held_labels).sum())
        if right > best[0]:
            best = (right, penalty, weights)
    return best[1:]


def fit_weights(features: Tensor, labels: Tensor, penalty: float, start: Tensor) -> Tensor:
    """Weights [D + 1, classes] that minimise mean cross-entropy + penalty / 2 · ‖W‖² (the bias is free).

    ``labels`` are classes int64 [n], or float32 [n, classes] the share of each; ``start`` has the weights' shape.
    """
    weights = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(_logits(weights, features), labels) + 0.5 * penalty * weights[:-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


def _logits(weights: Tensor, features: Tensor) -> Tensor:
    return features @ weights[:-1] + weights[-1]
