"""What chooses the places that a stream skips, at equal cost: pixels, motion vectors, the gate, chance, whole tubelets.

    python benchmarks/bench_skip_by.py RUN [VIDEO ...] [--below 0.02 0.04] [--noise 5 15] [--frames 160]
    python benchmarks/bench_skip_by.py RUN --probe shapes-video:300,label=color shapes-video:200,split=test,label=color

RUN is a run of a video model with a gate. For each input, ``PixelChange`` with each of ``--below`` says how many tokens
pass the blocks. The thresholds of the other measures are then searched for the same number. All of them are compared
with the stream that skips nothing by mean cosine similarities: of tokens less the mean of all tokens, of those at
places that show the object (where true masks are known), and of mean tokens.

- ``motion``: a place is encoded again if its blocks moved by X pixels of the model's size since it was last encoded
  (the root mean square over its blocks of 8 pixels of the sum of their vectors). The camera's motion is not removed: it
  changes what a place shows as well. The vector of a P-frame is taken to come from the last I- or P-frame, and is
  spread over the frames in between. All of a keyframe is encoded. A block without a vector in another frame counts as
  16 pixels, or in ``motion, 0`` as still; with either of them, nothing else is unknown.
- ``gate``: d ≥ X / σ(z), with d the change of the pixels and z the gate's logit of the place: the less important a
  place is, the more it must change. ``gate, 4``: d ≥ X where z > 0, and d ≥ 4X elsewhere.

Frames are encoded by libx264 at its usual settings, with B-frames and without, and all measures see the decoded ones.
A still camera is drawn at four times the model's side; a panned one looks at a part of it that moves. VIDEO is a file
with motion vectors, or a folder of frames with true masks (``NNNNN_mask.png``). ``--probe`` is as in bench_skip.py, of
clips that libx264 encoded at CRF 12.
"""

from __future__ import annotations

import argparse
import io
import platform
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.frame import PictureType
from bench_skip import Chance, encoded, every, feature, labelled_clips, smooth
from PIL import Image

from mae.evaluation.probes import fit_logistic, knn_predict
from mae.pixels import normalise
from mae.recovery.skipping import PixelChange
from pipelines.reconstruct.reconstruct import open_model
from pipelines.sources.video.motion import EXPORT, _paint
from pipelines.sources.video.videos import FrameFolder
from pipelines.views.geometry import central_view

_UNIT = 8  # pixels of a video, as pipelines.sources.video.motion has it


class MotionChange:
    """Places whose blocks moved by ``below`` pixels since they were last encoded; see above.

    ``steps`` are the vectors of every frame at the model's size, [cells, 2], and ``cells`` has the place of every cell.
    """

    def __init__(self, below, steps, cells, model):
        self.below, self.steps, self.cells, self.tubelet = below, steps, cells, model.tubelet
        self.places = model.grid[1] * model.grid[2]
        self.clear()

    def fresh(self, frames, visible):
        start = self.index * self.tubelet
        change = torch.zeros(self.places)
        for step in self.steps[start : start + self.tubelet]:
            self.moved += step
            square, count = torch.zeros(self.places), torch.zeros(self.places)
            square.index_add_(0, self.cells, self.moved.square().sum(1))
            count.index_add_(0, self.cells, torch.ones(len(self.cells)))
            change = torch.maximum(change, (square / count).sqrt())
        fresh = visible & ((change >= self.below) | (self.index == 0))
        self.moved[fresh[self.cells]] = 0
        self.index += 1
        return fresh

    def clear(self):
        self.index, self.moved = 0, torch.zeros(len(self.cells), 2)


class GateChange(PixelChange):
    """Places whose pixels changed by ``below`` times the factor of the place, [tubelets, S]."""

    def __init__(self, below, patch, factors):
        super().__init__(0, patch)
        self.thresholds = iter(below * factors)

    def fresh(self, frames, visible):
        self._below = next(self.thresholds)
        return super().fresh(frames, visible)


