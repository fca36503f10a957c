"""Masks that hide what the class token attends to: AttMask (Kakogeorgiou et al. 2022, arXiv 2203.12719).

A teacher, the moving average of the encoder, sees the whole image; the patches are ranked by the attention that the
class token pays them in its last block, the mean over the heads. The most attended are hidden; as a hint, some of the
very most attended may stay visible. In AttMask the class token is trained to recognise the image. A masked
autoencoder's has no loss of its own: it learns what it must know to be of use to the patches that look at it, so its
attention is another one than in the paper.

Shapes: B images, N patches in row-major order, D the encoder's width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from mae.distributed import World
from mae.mask_learners.learner import Look
from mae.mask_learners.momentum import MomentumEncoder
from mae.masks.masking import forced_priorities, mask_from_priorities, top_ranks
from mae.models.blocks import Block
from mae.models.linear import linear
from mae.models.mask import Mask, hidden_count
from mae.models.vit import MaskedAutoencoder


@dataclass(frozen=True)
class AttentionSettings:
    """Whom to show, and how fast the teacher follows. ValueError names the option that is wrong."""

    shown: float = 0.0
    """s in 0..1: of the round(s·N) most attended patches round(s·M) are drawn to stay visible, M the number hidden;
    the paper's hints have s = 0.1. At 0 nothing but the most attended is hidden."""
    momentum: float = 0.996
    """How much of the teacher is left after the first step, 0..1."""
    momentum_end: float = 1.0
    """As much after the last one; between the two it follows half a cosine, and is constant if they are equal."""

    def __post_init__(self) -> None:
        if not 0 <= self.shown < 1:
            raise ValueError(f"--attention-shown is {self.shown:g}; it must be at least 0 and below 1")
        for name in ("momentum", "momentum_end"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"--attention-{name.replace('_', '-')} is {value:g}; it must lie between 0 and 1")

    def momentum_at(self, progress: float) -> float:
        """The momentum at training ``progress`` 0..1."""
        return self.momentum_end - (self.momentum_end - self.momentum) * (1 + math.cos(math.pi * progress)) / 2


