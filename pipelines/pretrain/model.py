"""The model that a pretraining begins with: untrained, or a video model inflated from an image model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mae.formats.foreign import build, foreign_kind, load_foreign
from mae.models.video import VideoMaskedAutoencoder, inflate
from mae.models.vit import MaskedAutoencoder
from mae.training.checkpoints import load_model
from pipelines.errors import UserError
from pipelines.pretrain.options import PretrainOptions


def new_model(options: PretrainOptions) -> MaskedAutoencoder:
    """The model that is asked for, untrained or inflated. ValueError for sizes that do not fit, UserError."""
    if options.inflate is not None:
        return _inflated(options, options.inflate)
    size = options.image_size[0] if len(options.image_size) == 1 else options.image_size
    arguments: dict[str, Any] = {
        "image_size": size,
        "patch_size": options.patch_size,
        "norm_pix": options.norm_pix,
        "decoder_width": options.decoder_width,
        "decoder_depth": options.decoder_depth,
    }
    if options.class_tokens is not None:
        arguments |= {"class_tokens": options.class_tokens}
    if options.frames is None:
        return MaskedAutoencoder.from_size(options.model, **arguments)
    arguments["class_token"] = options.class_tokens is not None
    arguments |= {"frames": options.frames, "tubelet": options.tubelet, "positions": options.positions}
    return VideoMaskedAutoencoder.from_size(options.model, **arguments)


def _inflated(options: PretrainOptions, run: str | Path) -> VideoMaskedAutoencoder:
    """The video model that starts from an image model's weights. ValueError, UserError."""
    path = Path(run)
    if not path.exists():
        raise UserError(f"--inflate {run} does not exist; give a run folder or a masked autoencoder's weights")
    model = build(load_foreign(path)) if path.is_file() or foreign_kind(path) else load_model(path)
    if isinstance(model, VideoMaskedAutoencoder):
        raise UserError(f"--inflate {run} is of video already")
    sides = options.image_size * (2 if len(options.image_size) == 1 else 1)
    if sides != model.image_size:
        theirs, asked = ("x".join(map(str, size)) for size in (model.image_size, sides))
        raise UserError(f"--inflate {run} takes images of {theirs} pixels, not {asked}: give --image-size {theirs}")
    assert options.frames is not None
    return inflate(model, options.frames, options.tubelet, norm_pix=options.norm_pix).train()
