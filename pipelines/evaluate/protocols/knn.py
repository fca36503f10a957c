"""``evaluate --protocol knn``: the nearest training images vote, as in Wu et al. 2018 (arXiv 1805.01978)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mae.evaluation.probes import knn_predict
from pipelines.evaluate.encoder import Encoder
from pipelines.evaluate.outcome import Outcome
from pipelines.evaluate.protocol import Classification


class Knn(Classification):
    """Weighted k-NN on frozen features; nothing is drawn, so that a seed makes no difference but to the parts."""

    name = "knn"

    def settings(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """Pooling, and how the neighbours vote."""
        return {"pool": self.options.pool, **self._votes()}

    def measure(self, encoder: Encoder, seed: int, checkpoint: Path | None) -> Outcome:
        """The class that has the most votes. Raises UserError."""
        test, known = self.parts.test_features(encoder), self.parts.train_features(encoder, seed)
        classes, votes = len(self.parts.names), self._votes()
        predictions = knn_predict(
            known.values,
            known.labels,
            test.values,
            k=self.options.neighbours,
            temperature=self.options.temperature,
            classes=classes,
        )
        return Outcome.of(predictions, test.labels, classes, facts=votes, unreadable=known.unreadable | test.unreadable)

    def _votes(self) -> dict[str, Any]:
        return {"neighbours": self.options.neighbours, "temperature": self.options.temperature}
