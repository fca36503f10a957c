"""`reconstruct --find`: IoU of the mask that is found with the true one, beside plain means, and PSNR behind it.

    python benchmarks/bench_find.py [--scenes 6] [--seeds 0 1 2] [--side 96] [--videos VIDEO ...]
    python benchmarks/bench_find.py --run RUN --side 32 [--scenes 6] [--seeds 0 1 2]
    python benchmarks/bench_find.py --speed [--models mini:64:8:16 small:112:16:16]

Footage without an occluder, 40 frames, over which one comes from frame 12 on: a grey block, a rectangle of another
scene, or an object of another scene, a tenth of the picture each (:mod:`mae.evaluation.occluders`). It appears and
stands still, or crosses the picture from outside of one side to outside of the other. The footage is moving scenes, and
with ``--videos`` real ones, at 320 pixels. IoU counts all pixels of all frames of a clip together; means over clips.
The plain means get the best of four thresholds on this very footage; ``--find`` has its default. With ``--run``, a run
of a video model of ``--side`` pixels, also: marks by the model's own predictions, and the PSNR of what is filled in
behind the found and behind the true mask, as the frames come and with ``--look-ahead``.
"""

import argparse
import itertools
import os
import platform
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mae.evaluation.image_quality import psnr
from mae.evaluation.occluders import GREY, OUTLINE, Objects, Rectangles, outline
from mae.models.mask import Mask
from mae.pixels import normalise
from mae.recovery.occluder_finder import OccluderFinder
from mae.recovery.stream_recoverer import stream_recoverer
from mae.training.checkpoints import load_model
from pipelines.frames.live import Live
from pipelines.frames.options import LiveOptions
from pipelines.sources.open_source import open_clips

FRAMES, ENTERS, SHARE, REAL_SIDE = 40, 12, 0.1, 320
KINDS, WAYS = ("block", "picture", "object"), ("appears", "crosses")
THRESHOLDS = (0.05, 0.1, 0.2, 0.3)
MEDIAN_OF = 15


