"""MLO-MAE (arXiv 2402.18128): what its three levels minimise. Written from the paper.

    1  ``mae``     E, D ← min  Σ_j w_j e_j(E, D) / M       training split; T chooses what is hidden, w is its weight
    2  ``head``    C ← min  cross-entropy of C on the frozen encoder's features        training split, with labels
    3  ``masker``  T ← min  cross-entropy of C*(E*(T)) on the features of E*(T)        the separate mask split

e_j is the mean squared error of patch j, M the number of hidden patches. T reads the encoder's patch embeddings behind
a stop-gradient, so that level 1 cannot lower its loss by misleading T. ``mae.multilevel.mlo_training`` runs the levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from mae.mask_learners.gate import Gate
from mae.models.mask import Mask
from mae.models.vit import MaskedAutoencoder
from mae.multilevel.draws import Choice, Drawn, draw_masks, loss_weights
from mae.multilevel.masker import GridMasker, MixMasker, MlpMasker
from mae.multilevel.nested import Point
from mae.multilevel.settings import MultilevelSettings

LEVELS = ("mae", "head", "masker")


class Inputs(NamedTuple):
    """A batch as the losses take it: normalised images [B, 3, H, W], labels [B] or noise for the masks.

    ``noise`` is [B, as many numbers as :attr:`Losses.noises` says], ``saliency`` [B, N].
    """

    images: Tensor
    labels: Tensor | None = None
    noise: Tensor | None = None
    saliency: Tensor | None = None
    share: float = 1.0
    """What a loss is multiplied by: 1, but where processes have unequal parts of a batch."""

    @property
    def labels_here(self) -> Tensor:
        """The labels, −1 where the batch is a blank that counts nothing."""
        assert self.labels is not None
        return self.labels if self.share else torch.full_like(self.labels, -1)


class Given(NamedTuple):
    """What level 1 takes as given, though it came from E and T: T's input [B, N, D] and the mask it chose."""

    tokens: Tensor
    drawn: Drawn


@dataclass
class Seen:
    """The features [B, D] of level 2's batch as they were when its loss was first asked for."""

    features: Tensor | None = None


def build_masker(settings: MultilevelSettings, model: MaskedAutoencoder, *, maps: bool = False) -> nn.Module:
    """T for a model; ``maps`` says whether its images have maps, which a mix reads.

    The gate is told the places of the patches, as the paper's MLP knows them.
    """
    width = model.pos_embed.shape[-1]
    if settings.masker == "mix":
        rows, columns = model.grid
        return MixMasker((rows, columns), maps=maps, share=settings.share)
    if settings.masker == "mlp":
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
        self.reader = masker if isinstance(masker, MixMasker) else None
        """T, where it reads features of its own in the place of the encoder's patch embeddings."""

    @property
    def noises(self) -> int:
        """How many random numbers the mask of an image takes."""
        patches = math.prod(self.model.grid)
        if self.reader is not None:
            return 2 * patches + 1 + self.reader.noises
        return patches if self.settings.share == 1 else 2 * patches + 1

    def choose(self, point: Point, inputs: Inputs) -> Given:
        """T's masks for a batch, with what it read; called without gradients."""
        assert inputs.noise is not None
        tokens = self.read(point, inputs)
        choice = self.say(point, tokens)
        drawn = draw_masks(choice, self.mask_ratio, inputs.noise, self.settings.exploration, self.settings.share)
        return Given(tokens, drawn)

    def read(self, point: Point, inputs: Inputs) -> Tensor:
        """What T reads of a batch, [B, N, D]."""
        if self.reader is not None:
            noise = None if inputs.noise is None else inputs.noise[:, -self.reader.noises :]
            return self.reader.read(self.model.patchify(inputs.images), inputs.saliency, noise)
        with self._passes(inputs.images):
            return self._ask(point, MaskedAutoencoder.embed, inputs.images).float()

    def say(self, point: Point, tokens: Tensor) -> Choice:
        """T's output, computed in float32: it decides by comparing, and costs little."""
        with self._attention():
            said = functional_call(self.masker, point["masker"], (tokens,))
        return said if isinstance(said, Choice) else Choice(said)

    def reconstruction(self, point: Point, inputs: Inputs, given: Given) -> Tensor:
        """Level 1."""
        mask = given.drawn.mask
        whole = self.settings.path == "straight-through"  # its derivative asks for the visible patches' errors as well
        with self._passes(inputs.images):
            question = patch_errors if whole else hidden_errors
            errors = self._ask(point, question, inputs.images, mask)
        choice = self.say(point, given.tokens)
        weights = loss_weights(choice, given.drawn, self.settings.path, self.settings.exploration)
        if not whole:
            weights = weights.gather(1, mask.ids_hidden)
        return inputs.share * (errors * weights).sum() / mask.hidden.sum()

    def features(self, point: Point, images: Tensor) -> Tensor:
        """What the head sees of images, [B, D]."""
        with self._passes(images):
            return self._ask(point, MaskedAutoencoder.features, images, self.settings.pool)

    def classification(self, point: Point, inputs: Inputs, seen: Seen | None) -> Tensor:
        """Levels 2 and 3, which differ in their data and in what is learned."""
        assert inputs.labels is not None
        features = self.features(point, inputs.images)
        if seen is not None and seen.features is None:
            seen.features = features.detach()
        with self._passes(inputs.images):
            logits = functional_call(self.head, point["head"], (features,))
        return inputs.share * F.cross_entropy(logits.float(), inputs.labels)

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
