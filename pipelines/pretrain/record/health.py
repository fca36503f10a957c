"""The health of the features while a training runs: figures of every layer for the log, always by the same images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mae.evaluation.health import layers_health
from mae.models.vit import MaskedAutoencoder
from mae.pixels import normalise
from pipelines.sources.source import Source
from pipelines.views.clip_views import ClipShape
from pipelines.views.loaders import first_views

_IMAGES = 256


class HealthLog:
    """Figures of ``model`` every so many steps, by up to 256 evenly spaced images that are read at the first time.

    A training learns nothing from it, and draws no random number for it.
    """

    def __init__(self, source: Source, model: MaskedAutoencoder, clip: ClipShape | None, every: int) -> None:
        self._source, self._model, self._clip, self._every = source, model, clip, every
        self._images: Tensor | None = None

    def figures(self, step: int) -> dict[str, Tensor]:
        """By name scalars on the model's device, at steps that are multiples of the interval; else nothing."""
        if step % self._every:
            return {}
        if self._images is None:
            chosen = np.unique(np.linspace(0, len(self._source) - 1, _IMAGES).round().astype(np.int64))
            source = self._source.select(chosen)
            self._images = normalise(first_views(source, self._model.image_size, len(source), self._clip).images)
        if len(self._images) < 2:
            return {}
        found: dict[str, float] = {}
        for number, health in enumerate(layers_health(self._model, self._images), 1):
            found |= {f"layer_{number}_rankme": health.rankme, f"layer_{number}_spread": health.spread}
            found[f"layer_{number}_effective_rank"] = health.effective_rank
        return {name: torch.tensor(value, device=self._model.pos_embed.device) for name, value in found.items()}
