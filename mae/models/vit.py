"""The masked autoencoder: a ViT that sees the visible patches, and a small one that fills in the hidden ones.

Written from He et al. 2021, "Masked Autoencoders Are Scalable Vision Learners" (arXiv 2111.06377). Parameters carry the
names of the published checkpoints, so those load as they are. Any image whose sides are multiples of the patch size is
allowed, square or not. ``encode`` sees every patch and draws no random numbers; masks come from outside, and nothing
here waits for the device. Calling a model gives the loss and computes what the loss depends on alone; ``predict`` is
the plain formulation, with a prediction for every patch.

Shapes: B images of H×W pixels, N = H/p · W/p patches in row-major order, K of them visible, M hidden, D the encoder's
width, C class tokens, usually one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from timm.models.vision_transformer import PatchEmbed
from torch import Tensor, nn

from mae.models.blocks import Block
from mae.models.linear import Linear, linear
from mae.models.mask import Mask
from mae.models.sizes import SIZES, decoder_heads
from mae.models.tokens import rows_of, sincos_positions, take

_VARIANCE_FLOOR = 1e-6
_MOST_CLASS_TOKENS = 1024


class Output(NamedTuple):
    """A loss, and the prediction it is of."""

    loss: Tensor
    """float32 scalar: mean squared error over the hidden patches."""
    prediction: Tensor
    """[B, N, p·p·3] for every patch, in units of the target (normalised per patch with ``norm_pix``)."""


_CARD = """---
{{ card_data }}
---

# Masked autoencoder

A ViT pretrained as a masked autoencoder (He et al. 2021, arXiv 2111.06377). It opens with saliency-mae:

```python
from mae.models.vit import MaskedAutoencoder

model = MaskedAutoencoder.from_pretrained("{{ place | default("user/name", true) }}")
features = model.features(images)  # [B, D] of [B, 3, H, W], normalised by ImageNet's mean and deviation
```