class Teacher(MomentumEncoder):
    """A copy of a model's encoder that says where its class token looks. ValueError for a model without one."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        if model.cls_token is None:
            raise ValueError("--masking attention reads the class token's attention, and the model has no class token")
        super().__init__(*deepcopy((model.patch_embed.proj, model.cls_token, list(model.blocks))))

    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        """The class token's attention to each patch in the last block, float32 [B, N], the mean of the heads.

        ``patches`` [B, N, p·p·C] as ``MaskedAutoencoder.patchify`` has them, ``positions`` [1, 1+N, D]. A head's
        attention to the patches and to the class token itself is 1 in all. Of several class tokens it is their mean.
        """
        x = self.embed(patches, positions)
        first = x.shape[1] - patches.shape[1]
        *blocks, last = (cast(Block, block) for block in self.blocks)
        for block in blocks:
            x = block(x)
        x, attention = last.norm1(x), last.attn
        ask, key, _ = zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True)
        heads = attention.num_heads
        shape = (len(x), -1, heads, x.shape[2] // heads)
        query = linear(x[:, :first], *ask).reshape(shape).transpose(1, 2).float()  # [B, heads, 1, D / heads]
        keys = linear(x, *key).reshape(shape).transpose(1, 2).float()  # [B, heads, 1+N, D / heads]
        with torch.autocast(x.device.type, enabled=False):  # in half precision many patches would be equal
            scores: Tensor = (query * shape[-1] ** -0.5) @ keys.transpose(2, 3)
            return scores.softmax(3).mean(1).mean(1)[:, first:]


def attention_priorities(attention: Tensor, hidden: int, shown: float, noise: Tensor) -> Tensor:
    """Priorities [B, N] that hide the most attended patches, but for hints, by ``attention`` [B, N].

    ``noise`` [3, B, N] in [0, 1) orders what is equal, breaks ties and draws the hints. See AttentionSettings.shown;
    no more are shown than patches can be visible.
    """
    uniform, ties, pick = noise
    patches = attention.shape[1]
    ranks = top_ranks(attention, ties)
    count = min(round(shown * hidden), round(shown * patches), patches - hidden)
    most = ranks < round(shown * patches)
    hints = top_ranks(torch.where(most, pick, -1.0), ties) < count
    return forced_priorities(ranks, hidden + count, uniform) - 2 * hints


class AttentionMasks:
    """Masks by a teacher's attention: a :class:`mae.mask_learners.learner.MaskLearner` of a ``model`` on its device."""

    needs_saliency = False
    importance = None
    needs_errors = False
    reads_model = True
    network = None

    def __init__(self, model: MaskedAutoencoder, settings: AttentionSettings) -> None:
        self.settings = settings
        self.name = "attention-hint" if settings.shown > 0 else "attention-high"
        self.teacher = Teacher(model).eval()
        self.world = World()
        self._model = model
        self._momentum = settings.momentum
        self.loss = model.mask_token.new_zeros(())
        self._hidden = self._figure = self.loss

    def masks(self, look: Look) -> Mask:
        """The masks of a batch in training."""
        self._momentum = self.settings.momentum_at(look.progress)
        attention, mask = self._attend(look)
        there = (attention * mask.hidden).sum(1) / attention.sum(1)
        self._hidden = self._hidden + look.share * there.mean()
        return mask

    def draw(self, look: Look) -> Mask:
        """The masks of a batch, of which nothing is kept."""
        return self._attend(look)[1]

    @torch.no_grad()
    def _attend(self, look: Look) -> tuple[Tensor, Mask]:
        rows, columns = look.grid
        grid = (rows, columns)
        noise = look.noise(3, math.prod(look.mask_grid))
        attention = self.teacher(self._model.patchify(look.images, grid), self._model.positions(grid)[0])
        scores = look.on_mask_grid(attention)
        hidden = hidden_count(scores.shape[1], look.mask_ratio)
        priorities = attention_priorities(scores, hidden, self.settings.shown, noise)
        return attention, look.to_patches(mask_from_priorities(priorities, look.mask_ratio))

    def hear(self, look: Look, decoded: Tensor, errors: Tensor) -> None:
        """The teacher does not learn from errors."""

    def gather(self) -> None:
        """The figure of all processes; the teachers are the same in all."""
        self._hidden = self.world.sum(self._hidden)

    def apply(self, rate: float, stop: Tensor) -> None:
        """The teacher moves towards the encoder after its step, whatever the ``rate``; not where ``stop`` is 1."""
        self.teacher.follow(self._model, self._momentum, stop)
        self._figure, self._hidden = self._hidden, torch.zeros_like(self.loss)

    def figures(self) -> dict[str, Tensor]:
        """The share of the attention to patches that fell on hidden ones at the last step."""
        return {"attention_hidden": self._figure}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold: the teacher."""
        return {"teacher": self.teacher.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Undoes :meth:`state`."""
        self.teacher.load_state_dict(state["teacher"])

    def save(self, folder: Path) -> None:
        """The teacher is of no use after the training."""


def settings_from(asked: Mapping[str, Any]) -> AttentionSettings:
    """The settings of masks by attention; without ``attention_shown`` there are no hints. ValueError."""
    shown = asked.get("attention_shown")
    if shown == 0:
        raise ValueError("--attention-shown 0 shows no hints: that is --masking attention-high")
    return AttentionSettings(shown or 0.0, asked["attention_momentum"], asked["attention_momentum_end"])


def new_learner(asked: Mapping[str, Any], model: MaskedAutoencoder, device: torch.device) -> AttentionMasks:
    """Masks by the attention of a teacher that starts as the model's encoder."""
    return AttentionMasks(model.to(device), settings_from(asked))
