"""The gate's side of a joint step: it looks at the batch that the autoencoder is about to see, learns, and says whom
to hide. Nothing flows between the two but detached tensors: patch embeddings to the gate, masks to the autoencoder.

The second view is a random crop and flip of the first, made on the device from the same pixels: it costs no decoding
and nothing of the loader, one more patch embedding and the gate itself on twice the batch. Random numbers come from
generators that the caller seeds by step, so a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae.devices import copy_to
from mae.mask_learners import GATE_FILE
from mae.mask_learners.gate import SIGNS, Gate, gate_priorities, important_patches, save_gate, tenth_width
from mae.mask_learners.gate_exchange import Exchange
from mae.mask_learners.gate_loss import GateObjective, gate_loss, teacher_loss
from mae.mask_learners.gate_reading import READS, middle_blocks
from mae.mask_learners.hidden_counts import HiddenCounts
from mae.mask_learners.learner import Look
from mae.mask_learners.momentum import MomentumEncoder
from mae.mask_learners.network_learner import NetworkLearner
from mae.mask_learners.second_views import random_crops, second_view
from mae.mask_learners.slot_learning import SlotLearner
from mae.masks.masking import Part, check_cap, mask_from_priorities, salient_set
from mae.models.mask import Mask, hidden_count
from mae.models.vit import MaskedAutoencoder

_LEAST = 8
"""Images of a batch that the gate learns from, if it has as many."""

_SALIENT_MASS = 0.5
"""The share of a map's saliency that the patches hold which are counted as salient."""

_MIDDLE_EVERY = 2
"""A gate that reads a momentum encoder learns at every second step, to keep its cost below 15 % of a step."""


@dataclass(frozen=True)
class GateSettings:
    """How the gate learns and what its masks do. ValueError names the option that is wrong."""

    ratio: float = 1.0
    """Share of each image's important patches that is hidden (or kept) because they are important, 0..1."""
    sign: str = "hide"
    """A key of SIGNS: hide the chosen important patches, or keep them visible."""
    cap: float = 1.0
    """No more than this share of the important patches, 0..1, is hidden in one view."""
    objective: GateObjective = field(default_factory=GateObjective)
    share: float = 0.25
    """Of each batch, the images that the gate learns from, spread evenly, at least eight: learning from all of them
    would take a quarter of a step of a ViT-Ti."""
    every: int = 1
    """The gate learns at every so many-th step, from the first one on, and masks with what it has learnt between."""
    momentum: float = 0.99
    """How much of a momentum encoder is left after a step, 0..1."""
    slot_momentum: float = 0.98
    """How much of the gate's own momentum copy, which gives the slots' targets, is left after a step it learns at."""
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
        if self.every < 1 or not all(0 <= each <= 1 for each in (self.momentum, self.slot_momentum)):
            raise ValueError("a gate learns at every step, or every so many-th; a momentum lies between 0 and 1")
        if self.learning_rate <= 0 or self.weight_decay < 0 or not 0 <= self.warm_start <= 1:
            raise ValueError("the gate's learning rate must be above 0, its decay at least 0, its warm start in 0..1")


