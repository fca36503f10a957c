"""Pretraining by MLO-MAE: one outer step of the three levels in ``mae.multilevel.mlo``, its state and its cost.

An outer step is ``unroll`` real steps of the autoencoder and of the head, then one of the masker along its
hypergradient through them, or through the last of them. A head that is solved takes no steps: it is at its optimum on
recent features before those that the hypergradient goes through. All random numbers of a step follow from (seed, step),
and the state holds the parameters and moments of every level: a resumed run repeats an uninterrupted one to the bit on
one CPU process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mae.devices import copy_to
from mae.distributed import World
from mae.mask_learners.learner import MaskLearner
from mae.masks.masking import Masking, Part
from mae.models.mask import Mask
from mae.models.vit import MaskedAutoencoder
from mae.multilevel.differentiable_rules import Group, adamw, at_optimum
from mae.multilevel.head import Head, SolvedHead
from mae.multilevel.ledger import Ledger
from mae.multilevel.masker import MixMasker
from mae.multilevel.mlo import LEVELS, Inputs, Losses, Seen, build_masker
from mae.multilevel.nested import Level, Nested, Passes, Point
from mae.multilevel.patience import Patience
from mae.multilevel.settings import RULES, MultilevelSettings
from mae.optimisation import learning_rate
from mae.pixels import normalise
from mae.precision import resolve_precision
from mae.randomness import seed_of
from mae.training.flops import Peak, flop_counter, peak_flops
from mae.training.guard import NonFinite
from mae.training.resolution_schedule import ResolutionSchedule
from mae.training.settings import TrainingSettings
from mae.training.spread import Whole


@dataclass(frozen=True)
class LabelledImages:
    """``images`` uint8 [B, 3, H, W]; ``labels`` int64 [B], 0 to classes − 1, which level 1 does not look at."""

    images: Tensor
    labels: Tensor
    part: Part | None = None
    """Where these images stand in a batch that several processes share, or from which some are missing."""
    readable: int | None = None
    """How many images all processes have of the batch; here there may be none."""
    saliency: Tensor | None = None
    """[B, N] ≥ 0 on the same views, where T reads maps."""


class MultilevelTraining:
    """A model, a head and a masker in training; one ``update`` is one outer step and ``step`` counts those done.

    ``steps_per_epoch`` counts outer steps, each of which takes ``batches_per_step`` batches of each level. ``settings``
    are those of plain pretraining and hold for level 1; ``maps`` says whether images come with maps. Of several
    processes in a ``world`` each has a copy of all levels, and every gradient and difference of gradients is averaged
    over them. ValueError for settings that do not fit.
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
        maps: bool = False,
    ) -> None:
        if settings.accumulate != 1:
            raise ValueError("--accumulate is not for multi-level masks: each level's step takes one batch")
        self.device, self.world = torch.device(device), world or World()
        self.settings, self.multilevel, self.masking = settings, multilevel, masking
        self.model = model.to(self.device).train()
        self.head = Head(model.pos_embed.shape[-1], classes).to(self.device)
        self.masker = (masker or build_masker(multilevel, model, maps=maps)).to(self.device)
        self.resolutions: ResolutionSchedule | None = None
        self.learner: MaskLearner | None = None
        """None: no learner beside the autoencoder, for the levels themselves learn the masks."""
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = steps_per_epoch * settings.epochs
        self.step = 0
        self.precision = resolve_precision(settings.precision, self.device)
        self._losses = Losses(self.model, self.head, self.masker, multilevel, masking.mask_ratio, self.precision)
        average = self._average if self.world.size > 1 else None
        self._solved: SolvedHead | None = None
        if multilevel.head == "solved":
            self._solved = SolvedHead(self.head, multilevel.buffer, self.device, self.world, settings.batch_size)
        self._seen = Seen()
        self._patience = Patience(multilevel.masker_rate, multilevel.wait, classes)
        self.solver = Nested(self._levels(), multilevel.hypergradient, multilevel.radius, average)
        self._point = self.solver.start(self._parameters())
        self._share_parameters()
        self.spread = Whole(self.model)
        self._ledger = Ledger(LEVELS)
        self._bad = torch.zeros(len(LEVELS), dtype=torch.int64, device=self.device)
        """The first step, from 1, after which a level's parameters would not have been finite; 0 for none."""

    @property
    def batches_per_step(self) -> dict[str, int]:
        """How many batches of ``mae``, ``head`` and ``masker`` one update takes."""
        lower, upper = self.multilevel.unroll
        # A quarter of the buffer, and the batch that the hypergradient goes through.
        fresh = 1 + max(1, round(self.multilevel.buffer / 4 / self.settings.batch_size))
        return {"mae": lower * upper, "head": fresh if self._solved else upper, "masker": 1}

    @property
    def progress(self) -> float:
        """Share of the training done, 0..1."""
        return self.step / self.total_steps

    def update(self, batches: Mapping[str, Sequence[LabelledImages]]) -> dict[str, Tensor]:
        """One outer step on ``batches_per_step`` of each level.

        The batches of ``masker`` must come from images that the other two never see. Returns the mean loss of each
        level, float32, without waiting for it; that of ``masker`` where T learns. A step after which a parameter would
        not be finite changes none, nor does any later one; :meth:`non_finite` tells.
        """
        inputs = {name: [self._inputs(name, i, batch) for i, batch in enumerate(batches[name])] for name in LEVELS}
        kind = "learns" if self._patience.learns() else "waits"
        counted = {name: passes.flops for name, passes in self.solver.passes.items()}
        point, losses = self._step(inputs, kind == "learns", count_flops=kind not in self._ledger.flops)
        counted = {name: (p.flops - counted[name]) * self.world.size for name, p in self.solver.passes.items()}
        self._ledger.made(kind, counted)
        self.step += 1
        self._patience.made += kind == "learns"
        self._accept(point)
        self._share_parameters()
        summed = self.world.sum(torch.stack(list(losses.values()))) / self.world.size
        found = dict(zip(losses, summed, strict=True))
        if self._solved is None or self._solved.is_full:
            self._patience.hear(found["head"])
        return found

    @property
    def learned(self) -> int:
        """The steps that T has made."""
        return self._patience.made

    def _step(
        self, inputs: dict[str, list[Inputs]], learns: bool, *, count_flops: bool
    ) -> tuple[Point, dict[str, Tensor]]:
        point, mae, done = self._point, inputs["mae"], self.step * len(inputs["mae"])
        lead, led = len(mae) - self.solver.batches_per_step()["mae"], None
        if lead:
            point, losses = self.solver.lowest_steps(point, mae[:lead], done, count_flops=count_flops)
            led = losses["mae"]
        heads = inputs["head"]
        if self._solved:
            point = point | {"head": self._solve(point, heads[1:], count_flops=count_flops)}
            heads = heads[:1]
        batches = {"mae": mae[lead:], "head": heads, "masker": inputs["masker"]}
        numbers = {"mae": done + lead, "head": self.step * len(heads), "masker": self.learned}
        point, losses = self.solver.step(point, batches, numbers, top=learns, count_flops=count_flops)
        if led is not None:
            losses["mae"] = torch.lerp(losses["mae"], led, lead / len(mae))
        if self._solved:
            assert self._seen.features is not None
            self._solved.add(self._seen.features, heads[0].labels_here)
        return point, losses

    def _solve(self, point: Point, inputs: Sequence[Inputs], *, count_flops: bool) -> Group:
        """The head on the newest features, those of ``inputs`` among them."""
        assert self._solved is not None
        counter = flop_counter() if count_flops else None
        with counter or nullcontext(), torch.no_grad():
            for each in inputs:
                self._solved.add(self._losses.features(point, each.images), each.labels_here)
            solved = self._solved.solve(point["head"])
        passes = self.solver.passes["head"]
        passes.forward += len(inputs)
        passes.flops += counter.get_total_flops() if counter else 0
        return solved

    def draw_masks(self, images: Tensor, saliency: Tensor | None = None) -> Mask:
        """T's masks of normalised images, as level 1 would be given them at this step; ``saliency`` [B, N]."""
        maps = None if saliency is None else saliency.to(self.device)
        inputs = Inputs(images.to(self.device), noise=self._noise(len(images), 0), saliency=maps)
        with torch.no_grad():
            return self._losses.choose(self._point, inputs).drawn.mask

    def probabilities(self, images: Tensor, saliency: Tensor | None = None) -> Tensor:
        """T's output [B, N] for normalised images."""
        with torch.no_grad():
            maps = None if saliency is None else saliency.to(self.device)
            read = self._losses.read(self._point, Inputs(images.to(self.device), saliency=maps))
            return self._losses.say(self._point, read).probabilities

    def figures(self) -> dict[str, Tensor]:
        """What is told of T beside its loss, scalars: whether it waits, and the numbers of a mix by name."""
        numbers = self.masker.numbers() if isinstance(self.masker, MixMasker) else {}
        waits = torch.full((), float(self._patience.waits), device=self.device)
        return {"masker_waits": waits} | {f"masker_{name}": value for name, value in numbers.items()}

    def learning_rate(self, level: str = "mae") -> float:
        """The rate of a level's next step."""
        return self._rate(level, self.step * self.batches_per_step[level])

    def schedules(self) -> dict[str, Any]:
        """As :meth:`mae.training.training.Training.schedules`."""
        return {"learning_rate": self.learning_rate()}

    def cost(self) -> dict[str, dict[str, float]]:
        """What all steps so far took, by level: forward and backward passes over a batch, and FLOPs as torch counts."""
        return self._ledger.cost(self.solver.passes)

    @property
    def passes(self) -> dict[str, Passes]:
        """Passes of each level, those before a resumption included."""
        return self._ledger.passes(self.solver.passes)

    def flops_per_image(self, step: int | None = None) -> int:
        """FLOPs of all levels for an image of a step, of any level; 0 before the first step has counted them."""
        images = sum(self.batches_per_step.values()) * self.settings.batch_size
        return round(self._ledger.flops_of_a_step() / images)

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
            "patience": self._patience.state(),
            "buffer": self._solved.state() if self._solved else None,
            **self._ledger.state(self.solver.passes),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Undoes :meth:`state`, after the autoencoder's weights were loaded into ``model``."""
        self.step = int(state["step"])
        point = self._point | {
            group: {name: value.to(self.device) for name, value in values.items()}
            for group, values in state["point"].items()
        }
        self._point = point | {"mae": {k: v.detach().clone() for k, v in _trained(self.model).items()}}
        always = {"made": self.step, "begun": True, "loss": None}  # in earlier versions T learned at every step
        self._patience.load_state(state.get("patience", always), self.device)
        if self._solved:
            self._solved.load_state(state["buffer"])
        self._ledger.load_state(state)
        self.solver.passes = {name: Passes() for name in LEVELS}
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
                unroll=multilevel.through_steps,
                constants=losses.choose,
            ),
            self._head_level(rate("head")),
            Level(
                "masker",
                losses.classification,
                RULES[multilevel.masker_rule],
                lambda _: self._rate("masker", self.step),  # T may have made fewer steps than there were
                reads=("mae", "head"),
            ),
        ]

    def _head_level(self, rate: Callable[[int], float]) -> Level:
        level = Level(
            "head",
            self._losses.classification,
            RULES[self.multilevel.head_rule],
            rate,
            reads=("mae",),
            unroll=self.multilevel.unroll[1],
        )
        if self._solved is None:
            return level

        def see(point: Point, inputs: Inputs) -> Seen:
            self._seen = Seen()
            return self._seen

        # Its curvature is exact at little cost: of the encoder, a first derivative is enough.
        return replace(level, rule=at_optimum(self._solved.inverse), constants=see, method="exact")

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
            saliency = None if batch.saliency is None else copy_to(batch.saliency, self.device)
            return Inputs(images, noise=self._noise(len(images), number, batch.part), share=share, saliency=saliency)
        return Inputs(images, copy_to(batch.labels, self.device), share=share)

    def _noise(self, count: int, number: int, part: Part | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(self.settings.seed, self.step, number))
        drawn = torch.rand(part.size if part else count, self._losses.noises, generator=generator)
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
