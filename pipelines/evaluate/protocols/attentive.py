"""``evaluate --protocol attentive``: learned queries pool the patch tokens of a frozen encoder before a linear layer.

Efficient probing (Psomas et al. 2025, arXiv 2506.10178; :mod:`mae.evaluation.attentive_probe`), trained as the linear
probe is: a masked autoencoder's patches often know what its class token and their mean hide. Tokens of a part are never
kept: they are computed anew where they are needed, a batch at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mae.devices import copy_to
from mae.evaluation.attentive_probe import AttentiveSweep
from pipelines.errors import UserError
from pipelines.evaluate.encoders.encoder import Encoder, tokens_of
from pipelines.evaluate.features import central_views
from pipelines.evaluate.options import EvaluateOptions
from pipelines.evaluate.protocols.linear import LinearProbe
from pipelines.evaluate.results.outcome import Scored, UnreadableImages
from pipelines.evaluate.supervised import BatchPlan, TrainingBatch, labels_of
from pipelines.views.labelled import Labelled


class AttentiveProbe(LinearProbe):
    """The linear probe on what queries pool, in the place of the class token or the mean."""

    name = "attentive"
    usual_batch: ClassVar[int] = 4096

    @classmethod
    def check_encoder(cls, encoder: Encoder, options: EvaluateOptions) -> None:
        """UserError for an encoder without features by place."""
        if encoder.patches is None:
            raise UserError(f"{encoder.name} has no features by place: attentive needs a ViT or a CNN")

    def settings(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """As of the linear probe, with queries in the place of pooling."""
        settings = super().settings(encoder, seed) | {"queries": self.options.attentive_queries}
        del settings["pool"]
        return settings

    def _sweep(self, encoder: Encoder, plan: BatchPlan, seed: int) -> AttentiveSweep:
        width = tokens_of(encoder, encoder.blank(1)).shape[2]
        queries = self.options.attentive_queries
        return AttentiveSweep(width, len(self.parts.names), queries=queries, **self._recipe(encoder, plan, seed))

    def _update(self, sweep: Any, encoder: Encoder, part: Labelled, batches: Sequence[TrainingBatch]) -> Tensor:
        count = sum(len(batch.images) for batch in batches)
        parts = (
            (tokens_of(encoder, batch.images), copy_to(labels_of(part, batch), encoder.device)) for batch in batches
        )
        return torch.as_tensor(sweep.update_in_parts(parts, count))

    def _logits(self, sweep: Any, encoder: Encoder, part: Labelled, number: int | None = None) -> Scored:
        unreadable: UnreadableImages = {}
        logits, indices = [], []
        for images, places in central_views(
            part, encoder, batch_size=self.options.batch_size, workers=self.options.workers, unreadable=unreadable,
            name=encoder.name, quiet=number is None or self.quiet,
        ):  # fmt: skip
            logits.append(sweep.logits(tokens_of(encoder, images)))
            indices.append(places)
        return Scored(torch.cat(logits, dim=1), np.concatenate(indices), unreadable)
