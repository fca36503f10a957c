"""MLO-MAE (arXiv 2402.18128): what its three levels minimise. Written from the paper.

    1  ``mae``     E, D ← min  Σ_j w_j e_j(E, D) / M       training split; T chooses what is hidden, w is its weight
    2  ``head``    C ← min  cross-entropy of C on the frozen encoder's features        training split, with labels
    3  ``masker``  T ← min  cross-entropy of C*(E*(T)) on the features of E*(T)        the separate mask split

e_j is the mean squared error of patch j, M the number of hidden patches. T reads the encoder's patch embeddings behind
a stop-gradient, so that level 1 cannot lower its loss by misleading T. ``mae.multilevel.mlo_training`` runs the levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from mae.masks.gate import Gate
from mae.models.mask import Mask
from mae.models.vit import MaskedAutoencoder
from mae.multilevel.differentiable_rules import adamw, momentum
from mae.multilevel.masker import PATHS, GridMasker, MlpMasker, loss_weights, top_mask
from mae.multilevel.nested import METHODS, Point

LEVELS = ("mae", "head", "masker")
MASKERS = ("gate", "mlp")
RULES = {"adamw": adamw(betas=(0.9, 0.999)), "momentum": momentum()}
"""Of head and T, which do not decay. The longer memory of AdamW's second moment holds gradients of changing size."""


