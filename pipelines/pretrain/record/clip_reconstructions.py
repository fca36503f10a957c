"""Pictures of what a model makes of hidden tubelets: the frames of a clip side by side, hidden and filled in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mae.models.video import VideoMaskedAutoencoder
from mae.pixels import denormalise, normalise
from pipelines.plots import grey_out, overlay
from pipelines.pretrain.record.reconstructions import PickMasks
from pipelines.sources.source import Source
from pipelines.views.clip_views import ClipShape
from pipelines.views.joined_maps import ViewMaps
from pipelines.views.loaders import first_views

_FRAMES = 8


def clip_sheet(
    source: Source,
    maps: ViewMaps | None,
    model: VideoMaskedAutoencoder,
    pick_masks: PickMasks,
    shape: ClipShape,
    count: int,
) -> dict[str, list[Any]]:
    """Columns of a contact sheet, a frame each, at most 8 of a clip's: of the first ``count`` clips of a source.

    A clip has its frames in the first row, then its map where there are maps, the mask and the reconstruction. With no
    readable clip it is empty.
    """
    batch = first_views(source, model.image_size, count, shape, moving=maps is not None and maps.moving)
    if not len(batch.images):
        return {}
    saliency = maps.on_views(batch, model.grid) if maps else None
    normalised = normalise(batch.images.to(model.mask_token.device))
    mask = pick_masks(normalised, saliency, 0)
    training = model.training
    completed = denormalise(model.eval().reconstruct(normalised, mask)).cpu()
    model.train(training)
    shown = np.unique(np.linspace(0, model.frames - 1, min(model.frames, _FRAMES)).round().astype(int))
    hidden = mask.hidden.cpu().reshape(-1, *model.grid).numpy()
    texts: list[str] = []
    columns: dict[str, list[Any]] = {"": texts} | {f"frame {frame}": [] for frame in shown}
    for clip, index in enumerate(batch.indices):
        frames, slots = _pictures(batch.images[clip], shown), shown // model.tubelet
        rows = {source.caption(int(index)) or source.keys[int(index)].as_py(): frames}
        if saliency is not None:
            grid = saliency[clip].reshape(model.grid).numpy()
            rows["map"] = [overlay(frame, grid[slot]) for frame, slot in zip(frames, slots, strict=True)]
        rows["mask"] = [grey_out(frame, hidden[clip, slot]) for frame, slot in zip(frames, slots, strict=True)]
        rows["reconstruction"] = _pictures(completed[clip], shown)
        texts += rows
        for place, frame in enumerate(shown):
            columns[f"frame {frame}"] += [pictures[place] for pictures in rows.values()]
    return columns


def _pictures(clip: Tensor, frames: NDArray[np.int64]) -> list[Any]:
    """Frames of a clip uint8 [3, T, H, W] as pictures [H, W, 3]."""
    return [clip[:, int(frame)].permute(1, 2, 0).numpy() for frame in frames]
