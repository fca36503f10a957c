"""`reconstruct` of a video of 854×480: frames/s, where the time goes, and OpenCV's inpainting beside it.

    python benchmarks/bench_reconstruct.py [--models mini:64:8:16 tiny:64:8:16 small:112:16:16] [--frames 200]
                                           [--video VIDEO --mask MASKS]
    python benchmarks/bench_reconstruct.py --run RUN [--clips 40] [--side 96]

``NAME:SIDE:PATCH:FRAMES``, random weights. The footage slides over a smooth texture, and a block that hides a tenth of
the picture goes to and fro, unless ``--video`` names other footage. First, frames/s of the whole command, on one core
and on two, everything included. Then milliseconds of processor time a frame by stage, on one thread: decoding, model
and blending, H.264, and OpenCV's ``inpaint`` (Telea; Navier–Stokes) on the same frames. ``--run``: PSNR of the hidden
pixels of moving scenes, of a trained model and of both inpaintings (``pip install opencv-python-headless``).
"""

import argparse
import os
import platform
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from mae.models.video import VideoMaskedAutoencoder
from mae.recovery.stream_recoverer import StreamRecoverer
from mae.training.checkpoints import load_model
from pipelines.demo.recovered_clips import BLOCKS, fill_in, hidden_clips, judge
from pipelines.frames.live import Live
from pipelines.frames.options import LiveOptions
from pipelines.frames.video_writer import open_video
from pipelines.reconstruct.options import ReconstructOptions
from pipelines.reconstruct.reconstruct_video import reconstruct_video
from pipelines.sources.open_source import open_clips

HEIGHT, WIDTH = 480, 854
RADIUS = 3
INPAINTINGS = {"Telea": cv2.INPAINT_TELEA, "Navier-Stokes": cv2.INPAINT_NS}


def write_footage(folder, count):
    """A video and the video of its masks."""
    rows, columns = HEIGHT // 16 + 20, WIDTH // 16 + 20
    noise = torch.rand(1, 3, rows, columns, generator=torch.Generator().manual_seed(0))
    texture = F.interpolate(noise, scale_factor=16, mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)[0]
    side = round((HEIGHT * WIDTH / 10) ** 0.5)
    files = folder / "video.mp4", folder / "masks.mp4"
    with open_video(files[0], Fraction(30)) as video, open_video(files[1], Fraction(30)) as masks:
        for number in range(count):
            shift = abs(number % 400 - 200)
            frame = texture[:, shift : shift + HEIGHT, shift : shift + WIDTH].permute(1, 2, 0).numpy()
            video.write(np.ascontiguousarray(frame))
            left = abs(number * 8 % (2 * (WIDTH - side)) - (WIDTH - side))
            mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            mask[100 : 100 + side, left : left + side] = 255
            masks.write(mask)
    return files


def saved_model(spec, folder):
    name, side, patch, frames = spec.split(":")
    torch.manual_seed(0)
    model = VideoMaskedAutoencoder.from_size(name, int(side), int(patch), frames=int(frames)).eval()
    model.save_pretrained(folder / name)
    return folder / name, model


def rate(model, video, mask, out, cores):
    """Frames/s of the command on so many cores; the file of the model is read in that time, too."""
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, sorted(before)[:cores])
    torch.set_num_threads(cores)
    try:
        found = reconstruct_video(ReconstructOptions(model, str(video), out, mask=mask))
    finally:
        os.sched_setaffinity(0, before)
        torch.set_num_threads(threads)
    return found.frames / found.seconds, 1000 * found.delay


def milliseconds(work, count):
    started = time.process_time()
    for item in work:
        item()
    return 1000 * (time.process_time() - started) / count


def stages(models, video, mask, folder):
    """Milliseconds of processor time a frame, on one thread."""
    torch.set_num_threads(1)
    frames, hidden = [], []
    read = {
        "decoding the video": lambda: frames.extend(map(np.array, Live(LiveOptions(str(video))))),
        "decoding the masks": lambda: hidden.extend(frame.mean(2) > 127 for frame in Live(LiveOptions(str(mask)))),
    }
    for name, work in read.items():
        spent = milliseconds([work], 1)
        print(f"  {name}: {spent / len(frames):.1f}")
    count = len(frames)
    for name, model in models.items():
        recoverer = StreamRecoverer(model)
        given = [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in frames]
        masks = [torch.from_numpy(each)[None] for each in hidden]
        work = [lambda a=a, b=b: recoverer.push(a, b) for a, b in zip(given, masks, strict=True)]  # noqa: B023
        print(f"  {name}, model and blending: {milliseconds(work, count):.1f}")
    with open_video(folder / "again.mp4", Fraction(30)) as writer:
        print(f"  H.264: {milliseconds([lambda f=f: writer.write(f) for f in frames], count):.1f}")
    cv2.setNumThreads(1)
    pairs = list(zip(frames, hidden, strict=True))[:10]
    for name, how in INPAINTINGS.items():
        work = [lambda f=f, h=h: cv2.inpaint(f, h.astype(np.uint8), RADIUS, how) for f, h in pairs]  # noqa: B023
        print(f"  OpenCV, {name}: {milliseconds(work, len(pairs)):.1f}")


def quality(run, clips, side):
    model = load_model(run).eval()
    source = open_clips(f"shapes-video:{clips},split=test,size={side}")
    for block, words in BLOCKS.items():
        sums = {}
        for clip in hidden_clips(source, block):
            done = {"the model": fill_in(model, clip)["model"]}
            pixels = clip.frames.permute(0, 2, 3, 1).numpy()
            for name, how in INPAINTINGS.items():
                filled = [
                    cv2.inpaint(np.ascontiguousarray(frame), mask.numpy().astype(np.uint8), RADIUS, how)
                    for frame, mask in zip(pixels, clip.hidden, strict=True)
                ]
                done[f"OpenCV, {name}"] = torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2)
            for name, figures in judge(clip, done).items():
                sums.setdefault(name, []).append(figures["psnr"])
        print(f"{words}, n {clips}: " + ", ".join(f"{name} {np.mean(values):.2f} dB" for name, values in sums.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["mini:64:8:16", "tiny:64:8:16", "small:112:16:16"])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--side", type=int, default=96)
    asked = parser.parse_args()
    print(f"torch {torch.__version__}, OpenCV {cv2.__version__}, {platform.machine()}, {os.cpu_count()} cores")
    if asked.run:
        return quality(asked.run, asked.clips, asked.side)
    with tempfile.TemporaryDirectory() as scratch:
        folder, models = Path(scratch), {}
        video, mask = (asked.video, asked.mask) if asked.video else write_footage(folder, asked.frames)
        for spec in asked.models:
            place, models[spec] = saved_model(spec, folder)
            for cores in (1, 2):
                speed, delay = rate(place, video, mask, folder / f"out-{place.name}-{cores}", cores)
                print(f"{spec}, {cores} cores: {speed:.3g} frames/s, {delay:.0f} ms from reading to writing")
        print("milliseconds of processor time a frame, one thread:")
        stages(models, video, mask, folder)


if __name__ == "__main__":
    main()
