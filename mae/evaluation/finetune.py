"""End-to-end fine-tuning as MAE does it: the recipe, and one optimiser step.

He et al. 2021 (arXiv 2111.06377, appendix A.1, table 9), with the values of the authors' PyTorch code
where they are not the paper's: AdamW (β 0.9, 0.999), weight decay 0.05, layer-wise decay of the learning rate (Clark et
al. 2020), warm-up and half a cosine, drop path, RandAugment (9, 0.5), mixup 0.8 or cutmix 1.0, label smoothing 0.1,
random erasing 0.25. What timm has of these is timm's. Random numbers of a step follow from (seed, step).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from timm.data import Mixup, create_transform
from timm.data.auto_augment import RandAugment
from timm.loss import SoftTargetCrossEntropy
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from mae.devices import copy_to
from mae.optimisation import learning_rate
from mae.precision import resolve_precision, rounded
from mae.randomness import seeded

_STRONGEST = 9.99
"""At magnitude 10, which the deviation of 0.5 around 9 reaches, timm posterises to 0 bits, which Pillow 13 refuses."""


@dataclass(frozen=True)
class FinetuneRecipe:
    """How to fine-tune; the defaults are those of the authors' code for ViT-B."""

    epochs: int = 100
    blr: float = 5e-4
    """Base rate: the peak is blr · images a step / 256."""
    layer_decay: float = 0.65
    """The rate of each block is this times that of the one after it."""
    drop_path: float = 0.1
    """Of the last block; linear from 0 at the first."""
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0

    @property
    def warmup_epochs(self) -> float:
        """The recipe's 5, or a tenth of a shorter training."""
        return min(5.0, self.epochs / 10)


BASE = FinetuneRecipe()
LARGE = FinetuneRecipe(epochs=50, blr=1e-3, layer_decay=0.75, drop_path=0.2)
HUGE = replace(LARGE, drop_path=0.3)


def recipe_for(depth: int) -> FinetuneRecipe:
    """The recipe for so many blocks: ViT-B's below the 24 of ViT-L, ViT-H's from 32 on."""
    return BASE if depth < 24 else LARGE if depth < 32 else HUGE


def depth_of(network: nn.Module) -> int:
    """How many blocks a network of timm has; 0 where it has no row of them."""
    blocks = getattr(network, "blocks", None)
    return len(blocks) if isinstance(blocks, (nn.Sequential, nn.ModuleList)) else 0


def training_transform(size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> Any:
    """Augmentation of one RGB picture → float32 [3, H, W]: crop, flip, RandAugment, normalised, random erasing."""
    transform = create_transform(
        (3, *size),
        is_training=True,
        color_jitter=None,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
        mean=tuple(mean),
        std=tuple(std),
    )
    for step in transform.transforms:
        for operation in step.ops if isinstance(step, RandAugment) else ():
            operation.magnitude_max = _STRONGEST
    return transform


class FineTuning:
    """A network with a head in training: one ``update`` is one optimiser step; ``step`` counts those done."""

    def __init__(
        self,
        network: nn.Module,
        recipe: FinetuneRecipe,
        classes: int,
        *,
        batch_size: int,
        steps_per_epoch: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        precision: str = "auto",
    ) -> None:
        self.device, self.recipe, self.seed, self.step = torch.device(device), recipe, seed, 0
        self.network = network.to(self.device)
        self.total_steps = recipe.epochs * steps_per_epoch
        self.warmup_steps = recipe.warmup_epochs * steps_per_epoch
        self.peak = recipe.blr * batch_size / 256
        groups = parameter_groups(network, recipe)
        fused = self.device.type in ("cuda", "cpu")
        self.optimizer = torch.optim.AdamW(groups, lr=self.peak, betas=(0.9, 0.999), fused=fused)
        self.precision = resolve_precision(precision, self.device)
        self._mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=classes)
        self._loss = SoftTargetCrossEntropy()

    def update(self, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """One step on batches of augmented images float32 [B, 3, H, W], or clips [B, 3, T, H, W], and labels int64 [B],
        each B even.

        Returns the mean loss of their images, float32, without waiting for it.
        """
        rate = learning_rate(self.step, self.total_steps, self.warmup_steps, self.peak)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        count = sum(len(images) for images, _ in batches)
        self.optimizer.zero_grad(set_to_none=True)
        self.network.train()
        total = torch.zeros((), device=self.device)
        with seeded(self.seed, self.step):
            for images, labels in batches:
                images, targets = self._mixed(copy_to(images, self.device), copy_to(labels, self.device))
                with rounded(self.precision, self.device):
                    logits = self.network(images)
                loss = self._loss(logits.float(), targets) * (len(images) / count)
                with rounded("fp32", self.device):
                    loss.backward()
                total += loss.detach()
        self.optimizer.step()
        self.step += 1
        return total

    def _mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images or clips mixed in pairs, and the share of each class in them; a clip's frames are mixed alike."""
        mixed, targets = self._mix(images.flatten(1, -3), labels)
        return mixed.view_as(images), targets

    @torch.no_grad()
    def scores(self, images: Tensor) -> Tensor:
        """What the head says of normalised images or clips float32 [B, 3, …], float32 [B, classes], on their device."""
        self.network.eval()
        with rounded(self.precision, self.device):
            logits: Tensor = self.network(images)
        return logits.float()

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on; tensors and plain values only."""
        return {"step": self.step, "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Undoes :meth:`state`."""
        self.step = int(state["step"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def parameter_groups(network: nn.Module, recipe: FinetuneRecipe) -> list[dict[str, Any]]:
    """AdamW's groups, each with its ``lr_scale``: layer decay to the power of the layers above it.

    The head and the last norm are layer 0 from above, then the blocks, and last the patch projection with class token
    and positions. Norms, biases, tokens and positions do not decay.
    """
    undecayed = getattr(network, "no_weight_decay", tuple)
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        network, recipe.weight_decay, no_weight_decay_list=undecayed(), layer_decay=recipe.layer_decay
    )
    return groups
