"""The salient ratio as a moving picture: what is hidden of some images, and what is filled in, as it rises from 0."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mae.masks.masking import Masking
from mae.training.settings import TrainingSettings
from mae.training.training import Training
from pipelines.pretrain.record.reconstructions import reconstruction_sheet
from pipelines.sources.source import Source
from pipelines.views.joined_maps import JoinedMaps
from saliency.files import write_atomically

COLUMNS = ("image", "map", "mask", "reconstruction")
_STEP = 0.05
_MILLISECONDS, _HELD = 250, 1200
_SIDE, _GAP, _HEAD = 112, 6, 22  # pixels


def salient_ratio_gif(path: Path, source: Source, maps: JoinedMaps, training: Training, *, count: int = 4) -> None:
    """Write the first ``count`` images under masks whose salient ratio goes from 0 to the mask ratio, as a GIF.

    The ratio counts all patches of an image, and the most salient ones are hidden first.
    """
    masking, frames = training.masking, []
    for step in range(round(masking.mask_ratio / _STEP) + 1):
        ratio = min(step * _STEP, masking.mask_ratio)
        drawn = sheet(source, maps, training, replace_ratio(masking, ratio), count)
        frames.append(_frame(drawn, f"salient ratio {ratio:.2f}, {masking.mask_ratio:.0%} hidden in all"))
    durations = [_HELD] + [_MILLISECONDS] * (len(frames) - 2) + [_HELD]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


def replace_ratio(masking: Masking, ratio: float) -> Masking:
    """The same masks with another salient ratio, of all patches, the most salient first."""
    return replace(masking, salient_ratio=ratio, salient_of="image", salient_pick="top", salient_schedule=None)


def sheet(
    source: Source, maps: JoinedMaps, training: Training, masking: Masking, count: int
) -> dict[str, list[NDArray[np.uint8]]]:
    """The pictures of COLUMNS for the first images, with these masks and the model of a training."""
    settings = TrainingSettings(seed=training.settings.seed)
    looking = Training(training.model, masking, settings, 1, training.device)
    found = reconstruction_sheet(source, maps, training.model, looking.pick_masks, count)
    return {name: found[name] for name in COLUMNS}


def _frame(columns: Mapping[str, Sequence[NDArray[np.uint8]]], text: str) -> Image.Image:
    """Rows of pictures under a line of text."""
    rows = len(columns[COLUMNS[0]])
    size = (len(COLUMNS) * (_SIDE + _GAP) + _GAP, _HEAD + rows * (_SIDE + _GAP) + _GAP)
    frame = Image.new("RGB", size, "white")
    ImageDraw.Draw(frame).text((_GAP, _GAP), text, fill="black")
    for column, name in enumerate(COLUMNS):
        for row, pixels in enumerate(columns[name]):
            place = (_GAP + column * (_SIDE + _GAP), _HEAD + _GAP + row * (_SIDE + _GAP))
            frame.paste(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.NEAREST), place)
    return frame
