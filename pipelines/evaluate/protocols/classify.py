"""One encoder, one protocol, one seed: taken from what is finished, or computed and kept."""

from __future__ import annotations

from typing import Any

from mae.evaluation.linear_probe import RATES
from mae.evaluation.probes import knn_predict, logistic_predict
from pipelines.evaluate.cells import Cells
from pipelines.evaluate.encoder import Encoder
from pipelines.evaluate.features import Features, compute_features
from pipelines.evaluate.options import EvaluateOptions
from pipelines.evaluate.outcome import Outcome
from pipelines.evaluate.protocols.finetune import finetune
from pipelines.evaluate.protocols.linear import linear_probe
from pipelines.views.labelled import Labelled, balanced_share


class Judge:
    """Judges encoders on one training and one test part; features are computed once an encoder, and only if needed."""

    def __init__(
        self,
        train: Labelled,
        test: Labelled,
        names: list[str],
        options: EvaluateOptions,
        cells: Cells,
        quiet: bool = False,
    ) -> None:
        self.train, self.test, self.names = train, test, names
        self.options, self.cells, self.quiet = options, cells, quiet
        self._identities: dict[str, str] = {"test": test.identity()}
        self._encoder: Encoder | None = None
        self._features: dict[str, Features] = {}
        self._parts: dict[int, Labelled] = {}

    def __call__(self, encoder: Encoder, protocol: str, seed: int) -> Outcome:
        """The outcome of one cell. Raises UserError."""
        decided_by = self._decided_by(encoder, protocol, seed)
        outcome = self.cells.find(decided_by, Outcome)
        if outcome is None:
            outcome = self._judge(encoder, protocol, seed, decided_by)
            self.cells.keep(decided_by, outcome)
        return outcome

    def part(self, seed: int) -> Labelled:
        """The training images that are used with a seed: all, or the share --label-fraction of them."""
        if self.options.label_fraction == 1:
            return self.train
        if seed not in self._parts:
            chosen = balanced_share(self.train.labels, self.options.label_fraction, seed)
            self._parts[seed] = self.train.select(chosen)
        return self._parts[seed]

    def known(self, encoder: Encoder, seed: int) -> Features:
        """The features of the training images that are used with a seed. Raises UserError."""
        return self._features_of(encoder, self._name(seed), self.part(seed))

    def parts_of(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """Of all that an outcome follows from, what is no setting of a protocol."""
        name = self._name(seed)
        if name not in self._identities:
            self._identities[name] = self.part(seed).identity()
        return {
            "encoder": encoder.identity(),
            "train": self._identities[name],
            "test": self._identities["test"],
            "classes": self.names,
        }

    def _judge(self, encoder: Encoder, protocol: str, seed: int, decided_by: dict[str, Any]) -> Outcome:
        classes, checkpoint = len(self.names), self.cells.checkpoint(decided_by)
        train, options = self.part(seed), self.options
        if protocol == "finetune":
            return finetune(
                encoder, train, self.test, classes, options, seed=seed, checkpoint=checkpoint, quiet=self.quiet
            )
        test = self._features_of(encoder, "test", self.test)
        if protocol == "linear":
            return linear_probe(
                encoder, train, test, classes, options, seed=seed, checkpoint=checkpoint, quiet=self.quiet
            )
        known = self.known(encoder, seed)
        facts: dict[str, Any] = {}
        if protocol == "knn":
            facts = {"neighbours": options.neighbours, "temperature": options.temperature}
            predictions = knn_predict(
                known.values,
                known.labels,
                test.values,
                k=options.neighbours,
                temperature=options.temperature,
                classes=classes,
            )
        else:
            predictions, facts["penalty"] = logistic_predict(
                known.values, known.labels, test.values, classes=classes, seed=seed
            )
        unreadable = known.unreadable | test.unreadable
        return Outcome.of(predictions, test.labels, classes, facts=facts, unreadable=unreadable)

    def _features_of(self, encoder: Encoder, name: str, part: Labelled) -> Features:
        if encoder is not self._encoder:
            self._encoder, self._features = encoder, {}
        if name not in self._features:
            self._features[name] = compute_features(
                encoder, part, batch_size=self.options.batch_size, workers=self.options.workers, quiet=self.quiet
            )
        return self._features[name]

    def _decided_by(self, encoder: Encoder, protocol: str, seed: int) -> dict[str, Any]:
        """All that the outcome follows from, as plain values."""
        options = self.options
        settings = {
            "knn": {"pool": options.pool, "neighbours": options.neighbours, "temperature": options.temperature},
            "logistic": {"pool": options.pool, "seed": seed},
            "linear": {
                "pool": options.pool,
                "seed": seed,
                "epochs": options.linear_epochs,
                "rates": sorted(options.linear_blr or RATES),
                "batch_size": options.linear_batch_size,
                "at_a_time": options.batch_size,
            },
            "finetune": {
                "seed": seed,
                "epochs": options.finetune_epochs,
                "blr": options.finetune_blr,
                "layer_decay": options.layer_decay,
                "drop_path": options.drop_path,
                "batch_size": options.finetune_batch_size,
                "at_a_time": options.batch_size,
            },
        }
        return {"protocol": protocol, **self.parts_of(encoder, seed), "settings": settings[protocol]}

    def _name(self, seed: int) -> str:
        return "train" if self.options.label_fraction == 1 else f"train, seed {seed}"
