"""Masks that follow from what the autoencoder sees or does: what a mask learner is told at a step, and what it gives.

At each batch of a step a learner gets the images before the autoencoder does, says whom to hide, and may hear each
hidden patch's error afterwards; once all batches are through, it takes its own step. Between the two flow detached
tensors alone. Random numbers come from the step's generator, by the places of the images in the whole batch, so that a
resumed run and one of several processes repeat an uninterrupted one of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mae.devices import copy_to
from mae.distributed import World
from mae.masks.granularity import block_grid, block_mask, block_means
from mae.masks.masking import Part, as_tubes
from mae.models.mask import Mask
from mae.models.vit import MaskedAutoencoder

Noise = Callable[[int, int], Tensor]
"""How many, of how many numbers each → further noises in [0, 1), [k, B, n], on the images' device."""


@dataclass(frozen=True)
class Look:
    """A batch as a learner sees it; B images here, of which there may be others in other processes."""

    images: Tensor
    """float32 [B, 3, H, W], or clips [B, 3, T, H, W], normalised."""
    grid: tuple[int, ...]
    mask_ratio: float
    noise: Noise
    saliency: Tensor | None = None
    """[B, N] ≥ 0 on the same views, where the learner needs it."""
    share: float = 1.0
    """Of the step's images, those that these are, 0..1; with 0 they count nothing, and others wait for this process."""
    batch_share: float = 1.0
    """Of the step's images, those that all processes have of this batch, 0..1."""
    progress: float = 0.0
    """Of the training, 0..1."""
    part: Part | None = None
    """Where these images stand in a batch that several processes share."""
    tubes: bool = True
    """Whether a video's masks are to be the same in every time slot."""
    granularity: int = 1
    """The side of the blocks of patches that are hidden or shown together: a learner scores patches, asks
    ``on_mask_grid`` for the scores to choose by, and gives back ``to_patches`` of its choice."""

    @property
    def mask_grid(self) -> tuple[int, ...]:
        """The grid on which a mask is chosen: of tubes, that of one time slot; that of the blocks."""
        return block_grid(self.still, self.granularity)

    @property
    def still(self) -> tuple[int, ...]:
        """The grid of one time slot where a video's masks are tubes, else the whole grid."""
        return self.grid[1:] if self.tubes and len(self.grid) == 3 else self.grid

    def on_mask_grid(self, scores: Tensor) -> Tensor:
        """Scores of patches, [B, N], on the grid on which a mask is chosen: the means over tubes and blocks."""
        if self.still != self.grid:
            scores = scores.view(len(scores), self.grid[0], -1).mean(1)
        return block_means(scores, self.still, self.granularity)

    def to_patches(self, mask: Mask) -> Mask:
        """A mask that was chosen on ``mask_grid`` as one of the patches, [B, N]."""
        mask = block_mask(mask, self.still, self.granularity)
        return as_tubes(mask, self.grid[0]) if self.still != self.grid else mask


class MaskLearner(Protocol):
    """Masks that learn beside the autoencoder. ``world`` is set before the first step."""

    name: str
    loss: Tensor
    """What this process has added up of the coming step's loss, a scalar on the device."""
    needs_saliency: bool
    """Whether it needs maps of its images."""
    needs_errors: bool
    """Whether it is to be told each decoded patch's error."""
    importance: Tensor | None
    """How important the patches of the batch are that it last made masks of, [B, N] in 0..1, without gradient; None
    where it does not say."""
    reads_model: bool
    """Whether it runs a part of the model outside of the model's own pass, which a split model does not allow."""
    settings: Any
    """A dataclass of plain values."""
    world: World

    @property
    def network(self) -> nn.Module | None:
        """What learns by gradients, which are looked at before each step; None where nothing does."""

    def masks(self, look: Look) -> Mask:
        """The masks of a batch in training, from whose images it may learn."""

    def hear(self, look: Look, decoded: Tensor, errors: Tensor) -> None:
        """The errors [B, M'] that the autoencoder made on the patches ``decoded``, int64 [B, M'], of this batch."""

    def draw(self, look: Look) -> Mask:
        """Masks of images without learning from them: for pictures."""

    def gather(self) -> None:
        """All batches of a step are through: make the gradients and the loss those of all processes."""

    def apply(self, rate: float, stop: Tensor) -> None:
        """Its own step; ``rate`` 0..1 is the schedule's share of the peak.

        Nothing may change where ``stop``, float32 [] on the device, is 1: the training was not finite.
        """

    def figures(self) -> dict[str, Tensor]:
        """Scalars of the step that was just applied, by name, for the log; on the device."""

    def state(self) -> dict[str, Any]:
        """What the next step depends on; tensors and plain values only."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Undoes :meth:`state`."""

    def save(self, folder: Path) -> None:
        """Puts what is of use after the training, if there is any, beside the model's weights."""


class LearnerModule(Protocol):
    """The module that the row of a learned strategy names; ``asked`` are the values of the row's options, by name."""

    def settings_from(self, asked: Mapping[str, Any]) -> Any:
        """The settings, a frozen dataclass of plain values. ValueError names the option that is wrong."""

    def new_learner(self, asked: Mapping[str, Any], model: MaskedAutoencoder, device: torch.device) -> MaskLearner:
        """The learner, untrained, for a model, on the device. ValueError for settings that do not fit.

        Not asked of a strategy that learns in levels of its own.
        """


def look_noise(generator: torch.Generator, count: int, device: torch.device, part: Part | None = None) -> Noise:
    """Noise for ``count`` images, a ``part`` of a batch; ``generator`` is the CPU's."""

    def noise(times: int, numbers: int) -> Tensor:
        drawn = torch.rand(times, part.size if part else count, numbers, generator=generator)
        return copy_to(drawn[:, part.rows] if part else drawn, device)

    return noise


def sum_gradients(parameters: Iterable[nn.Parameter], world: World) -> None:
    """Each parameter's gradient becomes the sum of all processes'; all have gradients of the same parameters."""
    if world.size == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    flat = world.sum(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, summed in zip(gradients, parts, strict=True):
        gradient.copy_(summed.view_as(gradient))
