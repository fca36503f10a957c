"""Pictures of what a model makes of hidden patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from mae.models.mask import Mask
from mae.models.vit import MaskedAutoencoder
from mae.pixels import denormalise, normalise
from pipelines.plots import grey_out, overlay
from pipelines.sources.source import Source
from pipelines.views.joined_maps import ViewMaps
from pipelines.views.loaders import first_views

PickMasks = Callable[[Tensor, Tensor | None, int], Mask]
"""Normalised images, their saliency [B, N] or None, the number of the batch → masks; ``Training.pick_masks``."""


def reconstruction_sheet(
    source: Source, maps: ViewMaps | None, model: MaskedAutoencoder, pick_masks: PickMasks, count: int
) -> dict[str, list[Any]]:
    """Columns of a contact sheet: image, caption, map, mask and reconstruction of a source's first images.

    Captions and maps stand in it where there are any; with fewer than two readable images it is empty.
    """
    batch = first_views(source, model.image_size, count)
    if len(batch.images) < 2:
        return {}
    saliency = maps.on_views(batch, model.grid) if maps else None
    normalised = normalise(batch.images.to(model.mask_token.device))
    mask = pick_masks(normalised, saliency, 0)
    training = model.training
    completed = model.eval().reconstruct(normalised, mask)
    model.train(training)
    images = [image.permute(1, 2, 0).numpy() for image in batch.images]
    hidden = mask.hidden.cpu().reshape(-1, *model.grid).numpy()
    columns: dict[str, list[Any]] = {"image": images}
    if source.has_captions:
        columns["caption"] = [source.caption(int(i)) or "" for i in batch.indices]
    if saliency is not None:
        grids = saliency.reshape(-1, *model.grid).numpy()
        columns["map"] = [overlay(image, grid) for image, grid in zip(images, grids, strict=True)]
    columns["mask"] = [grey_out(image, cells) for image, cells in zip(images, hidden, strict=True)]
    columns["reconstruction"] = [image.permute(1, 2, 0).numpy() for image in denormalise(completed).cpu()]
    return columns
