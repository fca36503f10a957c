"""Encoders of video and of images side by side on the same clips.

A model of video makes an evaluation one of clips: the first one's length, at its training's stride, for all. A model of
images sees every frame of the clip, and the mean of its features is the clip's. A model of video with fewer frames sees
evenly spaced ones of the clip, so that all see the same stretch of time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from pipelines.errors import UserError, user_errors
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.independent_maps import training_record
from pipelines.evaluate.options import EvaluateOptions
from pipelines.views.clip_views import ClipShape


def clip_of(options: EvaluateOptions, encoders: Sequence[Encoder]) -> ClipShape | None:
    """The clip that all encoders are measured on; None where all are of images.

    UserError if what was asked for is not there for them.
    """
    first = next((encoder for encoder in encoders if encoder.frames is not None), None)
    with user_errors():
        options.check_model((first or encoders[0]).name, video=first is not None)
    if first is None or first.frames is None:
        return None
    record = training_record(first.name)
    recorded = record["options"].get("frame_stride") if record else None
    return ClipShape(first.frames, options.frame_stride or recorded or ClipShape.stride)


def on_clips(encoder: Encoder, clip: ClipShape | None) -> Encoder:
    """The encoder as it sees clips, or as it is where there are none.

    UserError for a model of more frames than a clip has, or of a number that does not divide them.
    """
    if clip is None or encoder.frames == clip.count:
        return encoder
    if encoder.frames is None:
        return replace(
            encoder,
            features=functools.partial(_mean_over_frames, encoder),
            identity=lambda: f"{encoder.identity()}, mean over frames",
            patches=encoder.patches and functools.partial(_frame_by_frame, encoder.patches),
            network=functools.partial(_no_network, encoder.name),
            frames=clip.count,
        )
    if clip.count % encoder.frames:
        raise UserError(
            f"{encoder.name} takes clips of {encoder.frames} frames, which {clip.count} can't be shared out to evenly: "
            "the first model of video sets the clip, so name the one of the most frames first, or evaluate them apart"
        )
    return replace(
        encoder,
        features=functools.partial(_evenly_spaced, encoder.features, clip.count // encoder.frames),
        patches=encoder.patches and functools.partial(_evenly_spaced, encoder.patches, clip.count // encoder.frames),
        identity=lambda: f"{encoder.identity()}, of {clip.count} frames",
        network=functools.partial(_no_network, encoder.name),
        autoencoder=None,  # it does not see the frames between
        frames=clip.count,
    )


def _no_network(name: str, _: float) -> nn.Module:
    raise UserError(f"finetune trains models of video on whole clips, and {name} is none of so many frames")


def _frame_by_frame(patches: Callable[[Tensor], Tensor], clips: Tensor) -> Tensor:
    """Features by place [B, D, T, h, w] of clips [B, 3, T, H, W] by an encoder of images: a slot is a frame."""
    found = patches(clips.transpose(1, 2).flatten(0, 1).contiguous())
    return found.reshape(len(clips), clips.shape[2], *found.shape[1:]).transpose(1, 2)


@torch.inference_mode()
def _mean_over_frames(encoder: Encoder, clips: Tensor) -> Tensor:
    """Features [B, D] of clips [B, 3, T, H, W] by an encoder of images."""
    frames = clips.transpose(1, 2).flatten(0, 1).contiguous()
    return encoder.features(frames).reshape(len(clips), clips.shape[2], -1).mean(1)


def _evenly_spaced(function: Callable[[Tensor], Tensor], step: int, clips: Tensor) -> Tensor:
    """What an encoder that takes one of ``step`` frames gives for clips [B, 3, T, H, W]."""
    return function(clips[:, :, step // 2 :: step].contiguous())
