"""``evaluate --protocol propagate``: the first frame's mask, carried through a video by the likeness of features.

A video is the images of one folder of the source, in the order of their names; its first frame with a mask gives the
mask. Every later frame with a mask is judged by DAVIS's J and F at its own resolution, but for the video's last, which
DAVIS leaves out too. A mask with a palette numbers several objects: all are carried together and each is judged on its
own. The figure, J&F, is the mean over objects of each one's mean over frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae.evaluation.intervals import bootstrap_interval
from mae.evaluation.propagation import propagate, to_mask
from mae.evaluation.region_scores import boundary_accuracy, region_similarity
from pipelines.errors import UserError
from pipelines.evaluate.data import Data, Parts
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.options import EvaluateOptions
from pipelines.evaluate.protocols.whole_images import DenseMeasurement, Masked, patch_features, read_masked, view_size
from pipelines.evaluate.results.outcome import Measured, UnreadableImages
from pipelines.evaluate.supervised import check_readable
from pipelines.progress import progress_bar
from pipelines.sources.images import BadImage
from pipelines.sources.source import Source
from pipelines.views.image_views import Unreadable
from saliency.quality import bootstrap_intervals
from saliency.resample import area_resample

_SIMILAR = 5


class Propagate(DenseMeasurement):
    """J&F of masks that are carried through videos; nothing is learned or drawn."""

    name, unit = "propagate", "J&F"
    meaning = "the mean of DAVIS's region and boundary scores, J&F"

    def open(self, data: Data) -> Parts:
        """Frames with true masks; UserError."""
        return data.frames

    def settings(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """The size of the frames, and where labels come from; a seed makes no difference."""
        options, several = self.options, max(map(len, self._objects.values()), default=1)
        return {
            "dense_size": options.dense_size,
            "context_frames": options.context_frames,
            "radius": options.radius,
            **({"similar_patches": options.similar_patches} if options.similar_patches != _SIMILAR else {}),
            **({"objects": several} if several > 1 else {}),
        }

    @cached_property
    def _objects(self) -> dict[str, list[int]]:
        """The numbers of the objects in the first mask of every video."""
        source = self.parts.test.source
        return {name: _first_objects(source, rows) for name, rows in videos_of(source).items()}

    def measure(self, encoder: Encoder, seed: int, checkpoint: Path | None) -> Measured:
        """J and F of every object: ``scores`` has a row for each, whose video ``videos`` names. Raises UserError."""
        source, options, unreadable = self.parts.test.source, self.options, UnreadableImages()
        rows, names, frames = [], [], 0
        videos = videos_of(source)
        told = f"{encoder.name}: propagate"
        for name, chosen in progress_bar(videos.items(), name=told, unit="videos", part=True, quiet=self.quiet):
            part = source.select(chosen)
            seen = _frames(encoder, part, options, unreadable)
            scores = _scores(encoder, seen, options)  # [frames, objects, 2]
            if len(scores):
                rows += scores.mean(0).tolist()
                names += [name] * scores.shape[1]
                frames += len(scores)
        check_readable(len(unreadable), source)
        if not rows:
            raise UserError(f"{source.name} has no video with masks in its first and in later frames")
        return Measured({"scores": rows}, {"videos": names, "frames": frames}, unreadable)

    def figures(self, found: Sequence[Measured], first: Sequence[Measured] | None) -> dict[str, Any]:
        """``propagate`` is J&F, the mean over objects; its parts and videos have keys of their own."""
        scores = np.mean([each.array("scores") for each in found], axis=0)  # [objects, 2]
        owners = np.asarray(found[0].facts["videos"])
        by_video = {name: scores[owners == name] for name in dict.fromkeys(owners.tolist())}
        ends = _ends([each.mean(1) for each in by_video.values()], self.options.seed)
        return {
            "propagate": float(scores.mean()),
            "propagate_interval": None if ends is None else (ends[1] - ends[0]) / 2,
            "propagate_ends": ends,
            "propagate_region": float(scores[:, 0].mean()),
            "propagate_boundary": float(scores[:, 1].mean()),
            "propagate_videos": {
                name: {"region": float(each[:, 0].mean()), "boundary": float(each[:, 1].mean()), **_objects_of(each)}
                for name, each in by_video.items()
            },
            "propagate_frames": found[0].facts["frames"],
        }


def _ends(by_video: list[NDArray[np.float64]], seed: int) -> list[float] | None:
    """The 95 % interval of the mean over objects, by a bootstrap over videos, whose objects stay together."""
    if all(len(each) == 1 for each in by_video):
        low, high = bootstrap_intervals(np.stack(by_video), seed=seed)[:, 0]
        return [float(low), float(high)] if np.isfinite(low) else None
    sums = np.asarray([[each.sum(), len(each)] for each in by_video])
    found = bootstrap_interval(sums, lambda drawn: drawn[:, 0] / drawn[:, 1], seed=seed)
    return None if found is None else list(found)


def _objects_of(scores: NDArray[np.float64]) -> dict[str, Any]:
    """J&F of each object, where there are several."""
    return {} if len(scores) == 1 else {"objects": scores.mean(1).tolist()}


def _first_objects(source: Source, rows: NDArray[np.int64]) -> list[int]:
    for row in rows:
        try:
            objects = source.read_objects(int(row))
        except (BadImage, OSError):
            continue
        if objects is not None and objects.any():
            return _numbers(objects)
    return []


def _numbers(objects: NDArray[np.uint8]) -> list[int]:
    """The objects' numbers, ascending."""
    return [int(number) for number in np.unique(objects) if number]


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
    for batch in read_masked(part, size, batch_size=options.batch_size, workers=options.workers, objects=True):
        unreadable |= {part.keys[i.index].as_py(): i.reason for i in batch if isinstance(i, Unreadable)}
        seen += [item for item in batch if isinstance(item, Masked)]
    start = next((place for place, item in enumerate(seen) if item.mask is not None and item.mask.any()), len(seen))
    seen = seen[start:]
    return [item for item in seen if item.pixels.shape == seen[0].pixels.shape]


def _scores(encoder: Encoder, seen: Sequence[Masked], options: EvaluateOptions) -> NDArray[np.float64]:
    """J and F of every judged frame and object, [frames, objects, 2], of a video whose first frame has a mask."""
    if len(seen) < 3 or seen[0].mask is None:
        return np.empty((0, 1, 2))
    numbers, found = _numbers(seen[0].mask), []
    for item, labels in zip(seen[1:-1], carried(encoder, seen, options)[1:-1], strict=True):
        if item.mask is not None:
            predicted = to_mask(labels, (item.mask.shape[0], item.mask.shape[1])).to(torch.uint8).cpu().numpy()
            pairs = [(predicted == place, item.mask == number) for place, number in enumerate(numbers, 1)]
            found.append([(region_similarity(*pair), boundary_accuracy(*pair)) for pair in pairs])
    return np.asarray(found, np.float64).reshape(-1, len(numbers), 2)


def carried(encoder: Encoder, seen: Sequence[Masked], options: EvaluateOptions) -> Tensor:
    """Soft labels [T, 1 + objects, h, w] of the frames, from the mask of the first; 0 is the background."""
    first = seen[0].mask
    assert first is not None
    features = _features(encoder, seen, options)
    objects = torch.from_numpy(np.stack([first == number for number in _numbers(first)])).float()
    shares = area_resample(objects, (features.shape[2], features.shape[3]))
    labels = torch.cat([1 - shares.sum(0, keepdim=True), shares]).to(features.device)
    found = propagate(
        features,
        labels,
        context=options.context_frames,
        radius=options.radius,
        neighbours=options.similar_patches,
    )
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
