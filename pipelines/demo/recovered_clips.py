"""Clips of moving scenes behind a block, filled in by a video model, and how near that comes beside simpler means.

The block hides a part of every frame. It stands where the moving object is half-way, so that what is behind it is never
seen there; or it goes to and fro, so that every place is seen at some time; or it goes along with the moving object and
hides a half of it for good. One that comes in later can be found without a mask. Nothing of what it hides is given to
the model, which works on the clip as ``reconstruct`` does on a stream: a frame is filled in from itself and those
before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mae.evaluation.image_quality import psnr, ssim
from mae.models.video import VideoMaskedAutoencoder
from mae.recovery.completion import spread_inwards
from mae.recovery.occluder_finder import OccluderFinder
from mae.recovery.recover import interpolate, nearest_in_time
from mae.recovery.stream_recoverer import stream_recoverer
from pipelines.sources.source import Source, Video

ENTERING = "entering"
"""The block that comes in from the left after a third of the video, and crosses it."""
BLOCKS = {"standing": "standing block", "moving": "moving block", "riding": "block on the object"}
"""How the block goes, and the same in words."""

METHODS = {
    "model": "the model",
    "neighbours": "mean colour of visible pixels nearby",
    "edge": "colours at the block's edge, spread inwards",
    "last": "the pixel last seen at its place",
    "nearest": "the pixel seen nearest in time, before or after",
}
"""What fills in, and the same in words. The last one knows later frames, which a stream does not have yet."""

_SIDE = 1 / 4
"""Of the block, in sides of the picture."""
_SPEED = 1 / 12
"""Of the one that moves, in sides of the picture a frame."""


@dataclass(frozen=True)
class HiddenClip:
    """All frames of a video uint8 [T, 3, H, W], and what the block hides of them, bool [T, H, W]."""

    caption: str
    frames: Tensor
    hidden: Tensor

    def given(self) -> Tensor:
        """The frames with a grey block."""
        return self.frames.masked_fill(self.hidden[:, None], 128)


def hidden_clips(source: Source, block: str) -> Iterator[HiddenClip]:
    """The videos of a source with true masks behind a block, one of BLOCKS or ENTERING."""
    for row in range(len(source)):
        video: Video = source.open_video(row)
        numbers = range(len(video.times))
        frames = torch.from_numpy(np.stack([np.asarray(picture) for picture in video.read(numbers)]))
        masks = video.masks(numbers)
        assert masks is not None
        hidden = _block(torch.from_numpy(masks), block)
        yield HiddenClip(source.caption(row) or "", frames.permute(0, 3, 1, 2).contiguous(), hidden)


def fill_in(model: VideoMaskedAutoencoder, clip: HiddenClip) -> dict[str, Tensor]:
    """The clip's frames uint8 [T, 3, H, W] as each of METHODS completes them."""
    frames, hidden, size = clip.frames, clip.hidden, model.patch_size
    recoverer = stream_recoverer(model)
    given = frames.masked_fill(hidden[:, None], 0)  # so that nothing can be seen by mistake
    clip_of_it = given.transpose(0, 1)[None], hidden[None], size
    done = [recoverer.push(given, hidden), recoverer.flush()]
    return {
        "model": torch.cat([part for part in done if part is not None]),
        "neighbours": interpolate(given, hidden, size),
        "edge": _from_the_edge(given, hidden),
        "last": nearest_in_time(*clip_of_it, past=True)[0].transpose(0, 1),
        "nearest": nearest_in_time(*clip_of_it)[0].transpose(0, 1),
    }


def find(model: VideoMaskedAutoencoder, clip: HiddenClip) -> tuple[Tensor, Tensor]:
    """What is found to be hidden of the clip with its grey block, bool [T, H, W], and the frames filled in there."""
    found, recoverer = OccluderFinder().push(clip.given()), stream_recoverer(model)
    done = [recoverer.push(clip.given(), found), recoverer.flush()]
    return found, torch.cat([part for part in done if part is not None])


def judge(clip: HiddenClip, completed: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """PSNR of all hidden pixels of a clip together, in dB, and the mean SSIM of its frames there."""

    def tall(frames: Tensor) -> Tensor:  # all frames as one picture, so that one without errors has no say of its own
        return frames.transpose(0, 1).flatten(1, 2)[None]

    hidden = clip.hidden.flatten(0, 1)[None]
    there = clip.hidden.any((1, 2))
    return {
        name: {
            "psnr": float(psnr(tall(frames), tall(clip.frames), hidden)),
            "ssim": float(ssim(frames[there], clip.frames[there], clip.hidden[there]).mean()),
        }
        for name, frames in completed.items()
    }


def _block(masks: Tensor, block: str) -> Tensor:
    """What is hidden, bool [T, H, W], of a video whose moving object is at ``masks`` bool [T, H, W]."""
    count, height, width = masks.shape
    side = round(_SIDE * min(height, width))
    centres = [_centre(mask) for mask in masks]
    row, column = centres[count // 2]
    free = width - side
    hidden = torch.zeros_like(masks)
    if block == ENTERING:
        return _entering(hidden, min(max(round(row - side / 2), 0), height - side), side)
    for number in range(count):
        left = column - side / 2
        if block == "moving":
            left = abs((number * _SPEED * width) % (2 * free) - free)
        elif block == "riding":
            row, left = centres[number][0], centres[number][1] - (0 if column < width / 2 else side)
        top, start = _within(row - side / 2, height - side), _within(left, free)
        hidden[number, top : top + side, start : start + side] = True
    return hidden


def _entering(hidden: Tensor, top: int, side: int) -> Tensor:
    """Marks the block of ENTERING, whose upper edge is at ``top``, in bool [T, H, W]."""
    count, _, width = hidden.shape
    starts = count // 3
    for number in range(starts, count):
        end = round((width + side) * (number - starts + 1) / (count - starts + 1))
        hidden[number, top : top + side, max(end - side, 0) : end] = True
    return hidden


def _centre(mask: Tensor) -> tuple[float, float]:
    """Row and column of the middle of what bool [H, W] marks, of the picture where it marks nothing."""
    places = mask.nonzero().float()
    row, column = (places.mean(0) if len(places) else torch.tensor(mask.shape) / 2).tolist()
    return row, column


def _within(place: float, most: int) -> int:
    return min(max(round(place), 0), most)


def _from_the_edge(frames: Tensor, hidden: Tensor) -> Tensor:
    visible = (~hidden)[:, None].float()
    spread = spread_inwards(frames.float() * visible, visible)
    return torch.where(hidden[:, None], spread.round().clamp(0, 255).to(torch.uint8), frames)
