"""A stream through a video model: frames/s beside re-encoding every window, memory over 10 000 frames, likeness.

    python benchmarks/bench_stream.py [--models tiny:64:8:16 small:112:16:16] [--rounds 5] [--device cpu]
                                      [--precision fp32]
    python benchmarks/bench_stream.py --memory 10000 [--device cpu]
    python benchmarks/bench_stream.py --likeness RUN VIDEO

``NAME:SIDE:PATCH:FRAMES``, tubelets of two frames, random weights. First, the median frames/s of encoding and of
filling in a quarter of the picture, each beside the same with the whole window encoded from scratch for every tubelet,
in turns, over whole turns of the window. ``--memory``: the resident memory of the command ``reconstruct`` over raw
frames on standard input, the peak of every tenth. ``--likeness``: the cosine similarity between what the stream gives
for a tubelet and what the whole window gives, of tokens and of mean tokens, by the number of slots that it remembers.
"""

import argparse
import platform
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict, deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mae.models.video import VideoMaskedAutoencoder
from mae.pixels import normalise
from mae.precision import rounded
from mae.recovery.stream_encoder import StreamEncoder, hidden_cells
from mae.recovery.stream_recoverer import StreamRecoverer
from mae.training.checkpoints import load_model
from pipelines.frames.live import Live
from pipelines.frames.options import LiveOptions
from pipelines.reconstruct.options import ReconstructOptions
from pipelines.reconstruct.reconstruct_video import reconstruct_video
from pipelines.views.geometry import View, central_box, view_image

TENTHS = 10


class WholeWindow:
    """What a stream's encoder is measured against: the last W tubelets are encoded from scratch for every new one."""

    def __init__(self, model, precision="fp32"):
        self.model, self.precision = model, precision
        self.slots, self.places = model.grid[0], model.grid[1] * model.grid[2]
        self.slot = self.slots - 1
        self.clips, self.kept = deque(maxlen=self.slots), deque(maxlen=self.slots)

    @torch.no_grad()
    def push(self, frames, hidden=None):
        model = self.model
        for start in range(0, len(frames), model.tubelet):
            clip = normalise(frames[start : start + model.tubelet].to(model.pos_embed.device)).transpose(0, 1)
            places = torch.arange(self.places, device=clip.device)
            if hidden is not None:
                cells = hidden_cells(hidden[start : start + model.tubelet].to(clip.device), model.patch_size)
                places = torch.nonzero(~cells)[:, 0]
            self.clips.append(clip)
            self.kept.append(places)
            if len(self.clips) == self.slots:
                self.ids = torch.cat([slot * self.places + places for slot, places in enumerate(self.kept)])[None]
                with rounded(self.precision, clip.device):
                    self.latents = model.encode_visible(torch.cat(tuple(self.clips), dim=1)[None], self.ids)

    def window(self):
        return self.latents, self.ids

    def newest(self):
        """The tokens of the newest tubelet."""
        return self.latents[0, self.latents.shape[1] - len(self.kept[-1]) :]


class WholeDecoder:
    """The same for the decoder: the window's visible tokens and the newest tubelet's hidden ones, from scratch."""

    def __init__(self, encoder):
        self.encoder = encoder

    @torch.no_grad()
    def predict(self, hidden):
        (latents, ids), slot = self.encoder.window(), self.encoder.slot
        with rounded(self.encoder.precision, latents.device):
            return self.encoder.model._fill_in(latents, ids, slot * self.encoder.places + hidden[None])[0].float()


