"""``evaluate --protocol knn``: the nearest training images vote, as in Wu et al. 2018 (arXiv 1805.01978)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from mae.evaluation.probes import knn_votes
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.features import Features
from pipelines.evaluate.protocol import Probe


class Knn(Probe):
    """Weighted k-NN; nothing is drawn, so that a seed makes no difference but to what it learns from."""

    name = "knn"

    def settings(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """Pooling, and how the neighbours vote."""
        return {"pool": self.options.pool, **self._votes()}

    def fit(self, known: Features, seed: int) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
        """The votes for each class."""
        k, temperature, classes = self.options.neighbours, self.options.temperature, len(self.parts.names)

        def scores(queries: Tensor) -> Tensor:
            return knn_votes(known.values, known.labels, queries, k=k, temperature=temperature, classes=classes)

        return scores, self._votes()

    def _votes(self) -> dict[str, Any]:
        return {"neighbours": self.options.neighbours, "temperature": self.options.temperature}
