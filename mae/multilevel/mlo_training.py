"""Pretraining by MLO-MAE: one outer step of the three levels in ``mae.multilevel.mlo``, its state and its cost.

An outer step is ``unroll`` real steps of the autoencoder and of the head, then one of the masker along its
hypergradient through them. All random numbers of a step follow from (seed, step), and the state holds the parameters
and moments of every level: a resumed run repeats an uninterrupted one to the bit on one CPU process.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mae.devices import copy_to
from mae.distributed import World
from mae.masks.learner import MaskLearner
from mae.masks.masking import Masking, Part
from mae.models.mask import Mask
from mae.models.vit import MaskedAutoencoder
from mae.multilevel.differentiable_rules import Group, adamw
from mae.multilevel.mlo import LEVELS, RULES, Head, Inputs, Losses, MultilevelSettings, build_masker
from mae.multilevel.nested import Level, Nested, Passes, Point
from mae.optimisation import learning_rate
from mae.pixels import normalise
from mae.precision import resolve_precision
from mae.randomness import seed_of
from mae.training.flops import Peak, flop_counter, peak_flops
from mae.training.guard import NonFinite
from mae.training.resolution_schedule import ResolutionSchedule
from mae.training.spread import Whole
from mae.training.training import TrainingSettings


@dataclass(frozen=True)
class LabelledImages:
    """``images`` uint8 [B, 3, H, W]; ``labels`` int64 [B], 0 to classes − 1, which level 1 does not look at."""

    images: Tensor
    labels: Tensor
    part: Part | None = None
    """Where these images stand in a batch that several processes share, or from which some are missing."""
    readable: int | None = None
    """How many images all processes have of the batch; here there may be none."""


class MultilevelTraining:
    """A model, a head and a masker in training; one ``update`` is one outer step and ``step`` counts those done.

    ``steps_per_epoch`` counts outer steps, each of which takes ``batches_per_step`` batches of each level. ``settings``
    are those of plain pretraining and hold for level 1. Of several processes in a ``world`` each has a copy of all
    levels, and every gradient and difference of gradients is averaged over them. ValueError for settings that do not
    fit.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        classes: int,
        masking: Masking,
        settings: TrainingSettings,
        multilevel: MultilevelSettings,
        steps_per_epoch: int,
        device: torch.device | str = "cpu",
        *,
        masker: nn.Module | None = None,
        world: World | None = None,
    ) -> None:
        if settings.accumulate != 1:
            raise ValueError("--accumulate is not for multi-level masks: each level's step takes one batch")
        self.device = torch.device(device)
        self.settings, self.multilevel, self.masking = settings, multilevel, masking
        self.model = model.to(self.device).train()
        self.head = Head(model.pos_embed.shape[-1], classes).to(self.device)
        self.masker = (masker or build_masker(multilevel.masker, model)).to(self.device)
        self.resolutions: ResolutionSchedule | None = None
        self.learner: MaskLearner | None = None
        """None: no learner beside the autoencoder, for the levels themselves learn the masks."""
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = steps_per_epoch * settings.epochs
        self.step = 0
        self.precision = resolve_precision(settings.precision, self.device)
        self._losses = Losses(self.model, self.head, self.masker, multilevel, masking.mask_ratio, self.precision)
        self.world = world or World()
        average = self._average if self.world.size > 1 else None
        self.solver = Nested(self._levels(), multilevel.hypergradient, multilevel.radius, average)
        self._point = self.solver.start(self._parameters())
        self._share_parameters()
        self.spread = Whole(self.model)
        self._flops: dict[str, int] = {}
        self._passes = {name: Passes() for name in LEVELS}
        self._bad = torch.zeros(len(LEVELS), dtype=torch.int64, device=self.device)
        """The first step, from 1, after which a level's parameters would not have been finite; 0 for none."""

    @property
    def batches_per_step(self) -> dict[str, int]:
        """How many batches of ``mae``, ``head`` and ``masker`` one update takes."""
        return self.solver.batches_per_step()

    @property
    def progress(self) -> float:
        """Share of the training done, 0..1."""
        return self.step / self.total_steps

    def update(self, batches: Mapping[str, Sequence[LabelledImages]]) -> dict[str, Tensor]:
        """One outer step on ``batches_per_step`` of each level.

        The batches of ``masker`` must come from images that the other two never see. Returns the mean loss of each
        level, float32, without waiting for it. A step after which a parameter would not be finite changes none, nor
        does any later one; :meth:`non_finite` tells.
        """
        inputs = {name: [self._inputs(name, i, batch) for i, batch in enumerate(batches[name])] for name in LEVELS}
        point, losses = self.solver.step(self._point, inputs, self.step, count_flops=not self._flops)
        if not self._flops:
            self._flops = {name: p.flops * self.world.size for name, p in self.solver.passes.items()}
        self.step += 1
        self._accept(point)
        self._share_parameters()
        summed = self.world.sum(torch.stack([losses[name] for name in LEVELS]))
        return dict(zip(LEVELS, summed / self.world.size, strict=True))

    def draw_masks(self, images: Tensor) -> Mask:
        """T's masks of normalised images, as level 1 would be given them at this step."""
        noise = self._noise(len(images), 0)
        with torch.no_grad():
            return self._losses.choose(self._point, Inputs(images.to(self.device), noise=noise)).mask

    def probabilities(self, images: Tensor) -> Tensor:
        """T's output [B, N] for normalised images."""
        with torch.no_grad():
            probabilities: Tensor = self.masker(self.model.embed(images.to(self.device)))
        return probabilities

    def learning_rate(self, level: str = "mae") -> float:
        """The rate of a level's next step."""
        return self._rate(level, self.step * self.batches_per_step[level])

    def schedules(self) -> dict[str, Any]:
        """As :meth:`mae.training.training.Training.schedules`."""
        return {"learning_rate": self.learning_rate()}

    def cost(self) -> dict[str, dict[str, float]]:
        """What all steps so far took, by level: forward and backward passes over a batch, and FLOPs.

        FLOPs are those of an outer step, counted at the first one (matrix products and attention, as torch counts
        them), times the number of steps: all steps take batches of one size.
        """
        return {
            name: {
                "forward": passes.forward,
                "backward": passes.backward,
                "second_backward": passes.second,
                "flops": self._flops.get(name, 0) * self.step,
            }
            for name, passes in self.passes.items()
        }

    @property
    def passes(self) -> dict[str, Passes]:
        """Passes of each level, those before a resumption included."""
        done = {}
        for name, earlier in self._passes.items():
            now = self.solver.passes[name]
            done[name] = Passes(
                earlier.forward + now.forward, earlier.backward + now.backward, earlier.second + now.second
            )
        return done

    def flops_per_image(self, step: int | None = None) -> int:
        """FLOPs of all levels for an image of a step, of any level; 0 before the first step has counted them."""
        images = sum(self.batches_per_step.values()) * self.settings.batch_size
        return round(sum(self._flops.values()) / images)

    @functools.cached_property
    def peak(self) -> Peak | None:
        """As :attr:`mae.training.training.Training.peak`."""
        return peak_flops(self.device, self.precision)

    def mfu(self, flops_per_second: float) -> float | None:
        """As :meth:`mae.training.training.Training.mfu`."""
        return None if self.peak is None else flops_per_second / (self.peak.flops * self.world.size)

    def image_size(self, step: int | None = None) -> tuple[int, int]:
        """Height and width of the images; always the model's own."""
        return self.model.image_size

    def plain_flops(self, images: Tensor) -> int:
        """FLOPs of one step of plain pretraining on a batch like ``images`` [B, 3, H, W]: the unit to compare with."""
        generator = torch.Generator().manual_seed(0)
        mask = Masking(mask_ratio=self.masking.mask_ratio)(
            len(images), self.model.grid, generator=generator, device=self.device
        )
        with flop_counter() as counter:
            loss = self.model(normalise(images.to(self.device)), mask)
            torch.autograd.grad(loss, [p for p in self.model.parameters() if p.requires_grad])
        return int(counter.get_total_flops())

    def non_finite_weight(self) -> str | None:
        """The name of the first weight of a level that is infinite or NaN, None if there is none; waits for the device.

        No step makes one, see :meth:`update`.
        """
        for level in LEVELS:
            for name, value in self._point[level].items():
                if not bool(value.isfinite().all()):
                    return f"{level}.{name}"
        return None

    def non_finite(self) -> NonFinite | None:
        """The first step that was not finite and its level, None if there is none; waits for the device."""
        steps = {name: int(step) for name, step in zip(LEVELS, self._bad, strict=True) if step}
        if not steps:
            return None
        name = min(steps, key=lambda level: steps[level])
        return NonFinite(steps[name], name)

    def state(self) -> dict[str, Any]:
        """Everything beside the autoencoder's weights that the next step depends on; tensors and plain values only."""
        return {
            "step": self.step,
            "point": {group: values for group, values in self._point.items() if group != "mae"},
            "passes": {name: asdict(passes) for name, passes in self.passes.items()},
            "flops": self._flops,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Undoes :meth:`state`, after the autoencoder's weights were loaded into ``model``."""
        self.step = int(state["step"])
        point = self._point | {
            group: {name: value.to(self.device) for name, value in values.items()}
            for group, values in state["point"].items()
        }
        self._point = point | {"mae": {k: v.detach().clone() for k, v in _trained(self.model).items()}}
        self._passes = {name: Passes(**values) for name, values in state["passes"].items()}
        self.solver.passes = {name: Passes() for name in LEVELS}
        self._flops = dict(state["flops"])
        self._bad.zero_()
        self._share_parameters()

    def _levels(self) -> list[Level]:
        losses, multilevel = self._losses, self.multilevel
        rule = adamw(weight_decay=self.settings.weight_decay)

        def rate(level: str) -> Callable[[int], float]:
            return lambda number: self._rate(level, number)

        return [
            Level(
                "mae",
                losses.reconstruction,
                rule,
                rate("mae"),
                reads=("masker",),
                unroll=multilevel.unroll[0],
                constants=losses.choose,
            ),
            Level(
                "head", losses.classification, RULES["adamw"], rate("head"), reads=("mae",), unroll=multilevel.unroll[1]
            ),
            Level(
                "masker", losses.classification, RULES[multilevel.masker_rule], rate("masker"), reads=("mae", "head")
            ),
        ]

    def _rate(self, level: str, number: int) -> float:
        """Warm-up and half a cosine over the level's own steps."""
        peaks = {"head": self.multilevel.head_rate, "masker": self.multilevel.masker_rate}
        count = self.batches_per_step[level]
        warmup = self.settings.warmup_epochs
        warmup = 0.1 * self.settings.epochs if warmup is None else warmup
        return learning_rate(
            number,
            self.total_steps * count,
            warmup * self.steps_per_epoch * count,
            peaks.get(level, self.settings.peak_learning_rate),
        )

    def _inputs(self, level: str, number: int, batch: LabelledImages) -> Inputs:
        count = len(batch.images)
        share = 1.0 if batch.readable is None else count * self.world.size / batch.readable
        if not count:  # an image that counts nothing: the other processes wait for this one's gradients
            rows = torch.zeros(1, dtype=torch.int64)
            blank = torch.zeros(1, 3, *self.model.image_size, dtype=torch.uint8)
            batch = LabelledImages(blank, rows, Part(rows, batch.part.size if batch.part else 1))
        images = normalise(copy_to(batch.images, self.device))
        if level == "mae":
            return Inputs(images, noise=self._noise(len(images), number, batch.part), share=share)
        return Inputs(images, copy_to(batch.labels, self.device), share=share)

    def _noise(self, count: int, number: int, part: Part | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(self.settings.seed, self.step, number))
        drawn = torch.rand(part.size if part else count, math.prod(self.model.grid), generator=generator)
        return copy_to(drawn[part.rows] if part else drawn, self.device)

    def _average(self, gradients: Group) -> Group:
        flat = self.world.sum(torch.cat([gradient.flatten() for gradient in gradients.values()])) / self.world.size
        pieces = torch.split(flat, [gradient.numel() for gradient in gradients.values()])
        return {
            name: piece.view_as(gradient) for (name, gradient), piece in zip(gradients.items(), pieces, strict=True)
        }

    def _accept(self, point: Point) -> None:
        """Take the new point, unless it or an earlier one is not finite; decided on the device."""
        norms = [torch.stack(torch._foreach_norm(list(point[name].values()))).sum() for name in LEVELS]
        fresh = ~torch.stack(norms).isfinite() & ~self._bad.any()
        self._bad = torch.where(fresh, self.step, self._bad)
        bad = self._bad.any()
        self._point = {
            group: {name: torch.where(bad, self._point[group][name], value) for name, value in values.items()}
            for group, values in point.items()
        }

    def _parameters(self) -> dict[str, Group]:
        return {"mae": _trained(self.model), "head": _trained(self.head), "masker": _trained(self.masker)}

    def _share_parameters(self) -> None:
        """The modules hold the point's own tensors: nothing changes those in place."""
        for level, parameters in self._parameters().items():
            for name, parameter in parameters.items():
                parameter.data = self._point[level][name]


def _trained(module: nn.Module) -> Group:
    """The parameters that learn, by name; positions do not."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