def coded(pictures, options):
    """A video file of H.264 in memory."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24, options=options)
        stream.width, stream.height = (side // 2 * 2 for side in pictures[0].size)
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture.crop((0, 0, stream.width, stream.height)))))
        container.mux(stream.encode(None))
    file.seek(0)
    return file


def decoded(file, model, limit):
    """The frames as the model sees them, uint8 [n, 3, h, w], and arguments of MotionChange.

    The vectors of every frame are at the model's size, [cells, 2], NaN where there are none.
    """
    frames, steps, since = [], [], 1
    with av.open(file) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = EXPORT
        for frame in container.decode(stream):
            side = min(frame.height / model.image_size[0], frame.width / model.image_size[1])
            step = torch.from_numpy(vectors_of(frame, since)).flatten(1).T / side
            since = 1 if PictureType(frame.pict_type).name in "IP" else since + 1
            cells = places_of(frame, side, model)
            steps.append(step[cells >= 0])
            frames.append(central_view(frame.to_image(), model.image_size))
            if len(frames) == limit:
                break
    whole = len(frames) // model.tubelet * model.tubelet
    return torch.from_numpy(np.stack(frames[:whole])), steps, cells[cells >= 0]


def vectors_of(frame, since):
    """Pixels a frame of every unit of a frame, [2, rows, columns]; the last I- or P-frame was ``since`` before."""
    shape = (-(-frame.height // _UNIT), -(-frame.width // _UNIT))
    data, step = frame.side_data.get("MOTION_VECTORS"), np.full((2, *shape), np.nan, np.float32)
    if data is not None:
        vectors = data.to_ndarray()
        scale = np.maximum(vectors["motion_scale"], 1)
        moved = np.stack([vectors["motion_x"] / scale, vectors["motion_y"] / scale]).astype(np.float32)
        past = vectors["source"] < 0
        for side, sign in ((~past, -1), (past, 1)):  # where a block has both, that of the past stays
            if side.any():
                painted = sign * _paint(vectors[side], moved[:, side], shape) / since
                step = np.where(np.isnan(painted), step, painted)
    return step


def places_of(frame, side, model):
    """The place that the centre of each unit lies in, int64 [units], -1 outside of the central view."""
    (_, *counts), sizes = model.grid, (frame.height, frame.width)
    middle = torch.meshgrid(*(torch.arange(-(-size // _UNIT)) * _UNIT + _UNIT / 2 for size in sizes), indexing="ij")
    rows, columns = (
        ((centre - (size - side * model.patch_size * count) / 2) / (side * model.patch_size)).floor().long()
        for centre, size, count in zip(middle, sizes, counts, strict=True)
    )
    inside = (rows >= 0) & (rows < counts[0]) & (columns >= 0) & (columns < counts[1])
    return torch.where(inside, rows * counts[1] + columns, -1).flatten()


def measures(model, gate, frames, steps, cells):
    """{name: (what makes a skipper of a threshold, the highest one)}."""
    t, patch = model.tubelet, model.patch_size
    found = {"pixels": (lambda x: PixelChange(x, patch), 1.0)}
    for name, unknown in (("motion", 16.0), ("motion, 0", 0.0)):
        known = [torch.where(each.isnan(), 1e6 if each.isnan().all() else unknown, each) for each in steps]
        found[name] = (lambda x, known=known: MotionChange(x, known, cells, model), 256.0)
    clips = [normalise(frames[i : i + t]).transpose(0, 1)[None] for i in range(0, len(frames), t)]
    logits = torch.cat([gate.scores(model, clip, (1, *model.grid[1:])) for clip in clips])
    for name, factors in (("gate", 1 / torch.sigmoid(logits)), ("gate, 4", torch.where(logits > 0, 1.0, 4.0))):
        found[name] = (lambda x, factors=factors: GateChange(x, patch, factors), 1.0)
    return found


def tokens_of(skipper, frames, model):
    """How many tokens pass the blocks with it, those of windows that begin anew among them."""
    slots, places, t, first = model.grid[0], model.grid[1] * model.grid[2], model.tubelet, model.class_tokens
    total, taken, counts, visible = 0, 0, [], torch.ones(places, dtype=torch.bool)
    for number, start in enumerate(range(0, len(frames), t)):
        count = int(skipper.fresh(frames[start : start + t], visible).sum())
        if taken == slots or (number == 1 and count < places):
            recent = counts[-(slots // 2) :]
            total, taken = total + first + places + sum(recent[1:]), len(recent)
        counts.append(count)
        total, taken = total + first + count, taken + 1
    return total


def searched(count_of, wanted, most):
    """The threshold with which as many tokens pass as wanted, or as near to it as can be."""
    low, high, best = 0.0, most, (np.inf, 0.0)
    for _ in range(20):
        middle = (low + high) / 2
        count = count_of(middle)
        best = min(best, (abs(count - wanted), middle))
        low, high = (middle, high) if count > wanted else (low, middle)
    return best[1]


def likeness(found, whole, shown):
    one, other = (torch.stack([each.tokens for each in stream]) for stream in (found, whole))
    middle = other.mean((0, 1))
    tokens = F.cosine_similarity(one - middle, other - middle, dim=-1)
    means = F.cosine_similarity(one.mean(1), other.mean(1))
    thing = f"{tokens[shown].mean():.3f}" if shown is not None else "     "
    return f"{tokens.mean():.3f} {thing} {means.mean():.3f}"


def compare(name, model, gate, video, masks, belows):
    frames, *_ = video
    ways, shown = measures(model, gate, *video), None
    if masks is not None:
        area = F.adaptive_avg_pool2d(masks[: len(frames), None].float(), model.grid[1:])
        shown = area.view(-1, model.tubelet, *model.grid[1:]).mean(1).flatten(1) > 0.25
    whole, all_tokens, _ = encoded(model, frames)
    print(f"{name}, {len(whole)} tubelets: X, encoded, times fewer tokens, cosine centred: all, object's; means")

    def told(words, x, found, tokens, counts=()):
        share = f"{sum(counts) / (len(whole[0].places) * len(whole)):6.1%}" if counts else f"{'':6}"
        print(f"  {words:9} {x:8} {share} {all_tokens / tokens:5.2f}  {likeness(found, whole, shown)}", flush=True)

    for below in belows:
        for key, (make, most) in ways.items():
            if key == "pixels":
                found, wanted, counts = encoded(model, frames, make(below))
                told(key, f"{below:g}", found, wanted, counts)
            else:
                x = searched(lambda x, make=make: tokens_of(make(x), frames, model), wanted, most)
                told(key, f"{x:.4f}", *encoded(model, frames, make(x)))
        told("chance", "", *encoded(model, frames, Chance(counts))[:2])
        step = max(round(all_tokens / wanted), 1)
        told(f"1 of {step}", "", *every(model, frames, step))


def probe(model, gate, specs, belows, noise):
    def video(clip):
        pictures = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in clip]
        return decoded(coded(pictures, {"crf": "12"}), model, None)  # clips as small as the model's

    (train, labels), (test, truth) = (labelled_clips(spec, model, noise) for spec in specs)
    known = torch.stack([feature(encoded(model, video(clip)[0])[0]) for clip in train])
    videos = list(map(video, test))
    with torch.enable_grad():
        head = fit_logistic(known, labels)
    ways = [measures(model, gate, *video) for video in videos]
    print(f"noise {noise:g}, {len(train)} and {len(test)} clips: X, times fewer tokens, k-NN %, logistic %")

    def told(words, x, streams):
        features = torch.stack([feature(found) for found, *_ in streams])
        right = [knn_predict(known, labels, features) == truth, head.predict(features) == truth]
        shares = "  ".join(f"{100 * each.float().mean():.1f}" for each in right)
        tokens = sum(count for _, count, *_ in streams)
        print(f"  {words:15} {x:8} {all_tokens / tokens:5.2f} {shares}", flush=True)
        return tokens

    whole = [encoded(model, frames) for frames, *_ in videos]
    all_tokens, wanted, counts = sum(tokens for _, tokens, _ in whole), 0, []
    told("nothing skipped", "", whole)
    for below in belows:
        for key in ways[0]:
            makers, x = [way[key][0] for way in ways], below
            if key != "pixels":
                pairs = list(zip(makers, videos, strict=True))
                x = searched(
                    lambda x, pairs=pairs: sum(tokens_of(make(x), frames, model) for make, (frames, *_) in pairs),
                    wanted,
                    ways[0][key][1],
                )
            streams = [encoded(model, frames, make(x)) for make, (frames, *_) in zip(makers, videos, strict=True)]
            tokens = told(key, f"{x:.4f}", streams)
            if key == "pixels":
                wanted, counts = tokens, [each[2] for each in streams]
        told(
            "chance",
            "",
            [encoded(model, frames, Chance(each)) for each, (frames, *_) in zip(counts, videos, strict=True)],
        )
        step = max(round(all_tokens / wanted), 1)
        told(f"1 of {step}", "", [every(model, frames, step) for frames, *_ in videos])


def drawn(count, side, noise, *, pans):
    """Pictures of a camera, and where the object is, bool [count, side, side]; one that ``pans`` looks at a part."""
    generator = torch.Generator().manual_seed(0)
    background, size = smooth(side + (count if pans else 0), 3, generator)[:, :side], side // 5
    thing = 255 - smooth(size, 2, generator)
    pictures, masks = [], torch.zeros(count, side, side, dtype=torch.bool)
    for number in range(count):
        left = number if pans else 0
        frame = background[:, :, left : left + side].clone()
        x, y = ((side - size) * (0.5 + 0.45 * torch.tensor([number / 40, number / 57]).sin())).long().tolist()
        frame[:, y : y + size, x : x + size] = thing
        masks[number, y : y + size, x : x + size] = True
        frame += noise * torch.randn(frame.shape, generator=generator)
        pictures.append(Image.fromarray(frame.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()))
    return pictures, masks


def folder(place, model, limit):
    """The pictures of a folder, and the true masks as the model sees them."""
    video = FrameFolder(str(place))
    numbers = range(min(len(video.times), limit))
    views = [
        central_view(Image.fromarray(np.repeat(255 * mask[..., None].astype(np.uint8), 3, 2)), model.image_size)[0]
        for mask in video.masks(numbers)
    ]
    return video.read(numbers), torch.from_numpy(np.stack(views)) > 127


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--below", type=float, nargs="*", default=[0.02, 0.04])
    parser.add_argument("--noise", type=float, nargs="*", default=[5, 15])
    parser.add_argument("--frames", type=int, default=160)
    parser.add_argument("--probe", nargs=2, metavar=("TRAIN", "TEST"))
    asked = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    model, gate = open_model(asked.run, "cpu")
    if asked.probe:
        for noise in asked.noise:
            probe(model, gate, asked.probe, asked.below, noise)
        return
    inputs = {
        f"{words} camera, noise {noise:g}": drawn(asked.frames, 4 * model.image_size[0], noise, pans=words == "panned")
        for words in ("still", "panned")
        for noise in asked.noise
    }
    inputs |= {place.name: folder(place, model, asked.frames) for place in asked.videos if place.is_dir()}
    for name, (pictures, masks) in inputs.items():
        for words, options in (("", {}), (", no B-frames", {"bf": "0"})):
            video = decoded(coded(pictures, options), model, asked.frames)
            compare(name + words, model, gate, video, masks, asked.below)
    for place in asked.videos:
        if place.is_file():
            compare(place.name, model, gate, decoded(str(place), model, asked.frames), None, asked.below)


if __name__ == "__main__":
    with torch.no_grad():
        main()
