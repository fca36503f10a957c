"""Occluders of a labelled part: the same for every encoder, for all follows from the seed and an image's key.

``random`` hides cells of a grid, ``salient`` and ``non-salient`` the highest and the lowest of a map (maps of others,
or the source's true masks), ``block`` a solid rectangle, ``object`` pastes an object of another image (by its true
mask; where there are none, a rectangle of another image). What is drawn lies in fractions of the picture: encoders of
one input size get the same bytes, others the same occlusion at their own size.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae.masking import top_ranks
from mae.occlusion import GREY, OUTLINE, Objects, Occluder, Patches, Rectangles, outline
from mae.randomness import seed_of
from pipelines.evaluate_options import OCCLUDERS
from pipelines.geometry import View
from pipelines.images import BadImage
from pipelines.joined_maps import JoinedMaps
from pipelines.labelled import Labelled
from pipelines.views import Seen, ViewBatch, Views
from saliency.maps import area_resample

_STREAMS = {name: number for number, name in enumerate((*OCCLUDERS, "fill"))}
_TURNS = 1.0  # a rectangle's aspect is 2 to the power of −1 to 1
_NEAR_MIDDLE = (0.2, 0.8)  # where a pasted object's point comes to lie
_TRIES = 16  # images looked at for one with a mask


class Occluders:
    """Occluders for images of ``part``, on a ``grid`` of cells; ``maps``, if there are any, stand in for true masks."""

    def __init__(
        self,
        part: Labelled,
        grid: tuple[int, int],
        *,
        maps: JoinedMaps | None = None,
        fill: str = "grey",
        seed: int = 0,
    ) -> None:
        self.part, self.grid, self.maps, self.fill, self.seed = part, grid, maps, fill, seed

    @property
    def kinds(self) -> tuple[str, ...]:
        """What can be drawn here: without maps and masks nothing is salient."""
        told = self.maps is not None or self.part.source.has_masks
        return OCCLUDERS if told else tuple(kind for kind in OCCLUDERS if "salient" not in kind)

    def draw(self, kind: str, batch: ViewBatch) -> Occluder:
        """The occluder of a batch of central views of the part."""
        size = (batch.images.shape[2], batch.images.shape[3])
        generators = [self._generator(kind, int(index)) for index in batch.indices]
        if kind == "block" or (kind == "object" and not self.part.source.has_masks):
            places = torch.from_numpy(np.stack([rng.random(2) for rng in generators]))
            aspects = torch.tensor([2.0 ** rng.uniform(-_TURNS, _TURNS) for rng in generators])
            others = None if kind == "block" else self._others(batch, generators, size)[0]
            return Rectangles(places, aspects, others)
        if kind == "object":
            places = torch.from_numpy(np.stack([rng.uniform(*_NEAR_MIDDLE, 2) for rng in generators]))
            others, outlines = self._others(batch, generators, size)
            anchors, reach = (torch.stack(parts) for parts in zip(*outlines, strict=True))
            return Objects(others, anchors, reach, places)
        noise = torch.from_numpy(np.stack([rng.random(math.prod(self.grid)) for rng in generators]))
        if kind == "random":
            return Patches(noise, self.grid)
        saliency = self._saliency(batch)
        return Patches(-top_ranks(saliency if kind == "salient" else -saliency, noise).double(), self.grid)

    def filling(self, batch: ViewBatch) -> Tensor:
        """What hidden pixels become where nothing is pasted: uint8 [3, 1, 1], or noise of the images' shape."""
        if self.fill == "grey":
            return torch.tensor(GREY, dtype=torch.uint8)[:, None, None]
        shape = tuple(batch.images.shape[1:])
        noise = [self._generator("fill", int(index)).integers(0, 256, shape, np.uint8) for index in batch.indices]
        return torch.from_numpy(np.stack(noise))

    def _generator(self, kind: str, index: int) -> np.random.Generator:
        key = self.part.source.keys[index].as_py()
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
        return np.random.default_rng(seed_of(self.seed, _STREAMS[kind], number))

    def _saliency(self, batch: ViewBatch) -> Tensor:
        """How salient each cell of each view is, [B, N]; all alike where an image has neither map nor mask."""
        if self.maps is not None:
            return self.maps.on_views(batch, self.grid)
        boxes = zip(batch.indices.tolist(), batch.boxes, strict=True)
        return torch.stack([self._mask(index, box, self.grid).flatten() for index, box in boxes])

    def _mask(self, index: int, box: Tensor, grid: tuple[int, int]) -> Tensor:
        """The share of each cell of a view that a pair's true mask covers, float32 [h, w]; zeros without a mask."""
        try:
            mask = self.part.source.read_mask(index)
        except (BadImage, OSError):
            mask = None
        if mask is None:
            return torch.zeros(grid)
        return area_resample(torch.from_numpy(mask)[None].float(), grid, boxes=box[None])[0]

    def _others(
        self, batch: ViewBatch, generators: list[np.random.Generator], size: tuple[int, int]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """For every image another one, uint8 [B, 3, H, W], and the outlines of their objects where there are masks."""
        views = Views(self.part.source, size, augment=False)
        found = [self._other(int(i), rng, views) for i, rng in zip(batch.indices, generators, strict=True)]
        images = torch.from_numpy(np.stack([pixels for pixels, _ in found]))
        return images, [outline(mask) for _, mask in found]

    def _other(self, index: int, rng: np.random.Generator, views: Views) -> tuple[NDArray[np.uint8], Tensor]:
        """Another image, of another class and with an object if there is one: pixels, and its outline's mask."""
        labels = self.part.labels
        candidates = np.flatnonzero(labels != labels[index])
        candidates = candidates if len(candidates) else np.flatnonzero(np.arange(len(labels)) != index)
        best, empty = None, torch.zeros(OUTLINE, OUTLINE, dtype=torch.bool)
        for other in rng.choice(candidates, size=_TRIES).tolist() if len(candidates) else []:
            seen = views[0, other]
            if not isinstance(seen, Seen):
                continue
            mask = self._outline_mask(other, seen.view) if self.part.source.has_masks else empty
            if mask.any() or not self.part.source.has_masks:
                return seen.pixels, mask
            best = best or (seen.pixels, mask)
        return best or (np.full((3, *views.size), 128, np.uint8), empty)

    def _outline_mask(self, index: int, view: View) -> Tensor:
        return self._mask(index, torch.tensor(view.box), (OUTLINE, OUTLINE)) > 0.5
