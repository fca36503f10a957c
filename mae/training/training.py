"""Pretraining: what one optimiser step does, and the state that a checkpoint must hold to repeat it.

AdamW (β 0.9, 0.95), linear warm-up then half a cosine, and the learning rate by the blr rule: peak = blr · effective
batch / 256, as in He et al. 2021 (arXiv 2111.06377, appendix A.1). All random numbers of a step follow from
(seed, step), none from earlier steps, so a resumed run repeats an uninterrupted one to the bit on one CPU process.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mae.devices import copy_to
from mae.distributed import World
from mae.mask_learners.learner import Look, MaskLearner, look_noise
from mae.masks.decoded import choose_decoded
from mae.masks.masking import Masking, Part
from mae.models.mask import Mask
from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder
from mae.optimisation import guarded_step, learning_rate, parameter_groups
from mae.pixels import normalise
from mae.precision import resolve_precision
from mae.randomness import seed_of
from mae.training.compiling import compile_in_place, eager
from mae.training.flops import Peak, peak_flops, training_flops
from mae.training.guard import Guard, NonFinite
from mae.training.resolution_schedule import ResolutionSchedule
from mae.training.settings import TrainingSettings
from mae.training.spread import Whole, local, spread
from mae.training.weighted_loss import by_distance, by_saliency, scheduled

_DECODED = 1
"""Marks the random numbers that choose what is decoded, so that they are not those of the masks."""


@dataclass(frozen=True)
class Batch:
    """``images`` uint8 [B, 3, H, W], or clips [B, 3, T, H, W]; ``saliency`` [B, N] on the same views, or None where the
    masks need none.

    Where they are a ``part`` of a batch that was shared out to several processes, or from which images are missing,
    ``readable`` is the number of images that all processes have of it; B may then be 0.
    """

    images: Tensor
    saliency: Tensor | None = None
    part: Part | None = None
    readable: int | None = None


class Training:
    """A model in training: one ``update`` is one optimiser step; ``step`` counts those done."""

    def __init__(
        self,
        model: MaskedAutoencoder,
        masking: Masking,
        settings: TrainingSettings,
        steps_per_epoch: int,
        device: torch.device | str = "cpu",
        resolutions: ResolutionSchedule | None = None,
        learner: MaskLearner | None = None,
    ) -> None:
        """``learner`` says whom to hide in the place of ``masking``, whose mask ratio holds for both."""
        self.device = torch.device(device)
        self.resolutions = resolutions
        self.learner = learner
        self.model = model.to(self.device).train()
        self.masking, self.settings = masking, settings
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = steps_per_epoch * settings.epochs
        self.step = 0
        self.hidden_loss = torch.zeros((), device=self.device)
        """The part of the last step's loss that is on hidden patches."""
        self.optimizer = self._new_optimizer()
        self.precision = resolve_precision(settings.precision, self.device)
        self._guard = Guard(self.device)
        self.world, self.spread = World(), Whole(self.model)
        if settings.compile:
            compile_in_place(self.model, self.device)

    def distribute(self, world: World, *, parts: bool = False) -> None:
        """Train together with the other processes of ``world``, all of which call this, before any state is loaded.

        ``parts``: every process has a part of weights and moments, not all; ValueError where that can't be.
        """
        if self.learner:
            if parts and self.learner.reads_model:
                raise ValueError(
                    f"--shard-model splits the model, and --masking {self.learner.name} reads it whole: leave one out"
                )
            self.learner.world = world
        self.world, self.spread = world, spread(self.model, world, parts=parts)
        if parts:
            self.optimizer = self._new_optimizer()  # the parameters are others now

    def flops_per_image(self, step: int | None = None) -> int:
        """FLOPs of the passes of an image that follows after ``step`` steps; without a step, of a whole-sized one."""
        grid = self.model.grid_of(self.image_size(step) if step is not None else self.model.image_size)
        hidden = self.masking.hidden(grid)
        ratios, visible = (self.masking.mask_ratio, self.settings.decode_ratio), self.settings.visible_weight > 0
        return training_flops(self.model, *ratios, grid, hidden=hidden, predict_visible=visible)

    @functools.cached_property
    def peak(self) -> Peak | None:
        """What the device can do in this precision, None where that is not known."""
        return peak_flops(self.device, self.precision)

    def mfu(self, flops_per_second: float) -> float | None:
        """Model FLOPs utilisation: the share of the peak of all processes' devices that so much work takes."""
        return None if self.peak is None else flops_per_second / (self.peak.flops * self.world.size)

    @property
    def progress(self) -> float:
        """Share of the training done, 0..1."""
        return self.step / self.total_steps

    def image_size(self, step: int | None = None) -> tuple[int, int]:
        """Height and width of the images that follow after ``step`` steps (default: of the coming one's)."""
        done = self.step if step is None else step
        return self.resolutions.size_at(done // self.steps_per_epoch) if self.resolutions else self.model.image_size

    @property
    def grid(self) -> tuple[int, ...]:
        """Rows and columns of patches of the coming step's images; slots, rows and columns of its clips."""
        return self.model.grid_of(self.image_size())

    @property
    def grids(self) -> set[tuple[int, ...]]:
        """Every grid that the training's images will have."""
        sizes = self.resolutions.sizes() if self.resolutions else [self.model.image_size]
        return {self.model.grid_of(size) for size in sizes}

    def update(self, batches: Sequence[Batch]) -> Tensor:
        """One optimiser step on ``accumulate`` batches of any sizes, as many of them in every process.

        Returns the mean loss of the images of all processes, float32, without waiting for it. A step whose loss or
        gradients are not finite changes no weight, nor does any after it; :meth:`non_finite` tells.
        """
        count = sum(_readable(batch) for batch in batches)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        losses = torch.zeros(2, device=self.device)
        for number, batch in enumerate(batches):
            with self.spread.averaging(last=number == len(batches) - 1):
                losses += self._pass(batch, number, count)
        total, self.hidden_loss = (self.world.sum(losses) / self.world.size).unbind()
        self._apply_gradients(total)
        self.step += 1
        return total

    def _pass(self, batch: Batch, number: int, count: int) -> Tensor:
        """Forward and backward pass of batch ``number`` of a step of ``count`` images.

        Its part of the loss, and of that on hidden patches, [2].
        """
        share = len(batch.images) / count
        here = batch if len(batch.images) else self._blank(batch.part)
        images = normalise(copy_to(here.images, self.device))
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        look = None
        if self.learner:
            look = self._look(images, here, number, share, _readable(batch) / count)
            with autocast:
                mask = self.learner.masks(look)
        else:
            mask = self.draw_masks(len(images), here.saliency, number, here.part)
        decoded = self.draw_decoded(mask, number, here.part)
        # A batch of another size, for an image could not be read, is not worth a compilation of its own.
        whole = len(images) * self.world.size == self.settings.batch_size
        with autocast, eager(self.settings.compile and not whole):
            visible = self.settings.visible_weight > 0
            errors = self.spread.loss(images, mask, decoded, self.grid, each=self.needs_errors, visible=visible)
        chosen = mask.ids_hidden if self.needs_errors and decoded is None else decoded
        kept = mask.ids_keep.shape[1]
        seen, errors = (errors[:, :kept], errors[:, kept:]) if visible else (None, errors)
        salient = self.learner.importance if self.learner and self.settings.weight_by == "gate" else here.saliency
        hidden = self._weigh(errors, salient, chosen) * (share * self.world.size)  # processes are averaged
        loss = hidden
        if seen is not None:
            near = by_distance(seen, mask, self.grid) * (share * self.world.size)
            loss = hidden + self.settings.visible_weight * near
        loss.backward()  # type: ignore[no-untyped-call]
        if self.learner and look and self.learner.needs_errors and chosen is not None:
            self.learner.hear(look, chosen, errors.detach())
        return torch.stack([loss.detach(), hidden.detach()])

    def schedules(self) -> dict[str, Any]:
        """What follows a schedule, by name, as it is at the coming step; plain values, for the log."""
        values: dict[str, Any] = {"learning_rate": self.learning_rate(), **self.masking.schedules(self.progress)}
        if self.settings.saliency_weight_schedule != "constant":
            values["saliency_weight"] = self.saliency_weight
        if self.resolutions is not None:
            values["image_size"] = list(self.image_size())
        return values

    def check_masks(self) -> None:
        """Draw the masks of a batch on every grid that the training will have; ValueError where that can't be."""
        count = self.settings.batch_size
        for grid in self.grids:
            flat = torch.ones(count, math.prod(grid))
            self.masking(count, grid, generator=torch.Generator(), saliency=flat)

    @property
    def needs_errors(self) -> bool:
        """Whether a step asks for every patch's error, not for their mean alone."""
        weighed = self.settings.saliency_weight > 0 or self.settings.visible_weight > 0
        return weighed or (self.learner is not None and self.learner.needs_errors)

    @property
    def needs_saliency(self) -> bool:
        """Whether a step asks for the saliency of its images."""
        if self.settings.saliency_weight > 0 and self.settings.weight_by == "maps":
            return True
        return self.learner.needs_saliency if self.learner else self.masking.needs_saliency

    @property
    def saliency_weight(self) -> float:
        """The weight of saliency in the loss of the coming step, 0..1."""
        settings = self.settings
        return scheduled(settings.saliency_weight, settings.saliency_weight_schedule, self.progress)

    def _weigh(self, errors: Tensor, saliency: Tensor | None, decoded: Tensor | None) -> Tensor:
        """The mean of errors [B, M'] of the patches ``decoded``, weighted where the settings say so."""
        if not self.needs_errors:
            return errors
        if self.settings.saliency_weight == 0:
            return errors.mean()
        assert saliency is not None and decoded is not None  # noqa: PT018
        there = copy_to(saliency.float(), self.device).gather(1, decoded)  # [B, M']
        return by_saliency(errors, there, self.saliency_weight)

    def _look(self, images: Tensor, batch: Batch, number: int, share: float, batch_share: float | None = None) -> Look:
        """A batch as the mask learner is shown it; its noise is that of ``draw_masks`` to begin with."""
        generator = self._generator(number)
        return Look(
            images,
            self.grid,
            self.masking.mask_ratio,
            look_noise(generator, len(images), self.device, batch.part),
            batch.saliency,
            share,
            share if batch_share is None else batch_share,
            self.progress,
            batch.part,
            self.masking.tubes,
            self.masking.mask_granularity,
        )

    def _apply_gradients(self, loss: Tensor) -> None:
        learner = self.learner
        beside: dict[str, nn.Module] = {}
        if learner:
            learner.gather()
            loss = loss + learner.loss
            beside = {learner.name: learner.network} if learner.network is not None else {}
        self._guard.look(self.model, loss, self.spread.agree, beside)
        guarded_step(self.optimizer, self._guard.found)
        if learner:
            learner.apply(self.learning_rate() / self.settings.peak_learning_rate, self._guard.found)

    def pick_masks(self, images: Tensor, saliency: Tensor | None, number: int) -> Mask:
        """Masks of normalised images [B, 3, H, W] as a coming step would have them, with nothing learnt: to look at."""
        if self.learner is None:
            return self.draw_masks(len(images), saliency, number)
        return self.learner.draw(self._look(images, Batch(images, saliency), number, 0.0))

    def draw_masks(self, count: int, saliency: Tensor | None, number: int, part: Part | None = None) -> Mask:
        """The masks of batch ``number`` of the coming step, or of a part of it."""
        generator = self._generator(number)
        return self.masking(
            count,
            self.grid,
            generator=generator,
            saliency=saliency,
            progress=self.progress,
            device=self.device,
            part=part,
        )

    def draw_decoded(self, mask: Mask, number: int, part: Part | None = None) -> Tensor | None:
        """Which hidden patches of batch ``number`` of the coming step, or a part of it, are decoded; None for all."""
        generator = self._generator(number, _DECODED)
        cells = self.grid if self.settings.decoder_masking == "running-cell" else None
        return choose_decoded(mask, self.settings.decode_ratio, generator, part, running_cell=cells)

    def _generator(self, *numbers: int) -> torch.Generator:
        """The random numbers of the coming step for the batch, and for what else the numbers mark."""
        return torch.Generator().manual_seed(seed_of(self.settings.seed, self.step, *numbers))

    def learning_rate(self) -> float:
        """The rate of the coming step."""
        warmup = self.settings.warmup_epochs
        warmup = 0.1 * self.settings.epochs if warmup is None else warmup
        return learning_rate(
            self.step, self.total_steps, warmup * self.steps_per_epoch, self.settings.peak_learning_rate
        )

    def non_finite(self) -> NonFinite | None:
        """The first step whose loss or gradients were not finite, None if there is none; waits for the device."""
        return self._guard.report(self.step)

    def non_finite_weight(self) -> str | None:
        """The name of the first weight that is infinite or NaN, None if there is none; waits for the device."""
        named = list(self.model.named_parameters())
        broken = torch.stack([~local(p.detach()).isfinite().all() for _, p in named])
        flags = self.world.max(broken.to(torch.uint8)).tolist()
        return next((name for (name, _), bad in zip(named, flags, strict=True) if bad), None)

    def state(self) -> dict[str, Any]:
        """Everything beside the weights that the next step depends on; tensors and plain values only.

        To be called by all processes; the main one's is whole.
        """
        state = {"step": self.step, "optimizer": self.spread.whole_state(self.optimizer.state_dict())}
        return state | ({"learner": self.learner.state()} if self.learner else {})

    def load_state(self, state: dict[str, Any]) -> None:
        """Undoes :meth:`state`."""
        self.step = int(state["step"])
        self._guard = Guard(self.device)
        self.optimizer.load_state_dict(self.spread.parts_of(state["optimizer"], self.optimizer))
        if self.learner:
            self.learner.load_state(state["learner"])

    def _new_optimizer(self) -> torch.optim.AdamW:
        groups = parameter_groups(self.model, self.settings.weight_decay)
        rate = self.settings.peak_learning_rate
        return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=self.device.type in ("cuda", "cpu"))

    def _blank(self, part: Part | None) -> Batch:
        """An image that counts nothing, for a process that could read none: the others wait for its gradients."""
        frames = (self.model.frames,) if isinstance(self.model, VideoMaskedAutoencoder) else ()
        saliency = torch.zeros(1, math.prod(self.grid)) if self.needs_saliency else None
        rows = torch.zeros(1, dtype=torch.int64)
        before = None if saliency is None else saliency[0]
        blank = torch.zeros(1, 3, *frames, *self.image_size(), dtype=torch.uint8)
        return Batch(blank, saliency, Part(rows, part.size if part else 1, before))


def _readable(batch: Batch) -> int:
    return len(batch.images) if batch.readable is None else batch.readable
