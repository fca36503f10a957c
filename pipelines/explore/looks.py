"""Pictures of a pair: its image, its maps, the mask that a training would draw, and what models fill in.

What is looked at is a :class:`Subject`: a pair by its number, or an image that somebody brought, and the map that
masks follow, one of a table's or that of a caption which was typed.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, fields, replace
from threading import RLock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mae.mask_learners.gate import Gate, important_patches
from mae.mask_learners.gate_loss import GateObjective
from mae.mask_learners.gate_training import GateSettings, GateTraining
from mae.mask_learners.learner import Look, look_noise
from mae.masks.granularity import to_patches
from mae.masks.masking import Masking
from mae.masks.strategies import STRATEGIES
from mae.models.mask import Mask
from mae.models.video import VideoMaskedAutoencoder
from mae.pixels import denormalise, normalise
from pipelines.api.heatmap import Heatmap, heatmap, overlay
from pipelines.api.maps import Maps
from pipelines.api.model import Model
from pipelines.errors import UserError, user_errors
from pipelines.explore.images import Images
from pipelines.explore.opened import Opened
from pipelines.explore.requests import GATE, OF_ONE_IMAGE, TYPED, Asked, Subject
from pipelines.sources.images import BadImage, decode_rgb
from pipelines.views.geometry import View, central_box, view_image, view_maps
from saliency.maps import FULL
from saliency.table.imported import without_clip

_SIDE, _PATCH = 224, 16
"""Of the view that masks are drawn on where no model says another."""
_KEPT = 64


@dataclass(frozen=True)
class Drawn:
    """A mask on the view of a model; arrays are bool [h, w]."""

    mask: Mask
    hidden: NDArray[np.bool_]
    chosen: NDArray[np.bool_]
    """What of that is hidden because it is salient; of a gate all that it finds important, hidden or not."""
    mass: float
    """The share of the map's sum that is hidden; NaN without a map."""


