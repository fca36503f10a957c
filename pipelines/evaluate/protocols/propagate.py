"""``evaluate --protocol propagate``: the first frame's mask, carried through a video by the likeness of features.

A video is the images of one folder of the source, in the order of their names; its first frame with a mask gives the
mask. Every later frame with a mask is judged by DAVIS's J and F at its own resolution, but for the video's last, which
DAVIS leaves out too. The figure, J&F, is the mean over videos of each one's mean over frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae.evaluation.propagation import propagate, to_mask
from mae.evaluation.region_scores import boundary_accuracy, region_similarity
from pipelines.errors import UserError
from pipelines.evaluate.data import Data, Parts
from pipelines.evaluate.encoder import Encoder
from pipelines.evaluate.options import EvaluateOptions
from pipelines.evaluate.outcome import Measured, UnreadableImages
from pipelines.evaluate.protocols.whole_images import DenseMeasurement, Masked, patch_features, read_masked, view_size
from pipelines.evaluate.supervised import check_readable
from pipelines.progress import progress_bar
from pipelines.sources.source import Source
from pipelines.views.image_views import Unreadable
from saliency.quality import bootstrap_intervals
from saliency.resample import area_resample


class Propagate(DenseMeasurement):
    """J&F of masks that are carried through videos; nothing is learned or drawn."""

    name, unit = "propagate", "J&F"
    meaning = "the mean of DAVIS's region and boundary scores, J&F"

    def open(self, data: Data) -> Parts:
        """Frames with true masks; UserError."""
        return data.frames

    def settings(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """The size of the frames, and where labels come from; a seed makes no difference."""
        options = self.options
        return {
            "dense_size": options.dense_size,
            "context_frames": options.context_frames,
            "radius": options.radius,
        }

    def measure(self, encoder: Encoder, seed: int, checkpoint: Path | None) -> Measured:
        """J and F of every video: ``scores`` has a row a video. Raises UserError."""
        source, options, unreadable = self.parts.test.source, self.options, UnreadableImages()
        rows, names, frames = [], [], 0
        videos = videos_of(source)
        told = f"{encoder.name}: propagate"
        for name, chosen in progress_bar(videos.items(), name=told, unit="videos", part=True, quiet=self.quiet):
            part = source.select(chosen)
            seen = _frames(encoder, part, options, unreadable)
            scores = _scores(encoder, seen, options)
            if scores:
                rows.append(np.mean(scores, axis=0).tolist())
                names.append(name)
                frames += len(scores)
        check_readable(len(unreadable), source)
        if not rows:
            raise UserError(f"{source.name} has no video with masks in its first and in later frames")
        return Measured({"scores": rows}, {"videos": names, "frames": frames}, unreadable)

    def figures(self, found: Sequence[Measured], first: Sequence[Measured] | None) -> dict[str, Any]:
        """``propagate`` is J&F; its parts and videos have keys of their own."""
        scores = np.mean([each.array("scores") for each in found], axis=0)  # [videos, 2]
        means = scores.mean(1)
        low, high = bootstrap_intervals(means[:, None], seed=self.options.seed)[:, 0]
        known = bool(np.isfinite(low))
        return {
            "propagate": float(means.mean()),
            "propagate_interval": float(high - low) / 2 if known else None,
            "propagate_ends": [float(low), float(high)] if known else None,
            "propagate_region": float(scores[:, 0].mean()),
            "propagate_boundary": float(scores[:, 1].mean()),
            "propagate_videos": {
                name: {"region": float(region), "boundary": float(edge)}
                for name, (region, edge) in zip(found[0].facts["videos"], scores, strict=True)
            },
            "propagate_frames": found[0].facts["frames"],
        }


def videos_of(source: Source) -> dict[str, NDArray[np.int64]]:
    """The frames of every video, by name: pairs whose keys share a folder, in the order of their keys. UserError."""
    keys = source.keys.to_pylist()
    folders: dict[str, list[int]] = {}
    for index in sorted(range(len(keys)), key=keys.__getitem__):
        folders.setdefault(keys[index].rpartition("/")[0], []).append(index)
    videos = {name or source.name: np.asarray(rows, np.int64) for name, rows in folders.items() if len(rows) > 2}
    if not videos:
        raise UserError(f"{source.name} holds no video: propagate needs folders of at least three frames with masks")
    return videos


def _frames(encoder: Encoder, part: Source, options: EvaluateOptions, unreadable: UnreadableImages) -> list[Masked]:
    size, seen = view_size(encoder, options.dense_size), list[Masked]()
    for batch in read_masked(part, size, batch_size=options.batch_size, workers=options.workers):
        unreadable |= {part.keys[i.index].as_py(): i.reason for i in batch if isinstance(i, Unreadable)}
        seen += [item for item in batch if isinstance(item, Masked)]
    start = next((place for place, item in enumerate(seen) if item.mask is not None and item.mask.any()), len(seen))
    seen = seen[start:]
    return [item for item in seen if item.pixels.shape == seen[0].pixels.shape]


def _scores(encoder: Encoder, seen: Sequence[Masked], options: EvaluateOptions) -> list[tuple[float, float]]:
    """J and F of every judged frame of a video whose first frame has a mask."""
    found = []
    for item, labels in zip(seen[1:-1], carried(encoder, seen, options)[1:-1], strict=True) if len(seen) > 2 else ():
        if item.mask is not None:
            mask = to_mask(labels, (item.mask.shape[0], item.mask.shape[1])).bool().cpu().numpy()
            found.append((region_similarity(mask, item.mask), boundary_accuracy(mask, item.mask)))
    return found


def carried(encoder: Encoder, seen: Sequence[Masked], options: EvaluateOptions) -> Tensor:
    """Soft labels [T, 2, h, w] of the frames, from the mask of the first."""
    first = seen[0].mask
    assert first is not None
    features = _features(encoder, seen, options)
    share = area_resample(torch.from_numpy(first)[None].float(), (features.shape[2], features.shape[3]))[0]
    labels = torch.stack([1 - share, share]).to(features.device)
    found = propagate(features, labels, context=options.context_frames, radius=options.radius)
    return found.repeat_interleave(_frames_of_a_slot(encoder, seen, len(found)), 0)[: len(seen)]


def _features(encoder: Encoder, seen: Sequence[Masked], options: EvaluateOptions) -> Tensor:
    """The features [T, D, h, w] of a video's frames, or of the time slots of an encoder of video.

    That one sees clips of frames that follow each other, the last of which goes on with the last frame.
    """
    if encoder.frames is None:
        at_once = range(0, len(seen), options.batch_size)
        parts = [patch_features(encoder, seen[at : at + options.batch_size]) for at in at_once]
        return torch.stack([each for part in parts for each in part])
    assert encoder.patches is not None
    clips = []
    for at in range(0, len(seen), encoder.frames):
        numbers = [min(at + frame, len(seen) - 1) for frame in range(encoder.frames)]
        clip = torch.from_numpy(np.stack([seen[number].pixels for number in numbers], axis=1))[None]
        clips.append(encoder.patches(clip)[0].transpose(0, 1))  # [t, D, h, w]
    return torch.cat(clips)


def _frames_of_a_slot(encoder: Encoder, seen: Sequence[Masked], slots: int) -> int:
    """How many frames have the features of one slot."""
    return 1 if encoder.frames is None else -(-len(seen) // encoder.frames) * encoder.frames // slots
