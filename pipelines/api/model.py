"""A trained model at hand: features of pictures, and what is hidden of them filled in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mae.formats.foreign import build, foreign_kind, load_foreign
from mae.formats.interchange import is_decoder
from mae.mask_learners.gate import Gate, load_gate
from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder
from mae.pixels import normalise
from mae.recovery.completion import complete
from mae.training.checkpoints import gate_file, load_model
from pipelines.api.pictures import Picture, Pictures, each_of, open_picture
from pipelines.commandline.machine import usable_device
from pipelines.errors import UserError, user_errors
from pipelines.hub import find_model
from pipelines.reconstruct.hidden_region import Occlusions
from pipelines.reconstruct.options import Box, ReconstructOptions
from pipelines.views.geometry import central_view

Hidden: TypeAlias = NDArray[np.bool_] | Tensor | Box | Sequence[Box] | str
"""What is hidden of a picture: bool [H, W] on its pixels, one or several boxes (x0, y0, x1, y1 in fractions of it), or
``gate`` for what the model's gate finds important."""


class Model:
    """A masked autoencoder in evaluation mode, with the transform that its pictures need.

    ``network`` is the :class:`mae.models.vit.MaskedAutoencoder` itself (or a video model), ``gate`` the gate that was
    trained with it, None where there is none.
    """

    def __init__(self, name: str, network: MaskedAutoencoder, *, gate: Gate | None, has_decoder: bool) -> None:
        self.name, self.network, self.gate, self.has_decoder = name, network, gate, has_decoder

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of what the model sees."""
        return self.network.image_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.pos_embed.device

    def transform(self, picture: Picture) -> Tensor:
        """A picture as the model takes it, float32 [3, H, W]: its central part, resized and normalised. UserError."""
        return normalise(self._view(picture)[None])[0]

    @torch.inference_mode()
    def encode(self, images: Pictures, *, pool: str = "mean", batch_size: int = 64) -> Tensor:
        """Features float32 on the CPU: [D] of one picture, [B, D] of a batch (see :func:`heatmap` for the forms).

        Pictures go through :meth:`transform`; ``pool`` is the ``mean`` of the patch tokens, which ``mae-cli encode``
        writes, or the class token ``cls``. A video model takes clips uint8 or 0..1 [B, 3, T, H, W] or [3, T, H, W], or
        the pictures of one clip as a list. UserError.
        """
        views, alone = self._clips(images) if isinstance(self.network, VideoMaskedAutoencoder) else self._views(images)
        with user_errors():
            parts = [
                self.network.features(normalise(part.to(self.device)), pool).float().cpu()
                for part in torch.split(views, batch_size)
            ]
        features = torch.cat(parts)
        return features[0] if alone else features

    def reconstruct(self, image: Picture, hidden: Hidden, *, blend: bool = True) -> Image.Image:
        """The picture with what is ``hidden`` filled in, as ``mae-cli reconstruct`` does it: RGB of the same size.

        What lies under ``hidden`` is never looked at, and all other pixels are kept to the bit. ``blend`` bends the
        colours towards those at the region's edge. Raises UserError for a model without a decoder or of video, and for
        regions that do not fit.
        """
        if not self.has_decoder:
            raise UserError(f"{self.name} is an encoder alone: filling in needs the decoder it was trained with")
        if isinstance(self.network, VideoMaskedAutoencoder):
            raise UserError(f"{self.name} is a model of video: mae-cli reconstruct fills in videos")
        pixels = torch.from_numpy(np.asarray(open_picture(image)).copy()).permute(2, 0, 1)
        region = self._hidden(hidden, pixels)
        whole = complete(self.network, pixels[None], region[None], blend=blend)
        return Image.fromarray(whole[0].permute(1, 2, 0).cpu().numpy())

    def __repr__(self) -> str:
        weights = self.network.named_parameters()
        parameters = sum(each.numel() for name, each in weights if self.has_decoder or not is_decoder(name))
        height, width = self.image_size
        return f"Model({self.name!r}, {height}×{width} pixels, {parameters / 1e6:.1f} M parameters, on {self.device})"

    def _view(self, picture: Picture) -> Tensor:
        return torch.from_numpy(central_view(open_picture(picture), self.image_size))

    def _views(self, images: Pictures) -> tuple[Tensor, bool]:
        """uint8 [B, 3, H, W], and whether it was one picture."""
        pictures, batch = each_of(images)
        if not pictures:
            raise UserError("there are no pictures to encode")
        return torch.stack([self._view(each) for each in pictures]), not batch

    def _clips(self, images: Any) -> tuple[Tensor, bool]:
        """uint8 [B, 3, T, H, W], and whether it was one clip."""
        frames = getattr(self.network, "frames", 0)
        alone = not (isinstance(images, Tensor) and images.ndim == 5)
        clips = [images] if alone else list(images)
        found = []
        for clip in clips:
            pictures = list(clip.movedim(1, 0)) if isinstance(clip, Tensor) and clip.ndim == 4 else each_of(clip)[0]
            if len(pictures) != frames:
                raise UserError(f"{self.name} is a model of video: a clip has {frames} frames, not {len(pictures)}")
            found.append(torch.stack([self._view(each) for each in pictures], dim=1))
        return torch.stack(found), alone

    def _hidden(self, hidden: Hidden, pixels: Tensor) -> Tensor:
        """Bool [H, W] of a picture uint8 [3, H, W]. UserError."""
        if isinstance(hidden, (np.ndarray, Tensor)) and hidden.ndim == 2 and hidden.dtype in (np.bool_, torch.bool):
            region = torch.as_tensor(hidden).cpu()
            if region.shape != pixels.shape[1:]:
                shape, size = list(region.shape), list(pixels.shape[1:])
                raise UserError(f"hidden has the shape {shape}, and the picture {size}: both are [height, width]")
            return region
        if isinstance(hidden, str) and hidden != "gate":
            raise UserError(f"hidden={hidden!r}: give a bool array, boxes, or 'gate'")
        with user_errors():
            where: dict[str, Any] = {"gate": True} if isinstance(hidden, str) else {"box": _boxes(hidden)}
            asked = ReconstructOptions(Path(self.name), "", Path(), **where)
        return Occlusions(asked, self.network, self.gate).hidden("", pixels)


def load(place: str | Path, *, device: str | None = None) -> Model:
    """Open a model that a command accepts.

    ``place`` is a run folder (its newest checkpoint), ``RUN/checkpoints/best``, a saved model, an MAE checkpoint
    (``.pth``), a ViTMAE, VideoMAE or timm folder, or the Hub id of one that was pushed from here or by those libraries.
    ``device`` is the best there is if not given.

    Raises UserError if there is no model, or it can't be read.

    >>> model = sm.load("run")
    >>> model.encode("scene.jpg").shape, model.encode(["scene.jpg", "scene.jpg"]).shape
    (torch.Size([96]), torch.Size([2, 96]))
    >>> model.reconstruct("scene.jpg", (0.25, 0.25, 0.5, 0.5)).size
    (96, 96)
    """
    path = find_model(place)
    if not path.exists():
        raise UserError(f"{place} does not exist; give a run folder, a saved model, a checkpoint or a Hub id")
    whole = True
    with user_errors():
        if path.is_file() or foreign_kind(path):
            weights = load_foreign(path)
            network, whole = build(weights, fresh_decoder=True), weights.has_decoder
        else:
            network = load_model(path)
        file = gate_file(path) if path.is_dir() else None
        gate = None if file is None else load_gate(file)
    return Model(str(place), network.to(usable_device(device)), gate=gate, has_decoder=whole)


def _boxes(hidden: Any) -> tuple[str, ...]:
    """One box or several, as the command line has them; ValueError."""
    try:
        boxes = np.atleast_2d(np.asarray(hidden, float))
    except (TypeError, ValueError):
        boxes = np.empty((0, 0))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError("hidden is a bool array [height, width], or boxes x0, y0, x1, y1 in fractions of the picture")
    return tuple(",".join(map(repr, box)) for box in boxes.tolist())