class GateTraining(NetworkLearner):
    """A gate in training beside an autoencoder: a :class:`mae.mask_learners.learner.MaskLearner`.

    The gate reads normalised images by the ``model`` in training, without gradients. ``teacher``: the looks bring the
    maps of a warm start.
    """

    name = "gate"
    needs_errors = False
    figure_names: tuple[str, ...] = ("gate_background", "gate_contrast", "gate_area")
    """The background and contrast terms, and the share of patches with a logit above 0; with slots their two terms."""

    def __init__(
        self,
        gate: Gate,
        model: MaskedAutoencoder,
        settings: GateSettings,
        device: torch.device | str = "cpu",
        *,
        teacher: bool = False,
    ) -> None:
        if gate.slots is not None:
            self.figure_names = (*GateTraining.figure_names, "gate_agreement", "gate_slots")
        super().__init__(gate, settings.learning_rate, settings.weight_decay, device)
        self.settings, self.needs_saliency = settings, teacher
        self._model, self._applied = model, 0
        self._counts = HiddenCounts(self.device)
        self._slots = None if gate.slots is None else SlotLearner(self.network, settings.slot_momentum)

    def masks(self, look: Look) -> Mask:
        """Masks of a batch; from two views of some of its images the gate learns, gradients add up until ``apply``."""
        # Drawn first of all: at ratio 0 the masks are random masking's.
        uniform, gumbel = look.noise(2, math.prod(look.mask_grid))
        crops = look.noise(4, 1)[..., 0]
        tokens = self.network.read(self._model, look.images, look.grid)
        if self._applied % self.settings.every == 0:
            part, rows = self._lesson(look)
            boxes = random_crops(crops[:, rows])
            again = self.network.read(self._model, second_view(part.images, boxes), look.grid)
            self._learn(torch.cat([tokens[rows], again]).float(), boxes, part)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            logits = self.network.whole(self.network(tokens.float(), look.grid), look.grid)
            self.importance = torch.sigmoid(logits)
        return self._choose(logits, look, uniform, gumbel, count=True)

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

    def _learn(self, tokens: Tensor, crops: Tensor, look: Look) -> None:
        """Add up the gradients of a batch's two views, of which every process has a part."""
        exchange = Exchange(look, self.world)
        objective, places = self.settings.objective, self.network.places(look.grid, self.device)
        with torch.autocast(self.device.type, enabled=False):  # so small that half precision gains nothing
            logits, hidden = self.network.look(tokens, look.grid)
            terms = gate_loss(logits, tokens, look.grid, objective, exchange, places)
            total = look.share * (terms.background + objective.area_weight * terms.area)
            # The contrast is already the whole batch's; the other terms are means over the images here.
            total = total + look.batch_share * objective.contrast * terms.contrast
            told = [look.share * terms.background, look.batch_share / self.world.size * terms.contrast]
            if self._slots is not None:
                agreed, contrast = self._slots.terms(tokens, hidden, crops, look, exchange)
                total = total + objective.slots * (look.share * agreed + look.batch_share * contrast)
                told += [look.share * agreed, look.batch_share / self.world.size * contrast]
        weight = self.teacher_weight(look.progress)
        if self.needs_saliency and look.saliency is not None and weight > 0:
            maps = copy_to(look.saliency, self.device)
            maps = maps if places is None else maps[:, places]
            total = total + look.share * weight * teacher_loss(logits[: len(look.images)], maps)
        total.backward()  # type: ignore[no-untyped-call]
        self.loss += total.detach()
        important = (logits > 0).float().mean()
        self.terms += torch.stack([*told[:2], look.share * important, *told[2:]]).detach()

    @torch.no_grad()
    def scores(self, images: Tensor, grid: Sequence[int]) -> Tensor:
        """Logits [B, N] of normalised images [B, C, H, W], with nothing learnt from them: for pictures and use."""
        return self.network.scores(self._model, images, tuple(grid))

    def draw(self, look: Look) -> Mask:
        """Masks of a batch, with nothing learnt from it."""
        uniform, gumbel = look.noise(2, math.prod(look.mask_grid))
        return self._choose(self.scores(look.images, look.grid), look, uniform, gumbel)

    def _choose(self, logits: Tensor, look: Look, uniform: Tensor, gumbel: Tensor, *, count: bool = False) -> Mask:
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
        mask = mask_from_priorities(priorities, look.mask_ratio)
        if count:
            important = important_patches(logits, gumbel, settings.objective.area)
            salient = None
            if look.saliency is not None:
                maps = look.on_mask_grid(copy_to(look.saliency, self.device))
                salient = salient_set(maps, gumbel, _SALIENT_MASS)
            self._counts.add(look.share, mask.hidden, important, salient)
        return look.to_patches(mask)

    def teacher_weight(self, progress: float) -> float:
        """The weight of the teacher's maps at training ``progress`` 0..1."""
        warm = self.settings.warm_start
        return self.settings.objective.teacher * (max(0.0, 1 - progress / warm) if warm else 0.0)

    def apply(self, rate: float, stop: Tensor) -> None:
        """One optimiser step at ``rate`` (0..1) times the peak, and one of the reader; none where ``stop`` is 1."""
        self._counts.apply()
        learnt = self._applied % self.settings.every == 0
        self._applied += 1
        if learnt:  # or the figures stay those of the last step that there were any of
            super().apply(rate, stop)
            if self._slots is not None:
                self._slots.apply(stop)
        if self.network.reader is not None:
            self.network.reader.follow(self._model, self.settings.momentum, stop)

    def gather(self) -> None:
        """Gradients, loss, terms and what slots count of all processes become one sum."""
        super().gather()
        self._counts.gather(self.world)
        if self._slots is not None:
            self._slots.gather(self.world)

    def figures(self) -> dict[str, Tensor]:
        """The terms of the last step that the gate learnt at, and what the masks of the last step hid, by name."""
        return super().figures() | self._counts.figures()

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold: the network, its optimiser, how many steps there were, and the slots' copy."""
        slots = {} if self._slots is None else {"slots": self._slots.state()}
        return super().state() | {"applied": self._applied} | slots

    def load_state(self, state: dict[str, Any]) -> None:
        """Undoes :meth:`state`."""
        super().load_state(state)
        self._applied = state.get("applied", 0)
        if self._slots is not None:
            self._slots.load_state(state["slots"])

    def save(self, folder: Path) -> None:
        """``gate.safetensors``, which ``mae.mask_learners.gate.load_gate`` reads."""
        save_gate(self.network, folder / GATE_FILE)


def settings_from(asked: Mapping[str, Any]) -> GateSettings:
    """The settings of a gate; its frame is background where it sees places. ValueError."""
    if asked["gate_reads"] not in READS:
        raise ValueError(f"--gate-reads {asked['gate_reads']!r} is not one of: {', '.join(READS)}")
    objective = GateObjective(contrast=asked["gate_contrast"], frame_is_background=asked["gate_positions"])
    every = 1 if asked["gate_reads"] == "patches" else _MIDDLE_EVERY
    ratio, sign, cap = asked["gate_ratio"], asked["gate_sign"], asked["salient_cap"]
    return GateSettings(ratio=ratio, sign=sign, cap=cap, objective=objective, every=every)


def new_learner(asked: Mapping[str, Any], model: MaskedAutoencoder, device: torch.device) -> GateTraining:
    """A gate for a model's patch embeddings; with ``gate_teacher`` it starts from maps."""
    taught, model = asked["gate_teacher"] is not None, model.to(device)
    return GateTraining(new_gate(asked, model), model, settings_from(asked), device, teacher=taught)


def new_gate(asked: Mapping[str, Any], model: MaskedAutoencoder) -> Gate:
    """The gate of a model, untrained. ValueError for a size that can't be."""
    features, blocks = model.pos_embed.shape[-1], len(model.blocks)
    reads, depth = asked["gate_reads"], asked["gate_depth"]
    width, reader = asked["gate_width"], None
    if reads != "patches":
        width = width or tenth_width(features, depth, blocks)
        reader = MomentumEncoder.of(model, middle_blocks(blocks))
    slots, positions = asked["gate_slots"], asked["gate_positions"]
    sparse = reads == "middle"
    return Gate(features, width, depth, positions=positions, slots=slots, reader=reader, sparse=sparse)
