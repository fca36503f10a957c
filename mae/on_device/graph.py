"""What runs on a device: pixels in, features out, in one graph that ``torch.export`` takes with any batch.

The graph normalises, chooses the patches that it encodes, and pools. The choice is a constant (the centre), or a top-k
and gathers: no boolean mask, no scatter, no operator of this package. Its features are those of
:class:`mae.evaluation.kept_encoder.KeptEncoder`.

Shapes: B images of H×W pixels, N patches on a grid of R rows and C columns, K of them kept, D the encoder's width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mae.evaluation.kept_encoder import KeptEncoder
from mae.mask_learners.gate import Gate
from mae.masks.masking import center_prior, top_order
from mae.models.tokens import take
from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder
from mae.pixels import IMAGE_MEAN, IMAGE_STD
from mae.recovery.recover import patch_statistics

CHOOSERS = ("gate", "center", "map")
"""What can choose the patches inside a graph."""


class DeviceEncoder(nn.Module):
    """Images uint8 [B, H, W, 3], RGB, to named outputs; see :attr:`outputs`.

    ``keep`` (0 < keep ≤ 1) is the share of the patches that is encoded, chosen ``by`` one of CHOOSERS; ``map`` takes a
    second input, float32 [B, R, C], whose highest cells are kept. With ``reconstruct`` the decoder fills in the patches
    that are not kept. ValueError for what can't be.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        keep: float = 1.0,
        by: str = "center",
        gate: Gate | None = None,
        *,
        reconstruct: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(model, VideoMaskedAutoencoder) or model.channels != 3:
            raise ValueError("--to onnx is for models of RGB images")
        if by not in CHOOSERS:
            raise ValueError(f"--keep-by {by!r} is not one of: {', '.join(CHOOSERS)}")
        count = KeptEncoder(model, keep, "gate" if by == "gate" and keep < 1 else "center", gate).count
        self.model, self.keep, self.count = model, keep, count
        self.by = by if keep < 1 else None
        self.gate = gate if self.by == "gate" else None
        if reconstruct and self.by is None:
            raise ValueError("--reconstruct fills in what is not kept: give --keep below 1 with it")
        self.reconstruct = reconstruct
        mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
        repeats = model.patch_size**2
        self.register_buffer("shift", (-mean / std).repeat(repeats), persistent=False)
        self.register_buffer("scale", (1 / (255 * std)).repeat(repeats), persistent=False)
        prior = center_prior(model.grid)[None]
        order = top_order(prior, torch.zeros_like(prior))[0]
        middle = torch.cat([order[:count].sort().values, order[count:]])
        self.register_buffer("middle", middle, persistent=False)

    shift: Tensor
    scale: Tensor
    middle: Tensor

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs, in the order of :meth:`forward`."""
        return ("image", "map") if self.by == "map" else ("image",)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs, in the order of :meth:`forward`.

        ``class_token`` and ``patch_mean`` float32 [B, D], ``patch_tokens`` float32 [B, K, D]. With a share of the
        patches ``kept_patches`` int64 [B, K], which they are, in rising order; with the gate ``gate_scores`` float32
        [B, R, C], its logits; with ``reconstruct`` ``filled`` uint8 [B, H, W, 3].
        """
        # No name of an operator: the exporter's own names for what is between are such.
        names = ["class_token", "patch_mean", "patch_tokens"]
        names += ["kept_patches"] if self.by else []
        names += ["gate_scores"] if self.by == "gate" else []
        return (*names, *(["filled"] if self.reconstruct else []))

    def example(self, count: int = 2) -> tuple[Tensor, ...]:
        """Random inputs of :meth:`forward`."""
        image = torch.randint(0, 256, (count, *self.model.image_size, 3), dtype=torch.uint8)
        return (image, torch.rand(count, *self.model.grid)) if self.by == "map" else (image,)

    def forward(self, image: Tensor, map: Tensor | None = None) -> tuple[Tensor, ...]:
        """The outputs of images uint8 [B, H, W, 3] and, with ``map``, maps float32 [B, R, C]."""
        model, patches = self.model, self._patches(image)
        embedded = scores = None
        if self.by == "gate":
            embedded, scores = self._gate_scores(patches)
        elif self.by == "map":
            assert map is not None
            scores = map.flatten(1)
        order = self._order(scores, image.shape[0])
        kept = None if order is None else order[:, : self.count]
        tokens = self._encoded(patches, embedded, kept)
        found = [model.pooled(tokens, "cls"), model.pooled(tokens, "mean"), tokens[:, model.class_tokens :]]
        found += [] if kept is None else [kept]
        found += [scores.reshape(-1, *model.grid)] if self.by == "gate" and scores is not None else []
        if self.reconstruct and order is not None:
            found.append(self._filled(patches, tokens, order))
        return tuple(found)

    def encode(self, image: Tensor, kept: Tensor) -> tuple[Tensor, Tensor | None]:
        """The tokens [B, C+K, D] of given patches int64 [B, K] of images, and a gate's logits [B, N], if there is one.

        What takes time is what :meth:`forward` does, with any number of patches.
        """
        patches = self._patches(image)
        embedded, scores = self._gate_scores(patches) if self.by == "gate" else (None, None)
        return self._encoded(patches, embedded, kept), scores

    def _encoded(self, patches: Tensor, embedded: Tensor | None, kept: Tensor | None) -> Tensor:
        """The tokens of the patches int64 [B, K], or of all; ``embedded`` are all embeddings, where they are known."""
        if embedded is None:
            embedded = self.model.embed_patches(self._pixels(patches if kept is None else take(patches, kept)))
        elif kept is not None:
            embedded = take(embedded, kept)
        return self.model.encode_embedded(embedded, kept)

    def _order(self, scores: Tensor | None, batch: int) -> Tensor | None:
        """The patches int64 [B, K], or [B, N] if all are needed: those to be kept, in rising order, then the others.

        None where all are kept.
        """
        if self.by is None:
            return None
        length = math.prod(self.model.grid) if self.reconstruct else self.count
        if scores is None:
            return self.middle[:length].expand(batch, -1)
        order = scores.topk(length, dim=1).indices  # of equal scores ONNX takes the first, as a stable sort does
        kept = order[:, : self.count].sort(dim=1).values
        return torch.cat([kept, order[:, self.count :]], dim=1) if self.reconstruct else kept

    def _patches(self, image: Tensor) -> Tensor:
        """Patches [B, N, p·p·3] of images [B, H, W, 3]: as ``patchify`` has them, without a turn of the channels."""
        (rows, columns), p = self.model.grid, self.model.patch_size
        cells = image.reshape(image.shape[0], rows, p, columns, p, 3)
        return cells.transpose(2, 3).reshape(image.shape[0], rows * columns, p * p * 3)

    def _images(self, patches: Tensor) -> Tensor:
        """Images [B, H, W, 3] of patches [B, N, p·p·3]; undoes ``_patches``."""
        (rows, columns), p = self.model.grid, self.model.patch_size
        cells = patches.reshape(patches.shape[0], rows, columns, p, p, 3)
        return cells.transpose(2, 3).reshape(patches.shape[0], *self.model.image_size, 3)

    def _pixels(self, patches: Tensor) -> Tensor:
        """Bytes [..., p·p·3] as the model sees them."""
        return torch.addcmul(self.shift, patches.float(), self.scale)

    def _gate_scores(self, patches: Tensor) -> tuple[Tensor | None, Tensor]:
        """The gate's logits [B, N], and the embeddings [B, N, D] of all patches, if it reads these."""
        assert self.gate is not None
        pixels = self._pixels(patches)
        if self.gate.reader is not None:
            return None, self.gate.scores(self.model, self.model.unpatchify(pixels))
        embedded = self.model.embed_patches(pixels)
        return embedded, self.gate(embedded, self.model.grid)

    def _filled(self, patches: Tensor, tokens: Tensor, order: Tensor) -> Tensor:
        """The images uint8 [B, H, W, 3] whose patches after the first K of ``order`` [B, N] are predicted."""
        restore = order.argsort(dim=1)
        hidden = (restore >= self.count)[:, :, None]
        prediction = self.model.decode(tokens, restore)
        if self.model.norm_pix:
            mean, deviation = patch_statistics(self._pixels(patches), hidden, self.model.grid)
            prediction = prediction * deviation + mean
        colours = ((prediction - self.shift) / self.scale).round().clamp(0, 255).to(torch.uint8)
        return self._images(torch.where(hidden, colours, patches))