@dataclass(frozen=True)
class MultilevelSettings:
    """How the levels play together; what level 1 has in common with plain pretraining is in TrainingSettings."""

    masker: str = "gate"
    path: str = "weighted"
    """How the mask becomes differentiable: see ``mae.multilevel.masker.loss_weights``."""
    hypergradient: str = "finite"
    radius: float = 0.1
    """Of the finite difference, see ``mae.multilevel.nested.Nested``: with 0.1 the hypergradients of a ``mini`` model
    were nearest to the exact ones, in fp32 (cosine 1.000) and bf16 (0.994, where DARTS' 0.01 has 0.80)."""
    unroll: tuple[int, int] = (2, 1)
    """Steps of the autoencoder to one of the head, and of the head to one of the masker."""
    head_rate: float = 1e-3
    masker_rate: float = 1e-3
    """Peak learning rates; level 1's follows from ``blr``. All three have the same warm-up, then half a cosine."""
    masker_rule: str = "adamw"
    """How T steps: a key of RULES. AdamW's steps have one length whatever the gradients', which grow a thousandfold
    once the head knows something; ``momentum`` (0.9) follows their size, so its rate has to be found for each task."""
    exploration: float = 0.0
    """0: the patches of highest probability are hidden, as in the paper; above it, see
    ``mae.multilevel.masker.top_mask``."""
    pool: str = "cls"

    def __post_init__(self) -> None:
        for name, known in (
            ("masker", MASKERS),
            ("path", PATHS),
            ("hypergradient", METHODS),
            ("masker_rule", tuple(RULES)),
            ("pool", ("cls", "mean")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"--mlo-{name} {getattr(self, name)!r} is not one of: {', '.join(known)}")
        if len(self.unroll) != 2 or min(self.unroll) < 1:
            raise ValueError(f"--mlo-unroll is {self.unroll}; it takes two numbers from 1 on")
        for name in ("radius", "head_rate", "masker_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(
                    f"--mlo-{name.replace('_', '-')} is {getattr(self, name)}; it must be a positive number"
                )
        if not 0 <= self.exploration < math.inf:
            raise ValueError(f"--mlo-exploration is {self.exploration}; it must be a number from 0 on")
        if self.path == "drawn" and not self.exploration:
            raise ValueError("--mlo-path drawn needs masks that are drawn: --mlo-exploration above 0, such as 1")


def settings_from(asked: Mapping[str, Any]) -> MultilevelSettings:
    """The settings of the levels from the options of ``pretrain``. ValueError."""
    try:
        lower, upper = (int(part) for part in asked["mlo_unroll"].split(","))
    except ValueError as error:
        raise ValueError(f"--mlo-unroll {asked['mlo_unroll']!r} is not two numbers, such as 2,1") from error
    if not 0 < asked["mlo_split"] < 1:
        raise ValueError(f"--mlo-split is {asked['mlo_split']:g}; it must lie between 0 and 1")
    same = ("masker", "path", "hypergradient", "head_rate", "masker_rate", "exploration", "pool")
    return MultilevelSettings(unroll=(lower, upper), **{name: asked[f"mlo_{name}"] for name in same})


class Inputs(NamedTuple):
    """A batch as the losses take it: normalised images [B, 3, H, W], labels [B] or noise [B, N] for the masks."""

    images: Tensor
    labels: Tensor | None = None
    noise: Tensor | None = None
    share: float = 1.0
    """What a loss is multiplied by: 1, but where processes have unequal parts of a batch."""


class Given(NamedTuple):
    """What level 1 takes as given, though it came from E and T: T's input [B, N, D] and the mask it chose."""

    tokens: Tensor
    mask: Mask


class Head(nn.Module):
    """Level 2's classifier of features [B, D]: LayerNorm and a linear layer, as in the paper, without its dropout."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, classes]."""
        logits: Tensor = self.linear(self.norm(features))
        return logits


def build_masker(name: str, model: MaskedAutoencoder) -> nn.Module:
    """T for a model's patch embeddings, by one of the names in MASKERS.

    The gate is told the places of the patches, as the paper's MLP knows them.
    """
    width = model.pos_embed.shape[-1]
    if name == "mlp":
        return MlpMasker(math.prod(model.grid), width)
    return GridMasker(Gate(width, positions=True), model.grid)


def patch_errors(model: MaskedAutoencoder, images: Tensor, mask: Mask) -> Tensor:
    """The mean squared error of every patch of images [B, C, H, W], hidden or not, float32 [B, N]."""
    prediction = model.decode(model.encode_visible(images, mask.ids_keep), mask.ids_restore)
    return (prediction.float() - model._target(model.patchify(images))).square().mean(-1)


def hidden_errors(model: MaskedAutoencoder, images: Tensor, mask: Mask) -> Tensor:
    """The same of the hidden patches alone, [B, M], in the order of ``mask.ids_hidden``, at the cost of their mean."""
    errors: Tensor = model(images, mask, each=True)
    return errors


class Losses:
    """The losses of the three levels as functions of a point, for ``mae.multilevel.nested.Level``.

    ``precision`` is ``fp32`` or ``bf16``: of the passes, for parameters and the arithmetic on them stay float32. Fused
    attention has no second derivative, so the exact hypergradient is computed without it.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        head: nn.Module,
        masker: nn.Module,
        settings: MultilevelSettings,
        mask_ratio: float,
        precision: str = "fp32",
    ) -> None:
        self.model, self.head, self.masker = model, head, masker
        self.settings, self.mask_ratio, self.precision = settings, mask_ratio, precision
        self._asked = _Asked(model)

    def choose(self, point: Point, inputs: Inputs) -> Given:
        """T's masks for a batch, with what it read; called without gradients."""
        assert inputs.noise is not None
        with self._passes(inputs.images):
            tokens = self._ask(point, MaskedAutoencoder.embed, inputs.images).float()
        probabilities = self._probabilities(point, tokens)
        return Given(tokens, top_mask(probabilities, self.mask_ratio, inputs.noise, self.settings.exploration))

    def reconstruction(self, point: Point, inputs: Inputs, given: Given) -> Tensor:
        """Level 1."""
        whole = self.settings.path == "straight-through"  # its derivative asks for the visible patches' errors as well
        with self._passes(inputs.images):
            question = patch_errors if whole else hidden_errors
            errors = self._ask(point, question, inputs.images, given.mask)
        probabilities = self._probabilities(point, given.tokens)
        weights = loss_weights(probabilities, given.mask, self.settings.path, self.settings.exploration)
        if not whole:
            weights = weights.gather(1, given.mask.ids_hidden)
        return inputs.share * (errors * weights).sum() / given.mask.hidden.sum()

    def classification(self, point: Point, inputs: Inputs, given: None) -> Tensor:
        """Levels 2 and 3, which differ in their data and in what is learned."""
        assert inputs.labels is not None
        with self._passes(inputs.images):
            features = self._ask(point, MaskedAutoencoder.features, inputs.images, self.settings.pool)
            logits = functional_call(self.head, point["head"], (features,))
        return inputs.share * F.cross_entropy(logits.float(), inputs.labels)

    def _probabilities(self, point: Point, tokens: Tensor) -> Tensor:
        """T's output [B, N], computed in float32: it decides by comparing, and costs little."""
        with self._attention():
            probabilities: Tensor = functional_call(self.masker, point["masker"], (tokens,))
        return probabilities

    def _ask(self, point: Point, question: Callable[..., Tensor], *arguments: Any) -> Tensor:
        parameters = {f"model.{name}": value for name, value in point["mae"].items()}
        answer: Tensor = functional_call(self._asked, parameters, (question, *arguments))
        return answer

    @contextmanager
    def _passes(self, images: Tensor) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"))
            stack.enter_context(self._attention())
            yield

    def _attention(self) -> AbstractContextManager[None]:
        return sdpa_kernel(SDPBackend.MATH) if self.settings.hypergradient == "exact" else nullcontext()


class _Asked(nn.Module):
    """The autoencoder with any of its functions as ``forward``, the only method that ``functional_call`` calls."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, question: Callable[..., Tensor], *arguments: Any) -> Tensor:
        return question(self.model, *arguments)
