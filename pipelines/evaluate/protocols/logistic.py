"""``evaluate --protocol logistic``: multinomial logistic regression on frozen features, fitted by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from mae.evaluation.probes import fit_logistic
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.features import Features
from pipelines.evaluate.protocol import Probe


class LogisticRegression(Probe):
    """A logistic regression on standardised features; a fifth of the training images chooses its penalty."""

    name = "logistic"

    def settings(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """Pooling, and the seed that draws the fifth."""
        return {"pool": self.options.pool, "seed": seed}

    def fit(self, known: Features, seed: int) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
        """The logits of the regression."""
        fitted = fit_logistic(known.values, known.labels, classes=len(self.parts.names), seed=seed)
        return fitted.logits, {"penalty": fitted.penalty}