def scenes(count, seed, side):
    """The frames uint8 [T, 3, H, W] of moving scenes, and the moving object's mask in the middle."""
    source = open_clips(f"shapes-video:{count},split=find{seed},size={side},frames={FRAMES},objects=1-2")
    for row in range(count):
        video = source.open_video(row)
        frames = np.stack([np.asarray(picture) for picture in video.read(range(FRAMES))])
        yield torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(video.masks([FRAMES // 2])[0])


def real_frames(place, rng):
    """Frames of a video from anywhere in its first 200, its longer side scaled down."""
    frames = [np.asarray(Image.fromarray(each)) for each in itertools.islice(Live(LiveOptions(place)), 200)]
    start = int(rng.integers(len(frames) - FRAMES + 1))
    clip = torch.from_numpy(np.stack(frames[start : start + FRAMES])).permute(0, 3, 1, 2).float()
    size = [round(side * REAL_SIDE / max(clip.shape[2:])) for side in clip.shape[2:]]
    return F.interpolate(clip, size, mode="area").round().to(torch.uint8)


def shifted(values, rows, columns):
    """[..., H, W] moved by so many rows and columns, zeros beside it."""
    moved, (height, width) = torch.zeros_like(values), values.shape[-2:]
    source, target = [], []
    for side, by in ((height, rows), (width, columns)):
        target.append(slice(min(max(by, 0), side), max(min(side + by, side), 0)))
        source.append(slice(min(max(-by, 0), side), max(min(side - by, side), 0)))
    moved[..., target[0], target[1]] = values[..., source[0], source[1]]
    return moved


def occlude(frames, kind, way, other, rng):
    """The frames with an occluder, and where it is, bool [T, H, W]; ``other`` is a picture and its object's mask."""
    height, width = frames.shape[2:]
    picture = F.interpolate(other[0][None].float(), (height, width), mode="bilinear").round().to(torch.uint8)
    place = torch.from_numpy(rng.uniform(0.25, 0.75, (1, 2)))
    if kind == "object":
        mask = F.interpolate(other[1][None, None].float(), (OUTLINE, OUTLINE), mode="area")[0, 0] > 0.5
        anchor, reach = outline(mask)
        occluder = Objects(picture, anchor[None], reach[None], place)
    else:
        aspects = torch.tensor([2.0 ** rng.uniform(-1, 1)])
        occluder = Rectangles(place, aspects, picture if kind == "picture" else None)
    region, content = occluder.region(SHARE, (height, width))[0], occluder.content(SHARE, (height, width))
    content = (
        torch.tensor(GREY, dtype=torch.uint8)[:, None, None].expand_as(frames[0]) if content is None else content[0]
    )
    axis, turned = rng.integers(2, size=2)
    there = region.any(1 - int(axis)).nonzero()[:, 0]
    ends = [-int(there[-1]) - 1, frames.shape[2 + int(axis)] - int(there[0])][:: -1 if turned else 1]
    given, truth = frames.clone(), torch.zeros(len(frames), height, width, dtype=torch.bool)
    for number in range(ENTERS, len(frames)):
        part = (number - ENTERS + 0.5) / (len(frames) - ENTERS)
        by = 0 if way == "appears" else round(ends[0] + (ends[1] - ends[0]) * part)
        move = (by, 0) if axis == 0 else (0, by)
        truth[number] = shifted(region, *move)
        given[number] = torch.where(truth[number], shifted(content, *move), frames[number])
    return given, truth


def clips(asked, seed):
    """Kind of footage, kind of occluder, its way, true frames, given ones and the true mask."""
    rng = np.random.default_rng(seed)
    drawn = list(scenes(asked.scenes, seed, asked.side))
    footage = [("scenes", frames) for frames, _ in drawn]
    footage += [(Path(place).stem, real_frames(place, rng)) for place in asked.videos]
    for number, (name, frames) in enumerate(footage):
        other = drawn[(number + 1) % len(drawn)]
        for kind, way in itertools.product(KINDS, WAYS):
            given, truth = occlude(frames, kind, way, (other[0][FRAMES // 2], other[1]), rng)
            yield name, kind, way, frames, given, truth


def difference(frames):
    """From the frame before, by pixel, [T, H, W]; all in 0..1, the largest channel."""
    colours = frames.float() / 255
    return F.pad(colours.diff(dim=0).abs().amax(1), (0, 0, 0, 0, 1, 0))


def from_median(frames):
    """From the median of the last frames at the place."""
    colours, found = frames.float() / 255, [torch.zeros(frames.shape[2:])]
    for number in range(1, len(frames)):
        usual = colours[max(number - MEDIAN_OF, 0) : number].median(0).values
        found.append((colours[number] - usual).abs().amax(0))
    return torch.stack(found)


def from_start(frames):
    """From the median of the frames before the occluder comes, which nobody knows in a stream."""
    colours = frames.float() / 255
    return (colours - colours[:ENTERS].median(0).values).abs().amax(1)


@torch.no_grad()
def from_model(model, frames, rest):
    """From what a video model predicts of the newest tubelet's patches, [T, H, W], the mean of a patch.

    They are hidden all at once, or with ``rest`` a half at a time as on a chessboard, so that it sees the other half.
    """
    t, (slots, rows, columns), p = model.tubelet, model.grid, model.patch_size
    board = (torch.arange(rows)[:, None] + torch.arange(columns)) % 2
    halves = (board == 0, board == 1) if rest else (board >= 0,)
    found = torch.zeros(len(frames), *frames.shape[2:])
    for end in range(model.frames, len(frames) + 1, t):
        window = frames[end - model.frames : end]
        clip, newest = normalise(window).transpose(0, 1)[None], torch.zeros(rows, columns)
        for half in halves:
            hidden = torch.zeros(slots, rows, columns, dtype=torch.bool)
            hidden[-1] = half
            order = torch.argsort(hidden.flatten().int(), stable=True)[None]
            mask = Mask(order[:, : int((~hidden).sum())], torch.argsort(order, dim=1), hidden.flatten()[None])
            predicted = model.unpatchify(model.predict(clip, mask).prediction)[0].transpose(0, 1)[-t:]
            apart = (predicted - window[-t:].float() / 255).abs().amax(1).mean(0)
            newest = torch.where(half, F.avg_pool2d(apart[None], p)[0], newest)
        found[end - t : end] = newest.repeat_interleave(p, 0).repeat_interleave(p, 1)
    return found


def iou(found, truth):
    return float((found & truth).sum() / (found | truth).sum())


def fill_in(model, given, hidden, look_ahead):
    recoverer = stream_recoverer(model, look_ahead=look_ahead)
    done = [recoverer.push(given, hidden), recoverer.flush()]
    return torch.cat([each for each in done if each is not None])


def decibels(frames, true, region):
    """Of all pixels of a region of a clip together."""
    tall = [each.transpose(0, 1).flatten(1, 2)[None] for each in (frames, true)]
    return float(psnr(*tall, region.flatten(0, 1)[None]))


def marks(asked, model):
    """IoU, and PSNR with a model, by kind of footage and occluder."""
    found, filled = defaultdict(list), defaultdict(list)
    plain = {"frame difference": difference, "median of the last 15": from_median, "median of the first 12": from_start}
    if model is not None:
        plain["model, newest tubelet hidden"] = lambda frames: from_model(model, frames, rest=False)
        plain["model, a half at a time"] = lambda frames: from_model(model, frames, rest=True)
    wrong = defaultdict(list)
    for seed in asked.seeds:
        for name, kind, way, frames, given, truth in clips(asked, seed):
            where, how = ("scenes" if name == "scenes" else "videos"), f"{kind} {way}"
            mask = OccluderFinder().push(given)
            found[where, how, "--find", 0.0].append(iou(mask, truth))
            if name != "scenes":
                found[name, how, "--find", 0.0].append(iou(mask, truth))
            wrong[where].append(float((mask & ~truth).float().mean()))
            for method, measure in plain.items():
                apart = measure(given)
                for threshold in THRESHOLDS:
                    found[where, how, method, threshold].append(iou(apart > threshold, truth))
                    if method.startswith("model"):
                        found[where, how, f"--find and {method}", threshold].append(
                            iou(mask & (apart > threshold), truth)
                        )
            if model is not None:
                for words, hidden in (("true", truth), ("found", mask)):
                    for look_ahead in (False, True):
                        done = fill_in(model, given, hidden, look_ahead)
                        key = f"{words} mask{', --look-ahead' if look_ahead else ''}"
                        filled[how, key].append((decibels(done, frames, truth), decibels(done, frames, truth | True)))
                filled[how, "as given"].append((decibels(given, frames, truth), decibels(given, frames, truth | True)))
    report(found, wrong, filled)


def report(found, wrong, filled):
    for where in dict.fromkeys(key[0] for key in found):
        rows = {key: values for key, values in found.items() if key[0] == where}
        hows = list(dict.fromkeys(key[1] for key in rows))
        print(f"\nIoU, {where}, n {len(next(iter(rows.values())))} clips a column: " + " | ".join(hows))
        for method in dict.fromkeys(key[2] for key in rows):
            tried = {key[3] for key in rows if key[2] == method}
            best = max(tried, key=lambda each: np.mean([np.mean(rows[where, how, method, each]) for how in hows]))
            means = [np.mean(rows[where, how, method, best]) for how in hows]
            every = np.concatenate([rows[where, how, method, best] for how in hows])
            error = 1.96 * every.std(ddof=1) / len(every) ** 0.5
            print(
                f"  {method} {best or ''}: {every.mean():.3f} ± {error:.3f} | " + " | ".join(f"{m:.2f}" for m in means)
            )
    for where, values in wrong.items():
        print(f"marked beside the occluder, {where}: {100 * np.mean(values):.1f} % of all pixels")
    for key in dict.fromkeys(key[1] for key in filled):
        for number, words in enumerate(("hidden pixels", "whole frames")):
            by = {how: np.mean([each[number] for each in values]) for (how, k), values in filled.items() if k == key}
            print(
                f"PSNR, {words}, {key}: {np.mean(list(by.values())):.2f} dB",
                {how: round(v, 2) for how, v in by.items()},
            )


def speed(asked):
    """Processor time of finding beside that of the rest of the command, one thread, in one process."""
    from benchmarks.bench_reconstruct import saved_model, write_footage

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        video, masks = write_footage(folder, 60)
        frames = [torch.from_numpy(np.array(each)).permute(2, 0, 1)[None] for each in Live(LiveOptions(str(video)))]
        hidden = [torch.from_numpy(each.mean(2) > 127)[None] for each in Live(LiveOptions(str(masks)))]
        given = [each.masked_fill(mask[:, None], 128) for each, mask in zip(frames, hidden, strict=True)]
        models = {spec: saved_model(spec, folder)[1] for spec in asked.models}
        recoverers = {spec: stream_recoverer(model) for spec, model in models.items()}
        recoverers |= {f"{spec}, --look-ahead": stream_recoverer(m, look_ahead=True) for spec, m in models.items()}
        spent, finder = defaultdict(float), OccluderFinder()
        for frame, mask in zip(given, hidden, strict=True):
            works = {"finding": lambda f=frame: finder.push(f)}
            works |= {spec: lambda r=each, f=frame, m=mask: r.push(f, m) for spec, each in recoverers.items()}
            for name, work in works.items():
                started = time.process_time()
                work()
                spent[name] += 1000 * (time.process_time() - started) / len(given)
        print({name: round(value, 1) for name, value in spent.items()}, "ms a frame of 854×480, processor time")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--videos", nargs="*", default=[])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--models", nargs="*", default=["mini:64:8:16", "small:112:16:16"])
    asked = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores")
    if asked.speed:
        return speed(asked)
    marks(asked, load_model(asked.run).eval() if asked.run else None)


if __name__ == "__main__":
    main()
