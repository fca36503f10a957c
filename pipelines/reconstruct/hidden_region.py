"""What is occluded of a picture: said by a mask, boxes or a colour, or found by the run's gate or from earlier frames.

Any of them can be asked for together; then all that one of them says is hidden.

A mask is white where the picture is hidden, and has the picture's own size; a folder of masks names them as the
pictures are named. A box is a part of every picture, in fractions. A colour is what a green screen or a burnt-in
rectangle has. The gate hides all patches that it counts as important. In a video, what comes over content that was seen
in earlier frames can be found (:mod:`mae.recovery.occluder_finder`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mae.devices import copy_to
from mae.mask_learners.gate import Gate, important_patches
from mae.mask_learners.gate_loss import GateObjective
from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder
from mae.pixels import normalise
from mae.recovery.occluder_finder import OccluderFinder
from pipelines.errors import UserError
from pipelines.reconstruct.options import ReconstructOptions, parse_color
from pipelines.sources.folders import pictures_below
from pipelines.sources.images import BadImage, decode_mask
from pipelines.sources.names import stem_of
from pipelines.sources.source import read_file


class Occlusions:
    """Says of each picture what is hidden. UserError for a mask that can't be opened, or a gate that is not there."""

    def __init__(
        self,
        options: ReconstructOptions,
        model: MaskedAutoencoder,
        gate: Gate | None,
        mask_of: Callable[[str], Tensor] | None = None,
    ) -> None:
        """``mask_of`` gives a picture's mask by its name, where ``options.mask`` is not pictures."""
        self.options, self._model, self._gate = options, model, gate
        if options.gate and gate is None:
            raise UserError("--gate: this model has no gate; it was not pretrained with --masking gate")
        self._finder = OccluderFinder(options.find_threshold) if options.find else None
        self._mask_of = _masks(options.mask) if options.mask is not None and mask_of is None else mask_of

    def hidden(self, name: str, pixels: Tensor) -> Tensor:
        """Bool [H, W] of the picture uint8 [3, H, W] of that name; BadImage if its mask can't be used.

        With ``options.find`` the pictures are the frames of one video, in order.
        """
        height, width = pixels.shape[1:]
        found = torch.zeros(height, width, dtype=torch.bool)
        if self._mask_of is not None:
            found |= self._mask(name, height, width)
        for x0, y0, x1, y1 in self.options.boxes:
            found[round(y0 * height) : max(round(y1 * height), 1), round(x0 * width) : max(round(x1 * width), 1)] = True
        if self.options.color_key is not None:
            colour, tolerance = parse_color(self.options.color_key)
            apart = (pixels.to(torch.int16) - torch.tensor(colour, dtype=torch.int16)[:, None, None]).abs()
            found |= (apart <= tolerance).all(0)
        if self._gate is not None and self.options.gate:
            found |= self._important(pixels)
        if self._finder is not None:
            found |= self._finder.push(pixels[None])[0]
        return found

    def _mask(self, name: str, height: int, width: int) -> Tensor:
        assert self._mask_of is not None
        mask = self._mask_of(name)
        if mask.shape != (height, width):
            raise BadImage(f"its mask has {mask.shape[1]}×{mask.shape[0]} pixels, the picture {width}×{height}")
        return mask

    @torch.no_grad()
    def _important(self, pixels: Tensor) -> Tensor:
        """What the gate counts as important, on the pixels of the picture, squashed as the model sees it."""
        assert self._gate is not None
        model, size = self._model, (pixels.shape[1], pixels.shape[2])
        device = model.pos_embed.device
        small = torch.nn.functional.interpolate(
            pixels[None].float(), model.image_size, mode="bicubic", antialias=True, align_corners=False
        )
        images, grid = normalise(copy_to(small.round().clamp(0, 255).to(torch.uint8), device)), model.grid[-2:]
        if isinstance(model, VideoMaskedAutoencoder):  # a gate of video sees a picture as a clip that stands still
            images = images[:, :, None].expand(-1, -1, model.frames, -1, -1)
        logits = self._gate.to(device).scores(model, images).view(1, -1, grid[0] * grid[1]).mean(1)
        chosen = important_patches(logits, torch.zeros_like(logits), GateObjective.area)
        cells = chosen.reshape(1, 1, *grid).float()
        return torch.nn.functional.interpolate(cells, size, mode="nearest")[0, 0].bool().cpu()


def _masks(place: Path) -> Callable[[str], Tensor]:
    """From a picture's name to its mask: one for all, or one of a folder."""
    if place.is_dir():
        files = {stem_of(name): place / name for name in pictures_below(place)}
        if not files:
            raise UserError(f"--mask {place} holds no pictures")

        def named(name: str) -> Tensor:
            stem = stem_of(name)
            file = files.get(f"{stem}_mask") or files.get(stem)
            if file is None:
                raise BadImage(f"there is no mask of that name in {place}")
            return _read(file)

        return named
    if not place.is_file():
        raise UserError(f"--mask {place} does not exist")
    try:
        mask = _read(place)
    except (BadImage, OSError) as error:
        raise UserError(f"--mask {place}: {error}") from error
    return lambda name: mask


def _read(file: Path) -> Tensor:
    mask = decode_mask(read_file(str(file)))
    return torch.from_numpy(np.ascontiguousarray(mask))
