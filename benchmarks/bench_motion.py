"""How well what moves finds objects, and what it costs: ``python benchmarks/bench_motion.py [FOLDER …] [--scenes N]``.

Each FOLDER holds numbered frames with true masks (``NNNNN_mask.png``), such as a sequence of DAVIS; the frames are
encoded by libx264 at its usual settings (medium, CRF 23). N moving scenes are encoded in the same way; half of them are
looked at through a window that pans. The AUC of a frame is that of cells of a 14 × 14 grid, true where the mask covers
more than half; means over frames, then over videos. Costs are processor time of one thread.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from mae.masks.masking import center_prior
from pipelines.sources.open_source import open_source
from pipelines.sources.video.motion import encoded_motion, frame_differences
from pipelines.sources.video.slots import slot_means, slots_at
from pipelines.sources.video.video_file import VideoFile
from pipelines.sources.video.videos import FrameFolder
from saliency.resample import area_resample

GRID, SLOTS = 14, (1, 8, 16)
Video = tuple[str, list[Image.Image], NDArray[np.bool_]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--scenes", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name, videos in (("folders", map(folder, asked.folders)), *((kind, scenes(asked.scenes, kind))
                         for kind in ("scenes, still", "scenes, panned"))):  # fmt: skip
        rows: dict[str, list[float]] = {}
        costs: dict[str, list[float]] = {}
        for title, frames, masks in videos:
            found = measure(frames, masks, costs)
            print(title, {key: round(value, 3) for key, value in found.items()}, flush=True)
            for key, value in found.items():
                rows.setdefault(key, []).append(value)
        print(f"== {name}", {key: f"{np.mean(values):.3f}" for key, values in rows.items()})
        print("   ms a frame", {key: f"{np.median(values):.2f}" for key, values in costs.items()}, flush=True)


def folder(place: str) -> Video:
    video = FrameFolder(place)
    every = range(len(video.times))
    masks = video.masks(every)
    assert masks is not None
    return Path(place).name, video.read(every), masks


def scenes(count: int, kind: str) -> Iterator[Video]:
    """Moving scenes of 128 pixels; panned, a window of 96 that goes across."""
    source = open_source(f"shapes-video:{count},size=128,frames=32,split=motion", clips=True)
    for i in range(count):
        video = source.open_video(i)
        every = range(len(video.times))
        frames, masks = video.read(every), video.masks(every)
        if kind.endswith("panned"):
            lefts = list(every)
            frames = [frame.crop((left, 16, left + 96, 112)) for frame, left in zip(frames, lefts, strict=True)]
            masks = np.stack([mask[16:112, left : left + 96] for mask, left in zip(masks, lefts, strict=True)])
        yield f"{kind} {i}", frames, masks


def measure(frames: list[Image.Image], masks: NDArray[np.bool_], costs: dict[str, list[float]]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "video.mp4"
        encode(frames, path)
        video = VideoFile(path)
        count, times = len(frames), video.times

        def timed(name: str, make: Callable[[], object]) -> object:
            started = time.process_time()
            made = make()
            costs.setdefault(name, []).append((time.process_time() - started) / count * 1000)
            return made

        maps = {
            "motion": timed("decode and read vectors", lambda: video.read_moving(range(count), pictures=False)[1]),
            "encoded": timed("encode and read vectors", lambda: encoded_motion(frames)),
            "difference": timed("difference", lambda: frame_differences(frames)),
        }
        timed("decode to RGB", lambda: video.read(range(count)))
        timed("decode to RGB and read vectors", lambda: video.read_moving(range(count)))
    prior = center_prior((GRID, GRID)).view(1, GRID, GRID).expand(count, -1, -1).numpy()
    found = {"centre": mean_auc(prior, masks)}
    for name, of_frames in maps.items():
        assert isinstance(of_frames, np.ndarray)
        found[name] = mean_auc(of_frames, masks)
        for slots in SLOTS:
            at = slots_at((np.arange(count) + 0.5) / count, slots)
            means = slot_means(of_frames, times, slots)
            found[f"{name} {slots}"] = mean_auc(means[at], masks)
        found[f"{name}, the middle of 16 for all"] = mean_auc(np.repeat(means[7][None], count, 0), masks)
    return found


def encode(frames: list[Image.Image], path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height = (side // 2 * 2 for side in frames[0].size)
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame.crop((0, 0, stream.width, stream.height)))))
        container.mux(stream.encode(None))


def mean_auc(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> float:
    """Over the frames whose mask covers some cells and not all."""
    cells, truth = (
        area_resample(torch.from_numpy(np.array(each, np.float32)), (GRID, GRID)).numpy() for each in (maps, masks)
    )
    found = [auc(one.ravel(), mask.ravel() > 0.5) for one, mask in zip(cells, truth, strict=True)]
    return float(np.nanmean(found))


def auc(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    """Probability that a true cell has a higher score than another one, a tie counting half; NaN without either."""
    inside, outside = scores[truth], scores[~truth]
    if not len(inside) or not len(outside):
        return float("nan")
    above = (inside[:, None] > outside[None]).mean()
    return float(above + (inside[:, None] == outside[None]).mean() / 2)


if __name__ == "__main__":
    main()
