"""``reconstruct`` of a stream of frames: a video whose occluded regions a masked autoencoder fills in as it comes.

``NAME.mp4`` is the completed video and, where it is asked for, ``NAME-side.mp4`` shows it beside what was given. They
are there only when they are whole. ``report.json`` says what was done, what was wrong with the stream, and how near the
truth it came where that is known. Before a video is compressed, all pixels outside of the occlusion are those given, to
the bit. A video model remembers a window of the stream, or looks ahead as far; an image model completes every frame on
its own. Memory does not grow with the length. A thread reads ahead, and another one writes behind.
"""

from __future__ import annotations

import json
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae.evaluation.image_quality import SSIM_REACH, psnr, ssim
from mae.recovery.completion import box_around, seam
from mae.recovery.stream_recoverer import Recoverer, stream_recoverer
from pipelines.commandline.machine import usable_precision
from pipelines.errors import UserError, user_errors, without_secrets
from pipelines.frames.companions import Companion
from pipelines.frames.live import Live, Watched, faults_in_words, skipped_in_words
from pipelines.frames.options import STDIN
from pipelines.frames.video_writer import VideoWriter, open_video, video_suffix
from pipelines.outputs import one_writer
from pipelines.prefetch import one_behind
from pipelines.progress import progress_bar
from pipelines.reconstruct.hidden_region import Occlusions
from pipelines.reconstruct.options import ReconstructOptions
from pipelines.reconstruct.reconstruct import SIDE, check_written, open_model
from pipelines.sources.images import BadImage
from saliency.files import remove_leftovers, write_text_atomically

_GREY = 128
_BEHIND = 4  # frames that wait to be written
_REPORT = "report.json"


@dataclass
class VideoReconstruction:
    """What came of it."""

    file: Path
    frames: int = 0
    means: dict[str, float] = field(default_factory=dict)
    """Of the figures of all frames that have them."""
    faults: dict[str, int | bool] = field(default_factory=dict)
    """As :class:`pipelines.frames.live.Faults`; ``mask_ended``, ``truth_ended``: the frame from which
    the last one stays."""
    latency: int = 1
    """In frames."""
    skip_below: float = 0.0
    """What a patch had to change to be encoded again; ``skipped`` is the share of the visible ones that did not."""
    skipped: float = 0.0
    seconds: float = 0.0
    delay: float = 0.0
    """The median time in seconds from a frame's arrival until it was written, over the last thousand."""

    def facts(self, stall_timeout: float) -> dict[str, str]:
        """Lines of text by title."""
        facts = {"completed": f"{self.frames} frames in {self.file}, {self.frames / self.seconds:.3g} a second"}
        facts["latency"] = f"{self.latency} frames, {1000 * self.delay:.0f} ms"
        if self.skip_below:
            facts["skipped"] = skipped_in_words(self.skipped, self.skip_below)
        facts |= faults_in_words(self.faults, stall_timeout)
        return facts | {name: f"{value:.4g}" for name, value in self.means.items()}


def reconstruct_video(options: ReconstructOptions, *, quiet: bool = True) -> VideoReconstruction:
    """Complete a stream. UserError for what can't be opened or does not fit; nothing is written then."""
    started = time.monotonic()
    with user_errors():
        stream = options.live
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out} is a file; give a folder")
    model, gate = open_model(options.run, options.device)
    with user_errors():
        recoverer = stream_recoverer(
            model,
            blend=options.blend,
            precision=usable_precision(options.precision, options.device),
            look_ahead=options.look_ahead,
            skip_below=options.skip_below,
        )
    live = Live(stream)
    masks = _companion("--mask", options.mask, live, masks=True)
    truth = _companion("--truth", options.truth, live, masks=False)
    name, suffix = stream_name(options.input), video_suffix(lossless=options.lossless)
    files = [options.out / f"{name}{end}{suffix}" for end in ("", SIDE)[: 1 + options.side]]
    check_written(options, [file.name for file in files], [])
    found = VideoReconstruction(files[0], latency=recoverer.latency, skip_below=options.skip_below)
    record = Record(files)
    with ExitStack() as stack:
        stack.callback(live.close)
        occlusions = Occlusions(options, model, gate, _in_order(masks))
        given = Watched(_given(live, occlusions, truth, itself=options.truth is not None), threading.TIMEOUT_MAX)
        stack.callback(given.close)
        bar = progress_bar(given, unit="frames", quiet=quiet)
        for frame, completed in _completed(recoverer, bar):
            if not found.frames:
                stack.enter_context(one_writer(options.out, name=name))
                remove_leftovers(options.out, {file.name for file in files} | {_REPORT}, deep=False)
                record.open(stack, live.fps, lossless=options.lossless)
                behind = stack.enter_context(one_behind(depth=_BEHIND))
            behind(partial(record.add, frame, completed))
            if record.delays:
                shown = {"skipped": f"{recoverer.skipped:.0%}"} if options.skip_below else {}
                bar.set_postfix(shown, latency=f"{1000 * record.delays[-1]:.0f} ms", refresh=False)
            found.frames += 1
    found.delay, found.skipped = statistics.median(record.delays), recoverer.skipped
    found.means, found.faults = record.figures.means(), dict(live.faults.shown())
    for word, companion in (("mask", masks), ("truth", truth)):
        if companion is not None and companion.ended is not None and companion.ended >= 0:
            found.faults[f"{word}_ended"] = companion.ended
    report = {
        "model": str(options.run),
        "input": without_secrets(options.input),
        "frames": found.frames,
        "fps": float(live.fps),
    }
    report |= {"latency": found.latency, "means": found.means, "faults": found.faults}
    if found.skip_below:
        report |= {"skip_below": found.skip_below, "skipped": found.skipped}
    write_text_atomically(options.out / _REPORT, json.dumps(report, indent=1) + "\n")
    found.seconds = time.monotonic() - started
    return found


