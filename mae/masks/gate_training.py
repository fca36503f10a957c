"""The gate's side of a joint step: it looks at the batch that the autoencoder is about to see, learns, and says whom
to hide. Nothing flows between the two but detached tensors: patch embeddings to the gate, masks to the autoencoder.

The second view is a random crop and flip of the first, made on the device from the same pixels: it costs no decoding
and nothing of the loader, one more patch embedding and the gate itself on twice the batch. Random numbers come from
generators that the caller seeds by step, so a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.devices import copy_to
from mae.masks.gate import GATE_FILE, SIGNS, Gate, gate_priorities, save_gate
from mae.masks.gate_exchange import Exchange
from mae.masks.gate_loss import GateObjective, gate_loss, teacher_loss
from mae.masks.learner import Look
from mae.masks.masking import Part, check_cap, mask_from_priorities
from mae.masks.network_learner import NetworkLearner
from mae.models.mask import Mask, hidden_count
from mae.models.vit import MaskedAutoencoder

_LEAST = 8
"""Images of a batch that the gate learns from, if it has as many."""

_CROP_AREA = (0.4, 1.0)
"""Bounds of the second view's share of the first one's area: large enough that most objects stay in sight."""


@dataclass(frozen=True)
class GateSettings:
    """How the gate learns and what its masks do. ValueError names the option that is wrong."""

    ratio: float = 0.5
    """Share of each image's important patches that is hidden (or kept) because they are important, 0..1."""
    sign: str = "hide"
    """A key of SIGNS: hide the chosen important patches, or keep them visible."""
    cap: float = 1.0
    """No more than this share of the important patches, 0..1, is hidden in one view."""
    objective: GateObjective = field(default_factory=GateObjective)
    share: float = 0.25
    """Of each batch, the images that the gate learns from, spread evenly, at least eight: learning from all of them
    would take a quarter of a step of a ViT-Ti."""
    learning_rate: float = 2e-3
    """The peak; it follows the autoencoder's warm-up and cosine."""
    weight_decay: float = 0.05
    warm_start: float = 0.2
    """Share of the training in which the teacher's weight falls linearly from ``objective.teacher`` to 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"--gate-ratio {self.ratio:g} must lie between 0 and 1")
        check_cap(self.cap)
        if self.sign not in SIGNS:
            raise ValueError(f"--gate-sign {self.sign!r} is not one of: {', '.join(SIGNS)}")
        if not 0 < self.share <= 1:
            raise ValueError(f"the share of images that the gate learns from is {self.share:g}; it must be in 0..1")
        if self.learning_rate <= 0 or self.weight_decay < 0 or not 0 <= self.warm_start <= 1:
            raise ValueError("the gate's learning rate must be above 0, its decay at least 0, its warm start in 0..1")


class GateTraining(NetworkLearner):
    """A gate in training beside an autoencoder: a :class:`mae.masks.learner.MaskLearner`.

    ``read`` makes patch embeddings [B, N, D] of normalised images [B, C, H, W], without positions
    (``MaskedAutoencoder.embed``); it is called without gradients. ``teacher``: the looks bring the maps of a warm
    start.
    """

    name = "gate"
    needs_errors = False
    figure_names = ("gate_background", "gate_contrast", "gate_area")
    """The background and contrast terms, and the share of patches with a logit above 0."""

    def __init__(
        self,
        gate: Gate,
        read: Callable[[Tensor], Tensor],
        settings: GateSettings,
        device: torch.device | str = "cpu",
        *,
        teacher: bool = False,
    ) -> None:
        super().__init__(gate, settings.learning_rate, settings.weight_decay, device)
        self.read, self.settings, self.needs_saliency = read, settings, teacher

    def masks(self, look: Look) -> Mask:
        """Masks of a batch; from two views of some of its images the gate learns, gradients add up until ``apply``."""
        # Drawn first of all: at ratio 0 the masks are random masking's.
        uniform, gumbel = look.noise(2, math.prod(look.mask_grid))
        crops = look.noise(4, 1)[..., 0]
        part, rows = self._lesson(look)
        with torch.no_grad():
            tokens = self.read(look.images)
            again = self.read(second_view(part.images, crops[:, rows]))
        with torch.autocast(self.device.type, enabled=False):  # so small that half precision gains nothing
            both = torch.cat([tokens[rows], again]).float()
            self._learn(self.network(both, look.grid), both, part)
            with torch.no_grad():
                logits = self.network(tokens.float(), look.grid)
        return self._choose(logits, look, uniform, gumbel)

    def _lesson(self, look: Look) -> tuple[Look, Tensor]:
        """The images of a batch to learn from, and which they are of those here, int64 on their device.

        Which of the whole batch they are does not depend on how it is shared out. Where none is here one stands in that
        counts nothing: the other processes wait for its gradients.
        """
        size = look.part.size if look.part else len(look.images)
        places = look.part.rows.numpy() if look.part else np.arange(size)  # of the host, which decides without waiting
        wanted = max(math.ceil(self.settings.share * size), min(size, _LEAST))
        chosen = np.flatnonzero((places + 1) * wanted // size > places * wanted // size)
        counted = len(chosen) if look.share > 0 else 0
        rows = torch.from_numpy(chosen if counted else np.zeros(1, np.int64))
        on_device = copy_to(rows, look.images.device)
        part = replace(
            look,
            images=look.images[on_device],
            saliency=None if look.saliency is None else look.saliency[copy_to(rows, look.saliency.device)],
            share=counted / wanted * look.batch_share,
            part=Part(torch.from_numpy(places)[rows], size),
        )
        return part, on_device

    def _learn(self, logits: Tensor, tokens: Tensor, look: Look) -> None:
        """Add up the gradients of a batch's two views, of which every process has a part."""
        objective = self.settings.objective
        terms = gate_loss(logits, tokens, look.grid, objective, Exchange(look, self.world))
        # The contrast is already the whole batch's; the other terms are means over the images here.
        total = look.share * (terms.background + objective.area_weight * terms.area)
        total = total + look.batch_share * objective.contrast * terms.contrast
        weight = self.teacher_weight(look.progress)
        if look.saliency is not None and weight > 0:
            maps = copy_to(look.saliency, self.device)
            total = total + look.share * weight * teacher_loss(logits[: len(look.images)], maps)
        total.backward()  # type: ignore[no-untyped-call]
        self.loss += total.detach()
        contrast = terms.contrast.detach() * look.batch_share / self.world.size
        important = (logits > 0).float().mean()
        self.terms += torch.stack([look.share * terms.background.detach(), contrast, look.share * important])

    @torch.no_grad()
    def scores(self, images: Tensor, grid: Sequence[int]) -> Tensor:
        """Logits [B, N] of normalised images [B, C, H, W], with nothing learnt from them: for pictures and use."""
        logits: Tensor = self.network(self.read(images), grid)
        return logits

    def draw(self, look: Look) -> Mask:
        """Masks of a batch, with nothing learnt from it."""
        uniform, gumbel = look.noise(2, math.prod(look.mask_grid))
        return self._choose(self.scores(look.images, look.grid), look, uniform, gumbel)

    def _choose(self, logits: Tensor, look: Look, uniform: Tensor, gumbel: Tensor) -> Mask:
        logits = look.on_mask_grid(logits)  # a place is as important as it is on the mean of the slots
        hidden, settings = hidden_count(logits.shape[1], look.mask_ratio), self.settings
        priorities = gate_priorities(
            logits,
            settings.ratio,
            hidden,
            uniform,
            gumbel,
            sign=settings.sign,
            area=settings.objective.area,
            cap=settings.cap,
        )
        return look.to_patches(mask_from_priorities(priorities, look.mask_ratio))

    def teacher_weight(self, progress: float) -> float:
        """The weight of the teacher's maps at training ``progress`` 0..1."""
        warm = self.settings.warm_start
        return self.settings.objective.teacher * (max(0.0, 1 - progress / warm) if warm else 0.0)

    def save(self, folder: Path) -> None:
        """``gate.safetensors``, which ``mae.masks.gate.load_gate`` reads."""
        save_gate(self.network, folder / GATE_FILE)


