"""A stream that skips what does not change: likeness, tokens and time, beside random skipping and dropped frames.

    python benchmarks/bench_skip.py RUN [VIDEO ...] [--below 0.01 0.02 0.04] [--noise 0 5 15] [--frames 160]
    python benchmarks/bench_skip.py --speed small:224:16:16 [--below 0.02] [--frames 96] [--rounds 3]
    python benchmarks/bench_skip.py RUN --probe shapes-video:300,label=color shapes-video:300,split=test,label=color
    python benchmarks/bench_skip.py RUN [VIDEO ...] --reconstruct 40 [--below 0.02] [--noise 0 5]

First, how many times fewer tokens pass the blocks, and the cosine similarity to the stream that skips nothing: of
tokens, of tokens less the mean of all tokens, which tells more where all of them are alike, and of mean tokens. The
same number of tokens is then spent on places that are drawn by chance instead, and on every n-th tubelet alone, whose
features stand for those that are dropped (n is a whole number, so the tokens differ a little). A still camera is drawn:
a background of smooth colours, an object of a fifth of its side that moves, and white noise of so many levels of 255.
VIDEO is what ``encode`` reads.

``--speed``: processor time of the still camera, pixels to features, of a model NAME:SIDE:PATCH:FRAMES with random
weights. Frames come at 1.5 times the model's side and are resized, as ``encode`` does it. Encoding every window from
scratch, the stream and the stream that skips take turns.

``--probe``: what skipping costs a probe. k-NN and logistic regression are trained on the mean tokens of whole streams
of one source of labelled clips, and tell the classes of another one's by streams that skip, beside chance and dropped
tubelets as above. White noise of ``--noise`` levels is added, since drawn scenes have none.

``--reconstruct``: PSNR of hidden pixels against the true frames, of a stream that is filled in with and without
skipping, and with as many places skipped by chance: so many moving scenes and still cameras behind the blocks of
``demo --video``, with noise as above, and each VIDEO behind the one that moves.
"""

import argparse
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from bench_stream import WholeWindow
from PIL import Image

from mae.evaluation.probes import fit_logistic, knn_predict
from mae.models.video import VideoMaskedAutoencoder
from mae.recovery.skipping import PixelChange
from mae.recovery.stream_encoder import StreamEncoder
from mae.recovery.stream_recoverer import StreamRecoverer
from mae.training.checkpoints import load_model
from pipelines.demo.recovered_clips import BLOCKS, HiddenClip, _block, hidden_clips, judge
from pipelines.frames.live import Live
from pipelines.frames.options import LiveOptions
from pipelines.sources.open_source import open_clips, open_source
from pipelines.views.geometry import central_view


class Chance:
    """Encodes as many places of every tubelet as another did: those that were hidden before, and others by chance."""

    def __init__(self, counts):
        self.counts, self.generator = iter(counts), torch.Generator().manual_seed(0)
        self.clear()

    def fresh(self, frames, visible):
        known = torch.zeros_like(visible) if self.known is None else self.known
        order = torch.randperm(len(visible), generator=self.generator)
        order = torch.cat([order[(visible & ~known)[order]], order[(visible & known)[order]]])
        fresh = torch.zeros_like(visible)
        fresh[order[: next(self.counts)]] = True
        self.known = visible
        return fresh

    def clear(self):
        self.known = None


def smooth(side, cells, generator):
    """Colours that vary at several scales, float32 [3, side, side] in 0..255."""
    picture = torch.zeros(1, 3, side, side)
    for octave in range(4):
        small = torch.randn(1, 3, cells * 2**octave, cells * 2**octave, generator=generator)
        picture += F.interpolate(small, size=(side, side), mode="bicubic") / 1.5**octave
    return (128 + 45 * picture[0]).clamp(0, 255)


