"""Occluders of a labelled part: the same for every encoder, for all follows from the seed and an image's key.

``random`` hides cells of a grid, ``salient`` and ``non-salient`` the highest and the lowest of a map (maps of others,
or the source's true masks), ``block`` a solid rectangle, ``object`` pastes an object of another image (by its true
mask; where there are none, a rectangle of another image). What is drawn lies in fractions of the picture: encoders of
one input size get the same bytes, others the same occlusion at their own size.

Of clips ``random`` hides the same cells in every frame, ``salient`` and ``non-salient`` go by the true masks of each
frame, and ``block`` and ``object`` are ``-static``, in one place, or ``-moving`` from one side to the other. What is
pasted is of another clip's middle frame.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae.evaluation.clip_occluders import EveryFrame, Still, straight_way
from mae.evaluation.occluders import GREY, OUTLINE, Objects, Occluder, Patches, Rectangles, outline
from mae.masks.masking import top_ranks
from mae.randomness import seed_of
from pipelines.evaluate.table import CLIP_OCCLUDERS, OCCLUDERS
from pipelines.sources.images import BadImage
from pipelines.views.geometry import View
from pipelines.views.image_views import Seen, ViewBatch, Views
from pipelines.views.joined_maps import JoinedMaps
from pipelines.views.labelled import Labelled
from saliency.resample import area_resample

_STREAMS = {name: number for number, name in enumerate((*OCCLUDERS, "fill", "block-moving", "object-moving"))}
_STREAMS |= {"block-static": _STREAMS["block"], "object-static": _STREAMS["object"]}
_TURNS = 1.0  # a rectangle's aspect is 2 to the power of −1 to 1
_ANYWHERE = (0.0, 1.0)  # of where a rectangle fits
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
        known: tuple[str, ...] = OCCLUDERS if self.part.clip is None else CLIP_OCCLUDERS
        return known if told else tuple(kind for kind in known if "salient" not in kind)

    def draw(self, kind: str, batch: ViewBatch) -> Occluder:
        """The occluder of a batch of central views of the part."""
        generators = [self._generator(kind, int(index)) for index in batch.indices]
        what, _, way = kind.partition("-")
        if what == "block" or (what == "object" and not self.part.source.has_masks):
            places, per = self._places(generators, _ANYWHERE, moving=way == "moving")
            aspects = torch.tensor([2.0 ** rng.uniform(-_TURNS, _TURNS) for rng in generators])
            others = None if what == "block" else self._others(batch, generators)[0].repeat_interleave(per, 0)
            return self._in_time(Rectangles(places, aspects.repeat_interleave(per, 0), others), per)
        if what == "object":
            places, per = self._places(generators, _NEAR_MIDDLE, moving=way == "moving")
            others, outlines = self._others(batch, generators)
            anchors, reach = (torch.stack(parts).repeat_interleave(per, 0) for parts in zip(*outlines, strict=True))
            return self._in_time(Objects(others.repeat_interleave(per, 0), anchors, reach, places), per)
        noise = torch.from_numpy(np.stack([rng.random(math.prod(self.grid)) for rng in generators]))
        if kind == "random":
            return self._in_time(Patches(noise, self.grid), 1)
        saliency, per = self._saliency(batch)
        noise = noise.repeat_interleave(per, 0)
        ranks = top_ranks(saliency if kind == "salient" else -saliency, noise)
        return self._in_time(Patches(-ranks.double(), self.grid), per)

    def filling(self, batch: ViewBatch) -> Tensor:
        """What hidden pixels become where nothing is pasted: uint8 [3, 1, 1, …], or noise of the images' shape."""
        if self.fill == "grey":
            return torch.tensor(GREY, dtype=torch.uint8).view(3, *[1] * (batch.images.ndim - 2))
        shape = tuple(batch.images.shape[1:])
        noise = [self._generator("fill", int(index)).integers(0, 256, shape, np.uint8) for index in batch.indices]
        return torch.from_numpy(np.stack(noise))

    def _generator(self, kind: str, index: int) -> np.random.Generator:
        key = self.part.source.keys[index].as_py()
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
        return np.random.default_rng(seed_of(self.seed, _STREAMS[kind], number))

    def _in_time(self, occluder: Occluder, per: int) -> Occluder:
        """An occluder of images as the batch needs it, where it has ``per`` of them for each pair."""
        if self.part.clip is None:
            return occluder
        return Still(occluder, self.part.clip.count) if per == 1 else EveryFrame(occluder, per)

    def _places(
        self, generators: list[np.random.Generator], within: tuple[float, float], *, moving: bool
    ) -> tuple[Tensor, int]:
        """Where something lies in each image, [B·k, 2], or in each of a clip's k frames; and k, 1 if it stands still.

        What moves goes all the way along one axis, and anywhere along the other.
        """
        starts = torch.from_numpy(np.stack([rng.uniform(*within, 2) for rng in generators]))
        if not moving or self.part.clip is None or self.part.clip.count == 1:
            return starts, 1
        ends = torch.from_numpy(np.stack([rng.uniform(*within, 2) for rng in generators]))
        for row, rng in enumerate(generators):
            axis, turned = rng.integers(2, size=2)
            starts[row, axis], ends[row, axis] = within[turned], within[1 - turned]
        return straight_way(starts, ends, self.part.clip.count), self.part.clip.count

    def _saliency(self, batch: ViewBatch) -> tuple[Tensor, int]:
        """How salient each cell of each view, or of each of its k frames, is, [B·k, N]; and k.

        All alike where an image has neither map nor mask.
        """
        if self.maps is not None:
            return self.maps.on_views(batch, self.grid), 1
        per = 1 if self.part.clip is None else self.part.clip.count
        boxes = zip(batch.indices.tolist(), batch.boxes, strict=True)
        found = [_shares(self.part.masks(index), box, self.grid) for index, box in boxes]
        return torch.cat([shares.expand(per, *self.grid).flatten(1) for shares in found]), per

    def _others(
        self, batch: ViewBatch, generators: list[np.random.Generator]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """For every image another one, uint8 [B, 3, H, W], and the outlines of their objects where there are masks.

        Of videos their middle frames are the images.
        """
        size = (batch.images.shape[-2], batch.images.shape[-1])
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
        try:
            mask = self.part.source.read_mask(index)
        except (BadImage, OSError):
            mask = None
        box = torch.tensor(view.box)
        return _shares(None if mask is None else mask[None], box, (OUTLINE, OUTLINE))[0] > 0.5


def _shares(masks: NDArray[np.bool_] | None, box: Tensor, grid: tuple[int, int]) -> Tensor:
    """The share of each cell of a view that masks [k, H, W] cover, float32 [k, h, w]; zeros [1, h, w] for None."""
    if masks is None:
        return torch.zeros(1, *grid)
    return area_resample(torch.from_numpy(masks).float(), grid, boxes=box.expand(len(masks), -1))