def stream_name(place: str) -> str:
    """What files are called that are made of a stream."""
    if place == STDIN:
        return "stdin"
    path = Path(place.split("?")[0])
    return (path.resolve().name if path.is_dir() else path.stem) or "stream"


@dataclass(frozen=True)
class Frame:
    """A frame as given, uint8 [3, H, W], what is hidden of it, bool [H, W], and the true one."""

    pixels: Tensor
    hidden: Tensor
    truth: Tensor | None
    arrived: float = field(default_factory=time.monotonic)
    """When it was read, in seconds of the monotonic clock."""


class Figures:
    """Means over the frames of a stream, in bounded memory."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, frame: Frame, completed: Tensor) -> None:
        """Those of a frame and what was made of it."""
        hidden = frame.hidden[None]
        self._count("hidden", float(hidden.float().mean()))
        if not hidden.any():
            return
        self._count("seam", float(seam(completed[None], hidden)[0]))
        if frame.truth is not None:
            near = box_around(hidden, (SSIM_REACH, SSIM_REACH))  # a fraction of the cost, the same figures
            assert near is not None
            for name, measure in (("psnr", psnr), ("ssim", ssim)):
                value = measure(completed[None][(..., *near)], frame.truth[None][(..., *near)], hidden[(..., *near)])
                self._count(name, float(value[0]))
            self._count("seam_of_truth", float(seam(frame.truth[None], hidden)[0]))

    def means(self) -> dict[str, float]:
        """What there is, by name."""
        return {name: total / count for name, (total, count) in self._sums.items()}

    def _count(self, name: str, value: float) -> None:
        if not math.isnan(value):
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value, count + 1


class Record:
    """What becomes of the completed frames: ``files`` of one video or two, and figures."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.figures = Figures()
        self.delays: deque[float] = deque(maxlen=1000)
        """Seconds from a frame's arrival until it was written."""
        self._writers: list[VideoWriter] = []

    def open(self, stack: ExitStack, fps: Fraction, *, lossless: bool) -> None:
        """Begin the videos, which are whole when the stack is closed without an error."""
        self._writers = [stack.enter_context(open_video(file, fps, lossless=lossless)) for file in self.files]

    def add(self, frame: Frame, completed: Tensor) -> None:
        """Write a frame; to the second video, if there is one, all pictures of it beside each other."""
        self.figures.add(frame, completed)
        pictures = [completed]
        if len(self._writers) > 1:
            shown = [frame.pixels.masked_fill(frame.hidden, _GREY), completed]
            shown += [] if frame.truth is None else [frame.truth]
            pictures.append(torch.cat(shown, dim=2))
        for writer, picture in zip(self._writers, pictures, strict=True):
            writer.write(picture.permute(1, 2, 0).numpy())
        self.delays.append(time.monotonic() - frame.arrived)


def _companion(option: str, place: Path | None, live: Live, *, masks: bool) -> Companion | None:
    if place is None or (not masks and str(place) == live.options.input):
        return None
    return Companion(option, place, live, masks=masks)


def _in_order(masks: Companion | None) -> Callable[[str], Tensor] | None:
    """Masks by the number of their frame, as :class:`pipelines.reconstruct.hidden_region.Occlusions` asks for them."""
    if masks is None:
        return None
    return lambda number: torch.from_numpy(np.ascontiguousarray(masks.of(int(number))))


def _given(live: Live, occlusions: Occlusions, truth: Companion | None, *, itself: bool) -> Iterator[Frame]:
    """The frames of a stream; the true ones are ``itself`` where nothing else is. UserError for what does not fit."""
    for number, array in enumerate(live):
        pixels = _pixels(array)
        try:
            hidden = occlusions.hidden(str(number), pixels)
        except BadImage as error:
            raise UserError(f"frame {number}: {error}") from error
        true = pixels if itself else None
        if truth is not None:
            true = _pixels(truth.of(number))
            if true.shape != pixels.shape:
                raise UserError(f"frame {number}: the true picture has another size")
        yield Frame(pixels, hidden, true)


def _completed(recoverer: Recoverer, given: Iterable[Frame]) -> Iterator[tuple[Frame, Tensor]]:
    """Every frame with what was made of it, as soon as it is."""
    waiting: deque[Frame] = deque()
    for frame in given:
        waiting.append(frame)
        for completed in recoverer.push(frame.pixels[None], frame.hidden[None]):
            yield waiting.popleft(), completed
    rest = recoverer.flush()
    for completed in () if rest is None else rest:
        yield waiting.popleft(), completed


def _pixels(array: NDArray[np.uint8]) -> Tensor:
    """uint8 [3, H, W]."""
    return torch.from_numpy(np.array(array)).permute(2, 0, 1)
