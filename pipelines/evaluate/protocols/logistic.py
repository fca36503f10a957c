"""``evaluate --protocol logistic``: multinomial logistic regression on frozen features, fitted by L-BFGS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mae.evaluation.probes import logistic_predict
from pipelines.evaluate.encoder import Encoder
from pipelines.evaluate.outcome import Outcome
from pipelines.evaluate.protocol import Classification


class LogisticRegression(Classification):
    """A logistic regression on standardised features; a fifth of the training images chooses the penalty."""

    name = "logistic"

    def settings(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """Pooling, and the seed that draws the fifth."""
        return {"pool": self.options.pool, "seed": seed}

    def measure(self, encoder: Encoder, seed: int, checkpoint: Path | None) -> Outcome:
        """The most probable class. Raises UserError."""
        test, known = self.parts.test_features(encoder), self.parts.train_features(encoder, seed)
        classes = len(self.parts.names)
        predictions, penalty = logistic_predict(known.values, known.labels, test.values, classes=classes, seed=seed)
        unreadable = known.unreadable | test.unreadable
        return Outcome.of(predictions, test.labels, classes, facts={"penalty": penalty}, unreadable=unreadable)