{{ facts | default("", true) }}
"""


class MaskedAutoencoder(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="saliency-mae",
    tags=["masked-autoencoder", "vision-transformer"],
    pipeline_tag="image-feature-extraction",
    model_card_template=_CARD,
):
    """A masked autoencoder for images of one size.

    ``save_pretrained`` and ``push_to_hub`` write a model card; ``model_card_kwargs={"place": …, "facts": …}`` fills in
    where it will lie and what is to be said of it, in Markdown.

    ``image_size`` is a side or (height, width), in pixels and multiples of ``patch_size``; ``norm_pix`` normalises each
    target patch by its own mean and deviation; ``class_tokens`` stand before the patches in encoder and decoder, more
    than one as in Pixio (Yang et al. 2025, arXiv 2512.15715). Anything that does not divide is a ValueError.

    A subclass for something else than images overrides ``grid_of``, ``numbers_per_patch`` and the embedding, from which
    the rest is built.
    """

    decoder_bias = True
    """Whether the layer between encoder and decoder has a bias."""

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        mlp_ratio: float = 4.0,
        norm_pix: bool = True,
        channels: int = 3,
        class_tokens: int = 1,
    ) -> None:
        super().__init__()
        if not 0 <= class_tokens <= _MOST_CLASS_TOKENS:
            raise ValueError(f"--class-tokens is {class_tokens}; it must be at most {_MOST_CLASS_TOKENS}")
        height, columns = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if min(height, columns) < patch_size or height % patch_size or columns % patch_size:
            size = f"{height}×{columns}"
            raise ValueError(f"--image-size {size} must be a multiple of --patch-size {patch_size} in both directions")
        for part, dim, count in (("encoder", width, heads), ("decoder", decoder_width, decoder_heads)):
            if dim % 4 or dim % count:
                raise ValueError(f"the {part}'s width {dim} must be a multiple of 4 and of its {count} heads")
        self.image_size = (height, columns)
        self.patch_size = patch_size
        self.norm_pix = norm_pix
        self.channels = channels
        self.class_tokens = class_tokens
        """How many tokens stand before the patches; a video model may have none."""
        self.grid = self.grid_of(self.image_size)
        """Rows and columns of patches; a video's has its time slots before them."""
        norm = partial(nn.LayerNorm, eps=1e-6)
        block = partial(Block, mlp_ratio=mlp_ratio)

        self.patch_embed = self._new_embedding(width)
        self.cls_token = nn.Parameter(torch.zeros(1, class_tokens, width)) if class_tokens else None
        # Positions are fixed, yet parameters: the published checkpoints hold them.
        self.pos_embed = nn.Parameter(self._fixed_positions(self.grid, width), requires_grad=False)
        self.blocks = nn.ModuleList([block(width, heads) for _ in range(depth)])
        self.norm = norm(width)

        self.decoder_embed = Linear(width, decoder_width, bias=self.decoder_bias)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_pos_embed = nn.Parameter(self._fixed_positions(self.grid, decoder_width), requires_grad=False)
        self.decoder_blocks = nn.ModuleList([block(decoder_width, decoder_heads) for _ in range(decoder_depth)])
        self.decoder_norm = norm(decoder_width)
        self.decoder_pred = Linear(decoder_width, self.numbers_per_patch)
        self._other_positions: dict[tuple[tuple[int, ...], torch.device], tuple[Tensor, Tensor]] = {}
        self._initialise()

    @classmethod
    def from_size(
        cls,
        name: str,
        image_size: int | Sequence[int] = 224,
        patch_size: int | None = None,
        norm_pix: bool = True,
        *,
        decoder_width: int | None = None,
        decoder_depth: int | None = None,
        class_tokens: int = 1,
    ) -> Self:
        """A model of one of SIZES; what is not given is the size's own.

        A decoder of another width has heads of the size's width, and as many of them as that takes.
        """
        if name not in SIZES:
            raise ValueError(f"--model {name!r} is not one of: {', '.join(SIZES)}")
        size = SIZES[name]
        width = size.decoder_width if decoder_width is None else decoder_width
        depth = size.decoder_depth if decoder_depth is None else decoder_depth
        if depth < 1:
            raise ValueError(f"--decoder-depth is {depth}; it must be at least 1")
        heads = decoder_heads(size, width)
        dims = size._replace(decoder_width=width, decoder_depth=depth, decoder_heads=heads)._asdict()
        own_patch_size = dims.pop("patch_size")
        dims |= {"norm_pix": norm_pix, "class_tokens": class_tokens}
        return cls(image_size=image_size, patch_size=patch_size or own_patch_size, **dims)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """A saved model, from a folder or the Hub, in evaluation mode.

        Options are the mixin's. A weight that is missing is an error unless ``strict=False``: the mixin would leave it
        random and say nothing.
        """
        options.setdefault("strict", True)
        return super().from_pretrained(pretrained_model_name_or_path, **options)

    def grid_of(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The patch grid of images of a size (height, width), in pixels."""
        return size[0] // self.patch_size, size[1] // self.patch_size

    @property
    def numbers_per_patch(self) -> int:
        """How many numbers a patch holds, p·p·C."""
        return self.patch_size**2 * self.channels

    def positions(self, grid: tuple[int, ...] | None = None) -> tuple[Tensor, Tensor]:
        """The encoder's and the decoder's positions, [1, C+N, D] and [1, C+N, decoder width], on a grid of patches.

        Its own grid (None) has the stored ones. Another one has those of the places where its patches' centres lie on
        the model's own, so that what is in one place of an image has one position; they are computed once.
        """
        if grid is None or grid == self.grid:
            return self.pos_embed, self.decoder_pos_embed
        key = (grid, self.pos_embed.device)
        if key not in self._other_positions:
            own = (self.pos_embed, self.decoder_pos_embed)
            encoder, decoder = (self._fixed_positions(grid, table.shape[-1]).to(key[1]) for table in own)
            self._other_positions[key] = encoder, decoder
        return self._other_positions[key]

    def patchify(self, images: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """Images [B, C, H, W] as patches [B, N, p·p·C]: pixels row by row, the channels of a pixel side by side."""
        self._check_images(images, grid)
        (rows, columns), p = grid or self.grid, self.patch_size
        cells = images.reshape(images.shape[0], self.channels, rows, p, columns, p)  # [B, C, h, p, w, p]
        return cells.permute(0, 2, 4, 3, 5, 1).reshape(images.shape[0], rows * columns, p * p * self.channels)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Patches [B, N, p·p·C] as images [B, C, H, W]; undoes ``patchify``."""
        (rows, columns), p = self.grid, self.patch_size
        cells = patches.reshape(patches.shape[0], rows, columns, p, p, self.channels)  # [B, h, w, p, p, C]
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(patches.shape[0], self.channels, *self.image_size)

    def encode(self, images: Tensor) -> Tensor:
        """Tokens [B, C+N, D] of images [B, C, H, W] with nothing hidden: the class tokens, then every patch."""
        return self.encode_embedded(self.embed_patches(self.patchify(images)))

    def features(self, images: Tensor, pool: str = "mean") -> Tensor:
        """One vector per image, [B, D]: the ``mean`` of the patch tokens or of the class tokens (``cls``)."""
        return self.pooled(self.encode(images), pool)

    def pooled(self, tokens: Tensor, pool: str = "mean") -> Tensor:
        """The vectors [B, D] of :meth:`features` from tokens [B, C+K, D] of the encoder, C of them class tokens."""
        pools = ("mean", "cls") if self.class_tokens else ("mean",)
        if pool not in pools:
            raise ValueError(f"pool {pool!r} is not one of: {', '.join(pools)}")
        return (tokens[:, self.class_tokens :] if pool == "mean" else tokens[:, : self.class_tokens]).mean(1)

    def embed(self, images: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """Patch embeddings [B, N, D] of images [B, C, H, W] of any size in patches, without positions."""
        height, width = images.shape[-2:]
        return self.embed_patches(self.patchify(images, grid or self.grid_of((height, width))))

    def encode_visible(self, images: Tensor, ids_keep: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """Tokens [B, C+K, D] of the patches ``ids_keep`` [B, K] alone, in that order, after the class tokens."""
        return self._encode_visible(self.patchify(images, grid), ids_keep, grid)

    def embed_patches(self, patches: Tensor) -> Tensor:
        """Embeddings [..., D] of patches [..., p·p·C], without positions: what ``patch_embed`` gives."""
        projection = self.patch_embed.proj
        return linear(patches, projection.weight.movedim(1, -1).flatten(1), projection.bias)

    def encode_embedded(
        self, embedded: Tensor, ids_keep: Tensor | None = None, grid: tuple[int, ...] | None = None
    ) -> Tensor:
        """Tokens [B, C+K, D] of the embeddings [B, K, D] of the patches ``ids_keep`` [B, K], or of all of them."""
        first, positions = self.class_tokens, self.positions(grid)[0]
        return self._encode(
            embedded + (positions[:, first:] if ids_keep is None else rows_of(positions[0], ids_keep + first))
        )

    def decode(self, latent: Tensor, ids_restore: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """Predictions [B, N, p·p·C] from tokens [B, C+K, D] and the place of each patch, ``ids_restore`` [B, N]."""
        x = self.decoder_embed(latent)
        first, missing = self.class_tokens, ids_restore.shape[1] + self.class_tokens - x.shape[1]
        blanks = self.mask_token.expand(x.shape[0], missing, -1)  # [B, N-K, decoder width]
        patches = take(torch.cat([x[:, first:], blanks], dim=1), ids_restore)  # [B, N, decoder width], in image order
        x = torch.cat([x[:, :first], patches], dim=1) + self.positions(grid)[1]
        for block in self.decoder_blocks:
            x = block(x)
        prediction: Tensor = self.decoder_pred(self.decoder_norm(x))[:, first:]
        return prediction

    def forward(
        self,
        images: Tensor,
        mask: Mask,
        decoded: Tensor | None = None,
        grid: tuple[int, ...] | None = None,
        *,
        each: bool = False,
        visible: bool = False,
    ) -> Tensor:
        """The mean squared error on the hidden patches of images [B, C, H, W], float32 [].

        With ``decoded``, int64 [B, M'], only those of the hidden patches enter the decoder, and the mean is over them.
        Images of another size than the model's own need their ``grid``, rows and columns of patches. ``each`` gives
        every one of these patches' error, [B, M'], in the order of ``decoded`` or of the mask's ``ids_hidden``.
        ``visible`` adds the visible patches, in the order of ``ids_keep``, before them: [B, K+M'].
        """
        hidden = mask.ids_hidden if decoded is None else decoded
        patches = self.patchify(images, grid)
        latent = self._encode_visible(patches, mask.ids_keep, grid)
        prediction = self._fill_in(latent, mask.ids_keep, hidden, grid, visible=visible)
        target = self._target(take(patches, torch.cat([mask.ids_keep, hidden], 1) if visible else hidden))
        error = F.mse_loss(prediction.float(), target, reduction="none" if each else "mean")
        return error.mean(-1) if each else error

    def predict(self, images: Tensor, mask: Mask, grid: tuple[int, ...] | None = None) -> Output:
        """The loss on the hidden patches of images [B, C, H, W], and the prediction of all patches."""
        prediction = self.decode(self.encode_visible(images, mask.ids_keep, grid), mask.ids_restore, grid)
        error = (prediction.float() - self._target(self.patchify(images, grid))).square().mean(-1)  # [B, N]
        hidden = mask.hidden.float()
        return Output((error * hidden).sum() / hidden.sum(), prediction)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, mask: Mask) -> Tensor:
        """Images [B, C, H, W] whose hidden patches are predicted; visible pixels are untouched.

        For looking at. With ``norm_pix`` a prediction has no brightness or contrast of its own, so each hidden patch
        is given those of the true one: the result knows more than the model did.
        """
        patches = self.patchify(images)
        prediction = self.decode(self.encode_visible(images, mask.ids_keep), mask.ids_restore)
        prediction = self._as_pixels(prediction.float(), patches.float())
        return self.unpatchify(torch.where(mask.hidden[:, :, None], prediction.to(patches.dtype), patches))

    def _new_embedding(self, width: int) -> Any:
        """Patches to tokens [B, N, width]; its projection ``proj`` is a convolution."""
        return PatchEmbed(self.image_size, self.patch_size, self.channels, width)

    def _encode_visible(self, patches: Tensor, ids_keep: Tensor, grid: tuple[int, ...] | None) -> Tensor:
        """Tokens [B, C+K, D] of patches [B, N, p·p·C]; the hidden ones are not even embedded."""
        return self.encode_embedded(self.embed_patches(take(patches, ids_keep)), ids_keep, grid)

    def _fill_in(
        self,
        latent: Tensor,
        ids_keep: Tensor,
        hidden: Tensor,
        grid: tuple[int, ...] | None = None,
        *,
        visible: bool = False,
    ) -> Tensor:
        """Predictions [B, M', p·p·C] of the patches ``hidden`` [B, M'] alone; what ``decode`` has at these places.

        With ``visible``, of the patches ``ids_keep`` [B, K] before them.
        """
        count = hidden.shape[1]
        # Nothing in the decoder knows an order but the positions: the tokens stay as they stand, visible, then hidden.
        first = self.class_tokens
        before = torch.arange(first, device=hidden.device).expand(hidden.shape[0], -1)
        places = torch.cat([before, ids_keep + first, hidden + first], dim=1)  # [B, C+K+M']
        blanks = self.mask_token.expand(latent.shape[0], count, -1)
        x = torch.cat([self.decoder_embed(latent), blanks], dim=1) + rows_of(self.positions(grid)[1][0], places)
        *blocks, last = self.decoder_blocks
        for block in blocks:
            x = block(x)
        prediction: Tensor = self.decoder_pred(
            self.decoder_norm(last(x, skip=first if visible else x.shape[1] - count))
        )
        return prediction

    def _encode(self, patches: Tensor) -> Tensor:
        x = patches
        if self.cls_token is not None:
            first = self.cls_token + self.pos_embed[:, : self.class_tokens]
            x = torch.cat([first.expand(patches.shape[0], -1, -1), patches], dim=1)
        for block in self.blocks:
            x = block(x)
        tokens: Tensor = self.norm(x)
        return tokens

    def _target(self, patches: Tensor) -> Tensor:
        """What is to be predicted of patches [B, n, p·p·C], float32."""
        patches = patches.float()
        if not self.norm_pix:
            return patches
        # The fused kernel divides by the deviation of n values, the paper by that of n - 1: the floor and the factor
        # make one the other.
        count = patches.shape[-1]
        share = (count - 1) / count
        normed: Tensor = F.layer_norm(patches, (count,), eps=_VARIANCE_FLOOR * share)
        return normed * math.sqrt(share)

    def _as_pixels(self, prediction: Tensor, patches: Tensor) -> Tensor:
        """A prediction [B, N, p·p·C] in the units of ``patches``, whose brightness and contrast it is given."""
        if not self.norm_pix:
            return prediction
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        return prediction * (variance + _VARIANCE_FLOOR).sqrt() + mean

    def _fixed_positions(self, grid: tuple[int, ...], width: int) -> Tensor:
        """Positions [1, C+N, width] on a grid, counted in rows and columns of the model's own."""
        return F.pad(sincos_positions(grid, width, self.grid), (0, 0, self.class_tokens - 1, 0))

    def _check_images(self, images: Tensor, grid: tuple[int, ...] | None = None) -> None:
        rows, columns = grid or self.grid
        wanted = (self.channels, rows * self.patch_size, columns * self.patch_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != wanted:
            raise ValueError(f"images of shape {list(images.shape)} do not fit a model of {wanted} images")

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
                # The patch projection is a linear layer written as a convolution, and starts like one.
                nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