def still_camera(count, side, noise, seed=0):
    """uint8 [count, 3, side, side]: an object on its way over a background, and white noise."""
    generator = torch.Generator().manual_seed(seed)
    background, size = smooth(side, 3, generator), side // 5
    thing = 255 - smooth(size, 2, generator)
    frames = []
    for number in range(count):
        frame = background.clone()
        x, y = ((side - size) * (0.5 + 0.45 * torch.tensor([number / 40, number / 57]).sin())).long().tolist()
        frame[:, y : y + size, x : x + size] = thing
        frame += noise * torch.randn(frame.shape, generator=generator)
        frames.append(frame.round().clamp(0, 255).to(torch.uint8))
    return torch.stack(frames)


def encoded(model, frames, skipper=None):
    """What a stream gives, the tokens that passed the blocks, and how many places of each tubelet were encoded."""
    encoder, passed = StreamEncoder(model, skipper=skipper), []
    add = encoder._remembered.add

    def counted(x, **options):
        passed.append(len(x))
        return add(x, **options)

    encoder._remembered.add = counted
    found = encoder.push(frames)
    return found, sum(passed), [len(each.places) - each.skipped for each in found]


def every(model, frames, step):
    """The stream of every ``step``-th tubelet; the others get the features of the one before."""
    t = model.tubelet
    kept = torch.cat([frames[i : i + t] for i in range(0, len(frames) - t + 1, t * step)])
    found, tokens, _ = encoded(model, kept)
    return [found[number // step] for number in range(len(frames) // t)], tokens


def likeness(found, whole):
    """Mean cosine of tokens, the same less the mean token of all, mean and least cosine of mean tokens."""
    one, other = (torch.stack([each.tokens for each in stream]) for stream in (found, whole))
    tokens = F.cosine_similarity(one, other, dim=-1).mean()
    middle = other.mean((0, 1))
    centred = F.cosine_similarity(one - middle, other - middle, dim=-1).mean()
    means = F.cosine_similarity(one.mean(1), other.mean(1))
    return f"{tokens:.4f}  {centred:.4f}  {means.mean():.4f}  {means.min():.4f}"


def fidelity(model, name, frames, belows):
    whole, all_tokens, _ = encoded(model, frames)
    print(f"{name}, {len(whole)} tubelets: skipped, times fewer tokens, cosine of tokens, centred, of means, the least")
    for below in belows:
        found, tokens, counts = encoded(model, frames, PixelChange(below, model.patch_size))
        skipped = 1 - sum(counts) / sum(len(each.places) for each in found)
        print(f"  below {below:g}:    {skipped:6.1%} {all_tokens / tokens:5.2f}  {likeness(found, whole)}")
        chance, chance_tokens, _ = encoded(model, frames, Chance(counts))
        print(f"    by chance:            {all_tokens / chance_tokens:5.2f}  {likeness(chance, whole)}")
        step = max(round(all_tokens / tokens), 1)
        dropped, drop_tokens = every(model, frames, step)
        print(f"    1 of {step} tubelets:      {all_tokens / drop_tokens:5.2f}  {likeness(dropped, whole)}", flush=True)


def labelled_clips(spec, model, noise):
    """Every clip of a source as uint8 [t, 3, H, W], and their labels."""
    source, generator = open_source(spec), torch.Generator().manual_seed(0)
    clips = []
    for row in range(len(source)):
        video = source.open_video(row)
        numbers = range(0, len(video.times) // 2 // model.tubelet * model.tubelet * 2, 2)
        views = [central_view(picture, model.image_size) for picture in video.read(numbers)]
        frames = torch.from_numpy(np.stack(views)).float()
        frames += noise * torch.randn(frames.shape, generator=generator)
        clips.append(frames.round().clamp(0, 255).to(torch.uint8))
    return clips, torch.from_numpy(source.labels)


def probe(model, specs, belows, noise):
    (train, labels), (test, truth) = (labelled_clips(spec, model, noise) for spec in specs)
    known = torch.stack([feature(encoded(model, clip)[0]) for clip in train])
    whole = [encoded(model, clip) for clip in test]
    with torch.enable_grad():
        head = fit_logistic(known, labels)

    def told(words, streams, fewer):
        features = torch.stack([feature(found) for found in streams])
        right = [knn_predict(known, labels, features) == truth, head.predict(features) == truth]
        shares = "  ".join(f"{100 * each.float().mean():.1f}" for each in right)
        print(f"  {words:20} {fewer:5.2f} {shares}", flush=True)

    print(f"noise {noise:g}, {len(train)} and {len(test)} clips: times fewer tokens, k-NN %, logistic %")
    told("nothing skipped", [found for found, *_ in whole], 1)
    tokens = sum(count for _, count, _ in whole)
    for below in belows:
        skipped = [encoded(model, clip, PixelChange(below, model.patch_size)) for clip in test]
        told(f"below {below:g}", [found for found, *_ in skipped], tokens / sum(count for _, count, _ in skipped))
        chance = [encoded(model, clip, Chance(each[2])) for clip, each in zip(test, skipped, strict=True)]
        told("  by chance", [found for found, *_ in chance], tokens / sum(count for _, count, _ in chance))
        step = max(round(tokens / sum(count for _, count, _ in skipped)), 1)
        dropped = [every(model, clip, step) for clip in test]
        told(f"  1 of {step} tubelets", [found for found, _ in dropped], tokens / sum(count for _, count in dropped))


def feature(found):
    """The mean of all tokens of a stream."""
    return torch.stack([each.tokens for each in found]).mean((0, 1))


def reconstruct(model, clips, videos, belows, noises):
    def shown(name, found):
        print(f"{name}: skipped, PSNR")
        for words, figures in found.items():
            skipped, quality = np.mean(figures, 0)
            print(f"  {words:17} {skipped:6.1%} {quality:.2f} dB", flush=True)

    for name, frames in videos.items():
        hidden = _block(middle_of(frames), "moving")
        found = filled(model, HiddenClip(name, frames, hidden), belows)
        shown(f"{name}, moving block, {len(frames)} frames", {words: [each] for words, each in found.items()})
    side = model.image_size[0]
    source = open_clips(f"shapes-video:{clips},split=test,size={side}")

    def cameras(block):
        for seed in range(clips):
            frames = still_camera(64, side, 0, seed)
            yield HiddenClip("", frames, _block(middle_of(frames), block))

    for noise in noises:
        for name, made in (("moving scenes", lambda block: hidden_clips(source, block)), ("still camera", cameras)):
            for block in ("standing", "moving"):
                found = {}
                for clip in made(block):
                    generator = torch.Generator().manual_seed(0)
                    frames = clip.frames + noise * torch.randn(clip.frames.shape, generator=generator)
                    clip = replace(clip, frames=frames.round().clamp(0, 255).to(torch.uint8))
                    for words, figures in filled(model, clip, belows).items():
                        found.setdefault(words, []).append(figures)
                shown(f"{name}, noise {noise:g}, {BLOCKS[block]}, n {clips}", found)


def middle_of(frames):
    """The middle of frames [n, 3, H, W], where a block stands or passes, bool [n, H, W]."""
    middle, (row, column) = torch.zeros_like(frames[:, 0], dtype=torch.bool), (side // 2 for side in frames.shape[2:])
    middle[:, row - 1 : row + 1, column - 1 : column + 1] = True
    return middle


def filled(model, clip, belows):
    """{how: (share that was skipped, PSNR in dB)}."""
    found = {}

    def fill(words, skipper):
        recoverer, counts = StreamRecoverer(model, skipper=skipper), []
        push = recoverer.encoder.push

        def counted(*given):
            made = push(*given)
            counts.extend(len(each.places) - each.skipped for each in made)
            return made

        recoverer.encoder.push = counted
        done = [recoverer.push(clip.given(), clip.hidden), recoverer.flush()]
        completed = torch.cat([part for part in done if part is not None])
        found[words] = recoverer.skipped, judge(clip, {"": completed})[""]["psnr"]
        return counts

    fill("nothing skipped", None)
    for below in belows:
        counts = fill(f"below {below:g}", PixelChange(below, model.patch_size))
        fill(f"  by chance, {below:g}", Chance(counts))
    return found


def speed(spec, belows, noises, count, rounds):
    name, *numbers = spec.split(":")
    side, patch, frames = map(int, numbers)
    torch.manual_seed(0)
    model = VideoMaskedAutoencoder.from_size(name, side, patch, frames=frames).eval()

    def seconds(encoder, pictures):
        started = time.process_time()
        for picture in pictures:
            encoder.push(torch.from_numpy(central_view(picture, model.image_size))[None])
        return time.process_time() - started

    for noise in noises:
        camera = still_camera(count, side * 3 // 2, noise).permute(0, 2, 3, 1).numpy()
        pictures = [Image.fromarray(frame) for frame in camera]
        encoders = {"every window": WindowByFrames(model), "stream": StreamEncoder(model)}
        encoders |= {f"below {below:g}": StreamEncoder(model, skipper=PixelChange(below, patch)) for below in belows}
        for encoder in encoders.values():  # the window is full before anything is measured
            seconds(encoder, pictures[:frames])
        times = {key: [] for key in encoders}
        for _ in range(rounds):
            for key, encoder in encoders.items():
                times[key].append(seconds(encoder, pictures))
        print(f"{spec}, noise {noise:g}, {count} frames, n {rounds}:")
        told(times, "every window", count)
        speed_of_filling(model, camera, belows, rounds)


def told(times, first, count):
    for key, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(times[first], found, strict=True))
        print(f"  {key}: {1e3 * statistics.median(found) / count:.1f} ms a frame, x{ratio:.2f}", flush=True)


def speed_of_filling(model, camera, belows, rounds):
    """The same with a block that goes to and fro, filled in."""
    frames = torch.from_numpy(camera).permute(0, 3, 1, 2).contiguous()
    hidden = _block(middle_of(frames), "moving")
    recoverers = {"filled in": StreamRecoverer(model)}
    recoverers |= {
        f"filled in, below {below:g}": StreamRecoverer(model, skipper=PixelChange(below, model.patch_size))
        for below in belows
    }
    times = {key: [] for key in recoverers}
    for turn in range(rounds + 1):  # the window is full before anything is measured
        for key, recoverer in recoverers.items():
            started = time.process_time()
            for frame, mask in zip(frames, hidden, strict=True):
                recoverer.push(frame[None], mask[None])
            if turn:
                times[key].append(time.process_time() - started)
    told(times, "filled in", len(frames))


class WindowByFrames(WholeWindow):
    """The same, of frames that come one by one."""

    waiting = ()

    def push(self, frames):
        self.waiting = (*self.waiting, *frames)
        if len(self.waiting) == self.model.tubelet:
            super().push(torch.stack(self.waiting))
            self.waiting = ()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("videos", nargs="*")
    parser.add_argument("--below", type=float, nargs="*", default=[0.01, 0.02, 0.04])
    parser.add_argument("--noise", type=float, nargs="*", default=[0, 5, 15])
    parser.add_argument("--frames", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--probe", nargs=2, metavar=("TRAIN", "TEST"))
    parser.add_argument("--reconstruct", type=int, metavar="CLIPS")
    parser.add_argument("--speed", metavar="NAME:SIDE:PATCH:FRAMES")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    if arguments.speed:
        speed(arguments.speed, arguments.below, arguments.noise, arguments.frames, arguments.rounds)
        return
    model = load_model(arguments.run)
    videos = {}
    for video in arguments.videos:
        live = Live(LiveOptions(video, limit=arguments.frames))
        views = [central_view(Image.fromarray(frame), model.image_size) for frame in live]
        videos[Path(video).name] = torch.from_numpy(np.stack(views[: len(views) // model.tubelet * model.tubelet]))
    if arguments.reconstruct:
        reconstruct(model, arguments.reconstruct, videos, arguments.below, arguments.noise)
        return
    if arguments.probe:
        for noise in arguments.noise:
            probe(model, arguments.probe, arguments.below, noise)
        return
    for noise in arguments.noise:
        frames = still_camera(arguments.frames, model.image_size[0], noise)
        fidelity(model, f"still camera, noise {noise:g}", frames, arguments.below)
    for name, frames in videos.items():
        fidelity(model, name, frames, arguments.below)


if __name__ == "__main__":
    with torch.no_grad():
        main()