def footage(count, side, seed=0):
    """Frames that slide over a texture, uint8 [count, 3, side, side]."""
    texture = torch.randint(0, 256, (3, side + count, side + count), generator=torch.Generator().manual_seed(seed))
    return torch.stack([texture[:, k : k + side, k // 2 : k // 2 + side] for k in range(count)]).to(torch.uint8)


def seconds(work, device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def speed(name, side, patch, count, rounds, device, precision):
    torch.manual_seed(0)
    model = VideoMaskedAutoencoder.from_size(name, side, patch, frames=count).to(device).eval()
    frames = footage(count, side)
    hidden = torch.zeros(count, side, side, dtype=torch.bool)
    hidden[:, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = True
    whole, stream = WholeWindow(model, precision), StreamEncoder(model, precision)
    filled, filled_whole = (StreamRecoverer(model, precision=precision) for _ in range(2))
    filled_whole.encoder = WholeWindow(model, precision)
    filled_whole._decoder = WholeDecoder(filled_whole.encoder)
    works = {
        "encode": (lambda: stream.push(frames), lambda: whole.push(frames)),
        "reconstruct": (lambda: filled.push(frames, hidden), lambda: filled_whole.push(frames, hidden)),
    }
    filled_whole.encoder.push(frames[:-2], hidden[:-2])  # nothing is measured, or decoded, before the window is full
    for what, (streaming, again) in works.items():
        streaming()
        again()
        times = [(seconds(streaming, device), seconds(again, device)) for _ in range(rounds)]
        rates = [[count / each for each in column] for column in zip(*times, strict=True)]
        ratio = statistics.median(one / other for one, other in zip(*rates, strict=True))
        one, other = map(statistics.median, rates)
        print(
            f"{name} {side}/{patch}, {count} frames, {what}: {one:.4g} frames/s, {other:.4g} from scratch, ×{ratio:.2f}"
        )


class Endless:
    """Raw frames for standard input, as many as there are to be."""

    def __init__(self, count, side):
        self.count, self.given = count, 0
        self.frames = footage(64, side).permute(0, 2, 3, 1).numpy()

    def readinto(self, view):
        if self.given == self.count:
            return 0
        view[:] = self.frames[self.given % 64].tobytes()
        self.given += 1
        return len(view)


def memory(count, device):
    source, peaks, over = Endless(count, 96), [0.0] * TENTHS, threading.Event()
    sys.stdin = SimpleNamespace(buffer=source)

    def watch():
        while not over.wait(0.05):
            tenth = min(source.given * TENTHS // count, TENTHS - 1)
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
            peaks[tenth] = max(peaks[tenth], resident)

    torch.manual_seed(0)
    watcher = threading.Thread(target=watch, daemon=True)
    with tempfile.TemporaryDirectory() as scratch:
        VideoMaskedAutoencoder.from_size("mini", 64, 8, frames=16).save_pretrained(Path(scratch) / "model")
        model, out = Path(scratch) / "model", Path(scratch) / "out"
        options = ReconstructOptions(model, "-", out, box=("0.25,0.25,0.75,0.75",), size=(96, 96), device=device)
        watcher.start()
        found = reconstruct_video(options)
    over.set()
    watcher.join()
    print(f"{found.frames} frames of 96×96 completed in {found.seconds:.0f} s; the peak of each tenth, MB:")
    print(" ".join(f"{peak:.0f}" for peak in peaks))
    half = TENTHS // 2
    print(f"the second half's peak is {max(peaks[half:]) - max(peaks[:half]):+.1f} MB from the first's")


@torch.no_grad()
def likeness(run, place):
    for name, model in (("trained", load_model(run)), ("untrained", None)):
        if model is None:
            torch.manual_seed(0)
            model = VideoMaskedAutoencoder(**load_model(run)._hub_mixin_config).eval()
        stream, whole = StreamEncoder(model), WholeWindow(model)
        (height, width), waiting = model.image_size, []
        likenesses = defaultdict(list)
        for frame in Live(LiveOptions(place)):
            image = Image.fromarray(frame)
            view = View(central_box(*image.size, width / height))
            waiting.append(torch.from_numpy(view_image(image, view, (height, width))))
            if len(waiting) < model.tubelet:
                continue
            frames, waiting = torch.stack(waiting), []
            found = stream.push(frames)[0]
            whole.push(frames)
            if found.number + 1 < 2 * model.grid[0]:
                continue
            tokens = F.cosine_similarity(found.tokens, whole.newest()).mean()
            mean = F.cosine_similarity(found.feature(), whole.newest().mean(0), dim=0)
            likenesses[stream.slot + 1].append((float(tokens), float(mean)))
        everything = [each for column in likenesses.values() for each in column]
        print(f"{name}: cosine similarity of tokens, and of mean tokens; n {len(everything)} tubelets")
        for slots, values in [*sorted(likenesses.items()), ("all", everything)]:
            tokens, means = np.mean(values, axis=0)
            print(f"  {slots} slots: {tokens:.4f} {means:.4f} (least {np.min(values, axis=0)[1]:.4f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["tiny:64:8:16", "small:112:16:16", "base:224:16:16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--memory", type=int)
    parser.add_argument("--likeness", nargs=2, metavar=("RUN", "VIDEO"))
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, n {arguments.rounds}")
    if arguments.memory:
        memory(arguments.memory, arguments.device)
    elif arguments.likeness:
        likeness(Path(arguments.likeness[0]), arguments.likeness[1])
    else:
        for model in arguments.models:
            name, *numbers = model.split(":")
            speed(name, *map(int, numbers), arguments.rounds, torch.device(arguments.device), arguments.precision)


if __name__ == "__main__":
    main()