def settings_from(asked: Mapping[str, Any]) -> GateSettings:
    """The settings of a gate; its frame is background where it sees places. ValueError."""
    objective = GateObjective(contrast=asked["gate_contrast"], frame_is_background=asked["gate_positions"])
    return GateSettings(
        ratio=asked["gate_ratio"], sign=asked["gate_sign"], cap=asked["salient_cap"], objective=objective
    )


def new_learner(asked: Mapping[str, Any], model: MaskedAutoencoder, device: torch.device) -> GateTraining:
    """A gate for a model's patch embeddings; with ``gate_teacher`` it starts from maps."""
    gate = Gate(model.pos_embed.shape[-1], positions=asked["gate_positions"])
    taught = asked["gate_teacher"] is not None
    return GateTraining(gate, model.to(device).embed, settings_from(asked), device, teacher=taught)


def second_view(images: Tensor, noise: Tensor) -> Tensor:
    """A random crop of each image, 40 to 100 % of its area, half of them mirrored, resized to the same shape.

    images: float [B, C, H, W], or video [B, C, T, H, W], whose frames share the crop. Bilinear, on their device; crop
    and flip follow from ``noise`` in [0, 1), [4, B].
    """
    area, x, y, flip = noise
    low, high = _CROP_AREA
    side = (low + (high - low) * area).sqrt()
    theta = noise.new_zeros(len(images), 2, 3)
    theta[:, 0, 0] = torch.where(flip < 0.5, -side, side)
    theta[:, 1, 1] = side
    theta[:, 0, 2] = (2 * x - 1) * (1 - side)
    theta[:, 1, 2] = (2 * y - 1) * (1 - side)
    theta = theta.to(images.dtype)
    flat = images.flatten(1, -3)
    places = F.affine_grid(theta, list(flat.shape), align_corners=False)
    return F.grid_sample(flat, places, padding_mode="border", align_corners=False).view_as(images)
