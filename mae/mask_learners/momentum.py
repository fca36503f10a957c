"""A momentum encoder: a copy of the first blocks of a model's encoder that follows it as a moving average.

It learns nothing by itself, and no gradient passes through it. A mask learner reads its tokens, which change more
slowly than those of the encoder in training (He et al. 2020, arXiv 1911.05722).

Shapes: B images, N patches, D the encoder's width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from mae.models.blocks import Block
from mae.models.linear import linear
from mae.models.vit import MaskedAutoencoder


class MomentumEncoder(nn.Module):
    """The patch projection, the class tokens and some first blocks of a model, with the names that they have there."""

    def __init__(self, projection: nn.Module, class_tokens: nn.Parameter | None, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.cls_token = class_tokens
        self.patch_embed = nn.ModuleDict({"proj": projection})
        self.blocks = nn.ModuleList(blocks)
        self.requires_grad_(False)

    @classmethod
    def of(cls, model: MaskedAutoencoder, blocks: int | None = None) -> Self:
        """A copy of a model's encoder, or of its first ``blocks`` blocks; where it starts to follow the model."""
        parts = (model.patch_embed.proj, model.cls_token, list(model.blocks)[:blocks])
        return cls(*deepcopy(parts))

    @classmethod
    def with_shapes(cls, shapes: Mapping[str, Any]) -> Self:
        """One of random weights that has the ``shapes`` of another. KeyError, TypeError, ValueError."""
        kernel: Any = tuple(shapes["kernel"])
        width, convolution = shapes["width"], {2: nn.Conv2d, 3: nn.Conv3d}[len(kernel)]
        count = shapes["class_tokens"]
        token = nn.Parameter(torch.zeros(1, count, width)) if count else None
        blocks = [Block(width, shapes["heads"], shapes["mlp_ratio"]) for _ in range(shapes["blocks"])]
        return cls(convolution(shapes["channels"], width, kernel, kernel), token, blocks)

    def shapes(self) -> dict[str, Any]:
        """Plain values from which :meth:`with_shapes` makes one of the same dimensions."""
        projection = cast(nn.Conv2d, self.patch_embed["proj"])
        first = cast(Block, self.blocks[0])
        width = projection.out_channels
        return {
            "kernel": list(projection.kernel_size),
            "channels": projection.in_channels,
            "width": width,
            "heads": first.attn.num_heads,
            "mlp_ratio": first.mlp.fc1.out_features / width,
            "blocks": len(self.blocks),
            "class_tokens": 0 if self.cls_token is None else self.cls_token.shape[1],
        }

    def embed(self, patches: Tensor, positions: Tensor) -> Tensor:
        """Tokens [B, c+n, D] that enter the first block: c class tokens, of which there may be none, then the patches.

        ``patches`` [B, n, p·p·C] as ``MaskedAutoencoder.patchify`` has them, all or some; ``positions`` [1, c+n, D].
        """
        projection = cast(nn.Conv2d, self.patch_embed["proj"])
        tokens = linear(patches, projection.weight.movedim(1, -1).flatten(1), projection.bias)
        if self.cls_token is None:
            return tokens + positions
        count = self.cls_token.shape[1]
        first = (self.cls_token + positions[:, :count]).expand(tokens.shape[0], -1, -1)
        return torch.cat([first, tokens + positions[:, count:]], dim=1)

    @torch.no_grad()
    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        """The patches' tokens [B, n, D] after the last block here; for what it takes see :meth:`embed`."""
        x = self.embed(patches, positions)
        for block in self.blocks:
            x = block(x)
        return x[:, x.shape[1] - patches.shape[1] :]

    def follow(self, model: MaskedAutoencoder, momentum: float, stop: Tensor) -> None:
        """Move towards the ``model``: of the distance the share ``momentum`` is left; all of it where ``stop`` is 1.

        ``stop`` is float32 [] on the device; nothing waits for it.
        """
        follow(self, model, momentum, stop)


@torch.no_grad()
def follow(copy: nn.Module, model: nn.Module, momentum: float, stop: Tensor) -> None:
    """Each parameter of the ``copy`` moves towards that of its name in the ``model``, see MomentumEncoder.follow."""
    own = dict(copy.named_parameters())
    apart = torch._foreach_sub([model.get_parameter(name) for name in own], list(own.values()))
    torch._foreach_mul_(apart, (1 - stop) * (1 - momentum))
    torch._foreach_add_(list(own.values()), apart)