class Looks:
    """Makes the pictures. One at a time, since they share models; what is expensive is remembered."""

    def __init__(self, opened: Opened, images: Images) -> None:
        self.opened, self._images = opened, images
        self._lock = RLock()
        self._maps = {name: Maps(table.folder) for name, table in opened.tables.items()}
        self._heats: OrderedDict[tuple[str, ...], Heatmap] = OrderedDict()

    def heat(self, subject: Subject) -> Heatmap | None:
        """The map of a subject; None where it has none. UserError, BadImage."""
        if subject.map == TYPED or subject.map in self.opened.gates:
            return self._kept(subject)
        if subject.row.startswith("own-") or not self.opened.tables:
            return None
        name = subject.map or next(iter(self.opened.tables))
        row = self.opened.row_of(self._images.number(subject.row), name)
        return None if row is None else self._maps[name][row]

    def _kept(self, subject: Subject) -> Heatmap:
        """The map of a typed caption or of a gate's scores, made once."""
        caption = subject.caption if subject.map == TYPED else ""
        with self._lock:
            key = (subject.row, subject.map, caption)
            if key not in self._heats:
                made = self._typed(subject.row, caption) if subject.map == TYPED else self._scored(subject)
                self._heats[key] = made
                if len(self._heats) > _KEPT:
                    self._heats.popitem(last=False)
            return self._heats[key]

    def _typed(self, row: str, caption: str) -> Heatmap:
        """What a typed caption finds in an image, by the method and settings of the first maps that CLIP made."""
        if not caption.strip():
            raise UserError("type a caption first")
        clip = self.opened.clip
        known = next((each.metadata for each in self._maps.values() if not without_clip(each.metadata)), {})
        method = known.get("method", "gradcam")
        wanted: dict[str, Any] = {name: known[name] for name in ("tiles", "fit") if name in known}
        if known.get("grid") != clip.grid[0]:
            wanted |= {"grid": known["grid"]} if "grid" in known else {}
        made: Heatmap = heatmap(clip, self._images.open(row), caption, method, **wanted)
        return made

    @torch.no_grad()
    def _scored(self, subject: Subject) -> Heatmap:
        """How important a gate finds each patch of the central view, 0..1: the sigmoid of its logit."""
        loaded, gate = self._gated(subject.map)
        logits = gate.scores(loaded.network, self._seen_by(loaded, subject.row))[0].cpu()
        image, view = self._view(subject.row, loaded.image_size)
        scores = torch.sigmoid(logits).reshape(loaded.network.grid).numpy()
        return Heatmap(scores, "", math.nan, view.box, (image.height, image.width))

    def map_picture(self, subject: Subject, side: int) -> Image.Image:
        """The map of a typed caption or of a gate's scores, laid over its image. BadImage, OSError, UserError."""
        heat = self._kept(subject)
        if subject.map != TYPED:  # scores differ little in a gate that has not learnt much
            heat = replace(heat, map=heat.map - heat.map.min())
        return overlay(self._images.open(subject.row, side=side), heat)

    def draw(self, subject: Subject, asked: Asked, model: str = "") -> Drawn:
        """The mask that a training with these options draws on the central view of the image. UserError."""
        grid, size = self.grid(model)
        heat = self.heat(subject)
        saliency = None if heat is None else self._on_view(heat, subject.row, grid, size)
        names = (*OF_ONE_IMAGE, *((GATE,) if self.opened.gates else ()))
        if asked.strategy not in names:
            raise UserError(f"masks {asked.strategy!r} can't be drawn here: there are {', '.join(names)}")
        generator = torch.Generator().manual_seed(asked.seed)
        with user_errors():
            if asked.strategy == GATE:
                mask, chosen = self._by_gate(subject, asked, grid, generator)
            else:
                mask, chosen = _by_rule(asked, grid, generator, saliency)
        total = 0.0 if saliency is None else float(saliency.sum())
        mass = float(saliency[mask.hidden].sum()) / total if saliency is not None and total > 0 else math.nan
        return Drawn(mask, mask.hidden.reshape(grid).numpy(), chosen.reshape(grid).numpy(), mass)

    def _by_gate(
        self, subject: Subject, asked: Asked, grid: tuple[int, int], generator: torch.Generator
    ) -> tuple[Mask, Tensor]:
        """The mask that a gate chooses, and what it finds important, bool [1, N]. ValueError, UserError."""
        loaded, gate = self._gated(subject.map)
        own = loaded.network.grid
        if own != grid:
            here = "×".join(map(str, grid))
            raise UserError(f"{subject.map} chooses among {own[0]}×{own[1]} patches, and there are {here} here")
        ratios = {name: getattr(asked, name) for name in ("mask_ratio", "mask_granularity")}
        Masking(**ratios).hidden(grid)  # says what is wrong with them
        run = self.opened.masking.get(self.opened.gates[subject.map], {})
        area = run.get("objective", {}).get("area", GateObjective.area)
        objective = GateObjective(area=tuple(area))
        settings = GateSettings(asked.gate_ratio, asked.gate_sign, asked.salient_cap, objective)
        learner = GateTraining(gate, loaded.network, settings, loaded.device)
        noise = look_noise(generator, 1, loaded.device)
        look = Look(
            self._seen_by(loaded, subject.row), grid, asked.mask_ratio, noise, granularity=asked.mask_granularity
        )
        logits = look.on_mask_grid(learner.scores(look.images, grid))
        important = important_patches(logits, torch.zeros_like(logits), objective.area)
        return _moved(learner.draw(look), "cpu"), to_patches(important, grid, look.granularity).cpu()

    def filled(self, subject: Subject, asked: Asked, model: str) -> Image.Image:
        """The central view with what is hidden by the mask as a model fills it in. UserError, BadImage, OSError."""
        with self._lock:
            loaded = self._filling(model)
            mask = self.draw(subject, asked, model).mask
            images = self._seen_by(loaded, subject.row)
            with torch.inference_mode():
                completed = denormalise(loaded.network.reconstruct(images, _moved(mask, loaded.device)))[0]
            return Image.fromarray(completed.permute(1, 2, 0).cpu().numpy())

    def seen(self, row: str, model: str, side: int) -> Image.Image:
        """The central view that a model sees, at ``side`` pixels. BadImage, OSError, UserError."""
        image, view = self._view(row, self.grid(model)[1])
        size = (side, side)
        return Image.fromarray(np.ascontiguousarray(view_image(image, view, size).transpose(1, 2, 0)))

    def recovered(self, row: str, model: str, painted: bytes, side: int) -> Image.Image:
        """The image with what was ``painted`` (a mask, white where it is hidden) filled in by a model."""
        with self._lock:
            image = self._images.open(row, side=side)
            mask = decode_rgb(painted).convert("L").resize(image.size, Image.Resampling.NEAREST)
            hidden = np.asarray(mask) > 127
            if not hidden.any():
                raise UserError("paint over something first")
            return self._filling(model).reconstruct(image, hidden)

    def grid(self, model: str) -> tuple[tuple[int, int], tuple[int, int]]:
        """The grid of patches (rows, columns) and the pixels (height, width) of what a model sees."""
        if not model:
            return (_SIDE // _PATCH, _SIDE // _PATCH), (_SIDE, _SIDE)
        loaded = self.opened.model(model)
        rows, columns = loaded.network.grid[-2:]
        return (rows, columns), loaded.image_size

    def _filling(self, name: str) -> Model:
        loaded = self.opened.model(name)
        if not loaded.has_decoder:
            raise UserError(f"{name} is an encoder alone, which fills nothing in")
        if isinstance(loaded.network, VideoMaskedAutoencoder):
            raise UserError(f"{name} is a model of video; mae-cli reconstruct fills in videos")
        return loaded

    def _gated(self, name: str) -> tuple[Model, Gate]:
        """A model of images and its gate, by the name of the map of its scores. UserError."""
        if name not in self.opened.gates:
            raise UserError(f"choose the gate that masks follow as the map: {', '.join(self.opened.gates)}")
        loaded = self.opened.model(self.opened.gates[name])
        if loaded.gate is None or isinstance(loaded.network, VideoMaskedAutoencoder):
            raise UserError(f"{self.opened.gates[name]} has no gate of images")
        return loaded, loaded.gate.to(loaded.device)

    def _seen_by(self, loaded: Model, row: str) -> Tensor:
        """The central view of an image as a model takes it, [1, 3, H, W]. BadImage, OSError, UserError."""
        pixels = torch.from_numpy(view_image(*self._view(row, loaded.image_size), loaded.image_size))
        return normalise(pixels[None].to(loaded.device))

    def _view(self, row: str, size: tuple[int, int]) -> tuple[Image.Image, View]:
        image = self._images.open(row)
        return image, View(central_box(*image.size, size[1] / size[0]))

    def _on_view(self, heat: Heatmap, row: str, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """The mean saliency of every patch of the central view, [1, N]; of the whole image where that is not there."""
        try:
            box = self._view(row, size)[1].box
        except (BadImage, OSError):
            box = FULL
        parts = (torch.from_numpy(np.ascontiguousarray(heat.map))[None], torch.tensor([heat.box]), torch.tensor([box]))
        return view_maps(*parts, torch.tensor([False]), grid)


def _by_rule(
    asked: Asked, grid: tuple[int, int], generator: torch.Generator, saliency: Tensor | None
) -> tuple[Mask, Tensor]:
    """The mask that follows from noise and a map, and what it hides for its saliency, bool [1, N]. ValueError."""
    row = STRATEGIES[asked.strategy]
    led = "maps" in row.needs
    if led and saliency is None:
        raise UserError("this pair has no map: choose masks that need none, or type a caption")
    known = {each.name for each in fields(Masking)}
    settings = Masking(**{name: value for name, value in vars(asked).items() if name in known})
    draw = settings.draw(1, grid, generator=generator, saliency=saliency if led else None)
    mask = settings.mask(draw)
    return mask, settings.forced(draw) & mask.hidden if row.ranked else torch.zeros_like(mask.hidden)


def _moved(mask: Mask, device: torch.device | str) -> Mask:
    return replace(mask, **{each.name: getattr(mask, each.name).to(device) for each in fields(mask)})
