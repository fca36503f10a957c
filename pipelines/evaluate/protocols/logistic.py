"""``evaluate --protocol logistic``: multinomial logistic regression on frozen features, fitted by L-BFGS."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mae.evaluation.probes import logistic_predict
from pipelines.evaluate.encoder import Encoder
from pipelines.evaluate.features import Features
from pipelines.evaluate.protocol import Probe


class LogisticRegression(Probe):
    """A logistic regression on standardised features; a fifth of the training images chooses its penalty."""

    name = "logistic"

    def settings(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """Pooling, and the seed that draws the fifth."""
        return {"pool": self.options.pool, "seed": seed}

    def predict(self, known: Features, queries: Tensor, seed: int) -> tuple[Tensor, dict[str, Any]]:
        """The most probable classes."""
        classes = len(self.parts.names)
        predictions, penalty = logistic_predict(known.values, known.labels, queries, classes=classes, seed=seed)
        return predictions, {"penalty": penalty}
