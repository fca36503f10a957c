"""A blind strategy and a learned one as a contributor would add them: see ``test_new_masks``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae.distributed import World
from mae.mask_learners.learner import Look
from mae.masks.masking import Draw, Masking, mask_from_priorities
from mae.masks.strategies import Strategy
from mae.models.mask import Mask
from mae.models.vit import MaskedAutoencoder

ROWS = {
    "toy-stripes": Strategy("toy-stripes", f"{__name__}:stripes", needs=("images",), words="{epochs} epochs"),
    "toy-bright": Strategy("toy-bright", __name__, learned=True, needs=("images",), options=("mask_ratio",)),
}


def stripes(masking: Masking, draw: Draw) -> Tensor:
    """Every other column first."""
    rows, columns = draw.grid
    return draw.uniform + (torch.arange(columns) % 2).repeat(rows)


@dataclass(frozen=True)
class BrightSettings:
    """Nothing to set but a share."""

    share: float


class Bright:
    """Hides the brightest patches, and learns how bright images are on the mean."""

    name = "toy-bright"
    needs_saliency = needs_errors = reads_model = False
    network = None

    def __init__(self, settings: BrightSettings, patch_size: int) -> None:
        self.settings, self.patch_size = settings, patch_size
        self.loss, self.mean, self.world = torch.zeros(()), torch.zeros(()), World()

    def masks(self, look: Look) -> Mask:
        """Also learns."""
        self.mean = 0.9 * self.mean + 0.1 * look.images.mean()
        return self.draw(look)

    def draw(self, look: Look) -> Mask:
        """The brightest of all."""
        brightness = torch.nn.functional.avg_pool2d(look.images.mean(1), self.patch_size).flatten(1)
        return mask_from_priorities(brightness, look.mask_ratio)

    def hear(self, look: Look, decoded: Tensor, errors: Tensor) -> None:
        """Not asked for."""

    def gather(self) -> None:
        """One process."""

    def apply(self, rate: float, stop: Tensor) -> None:
        """No step of its own."""

    def figures(self) -> dict[str, Tensor]:
        """The mean."""
        return {"toy_mean": self.mean}

    def state(self) -> dict[str, Any]:
        """The mean."""
        return {"mean": self.mean}

    def load_state(self, state: dict[str, Any]) -> None:
        """Undoes it."""
        self.mean = state["mean"]

    def save(self, folder: Path) -> None:
        """Of no use later."""


def settings_from(asked: Mapping[str, Any]) -> BrightSettings:
    """From an option that there is already."""
    return BrightSettings(asked["mask_ratio"] or 0.75)


def new_learner(asked: Mapping[str, Any], model: MaskedAutoencoder, device: torch.device) -> Bright:
    """For the model's patches."""
    return Bright(settings_from(asked), model.patch_size)
