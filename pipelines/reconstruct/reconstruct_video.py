"""``reconstruct`` of a stream of frames: a video whose occluded regions a masked autoencoder fills in as it comes.

``NAME.mp4`` is the completed video and ``NAME-side.mp4`` shows it beside what was given, both there only when they are
whole; ``report.json`` says what was done, what was wrong with the stream, and how near the truth it came where that is
known. Before a video is compressed, all pixels outside of the occlusion are those given, to the bit. A video model
remembers a window of the stream, an image model completes every frame on its own; memory does not grow with the length.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae.evaluation.image_quality import SSIM_REACH, psnr, ssim
from mae.recovery.completion import seam
from mae.recovery.stream_recoverer import Recoverer, stream_recoverer
from pipelines.commandline.machine import usable_precision
from pipelines.errors import UserError, user_errors, without_secrets
from pipelines.frames.companions import Companion
from pipelines.frames.live import Live, faults_in_words
from pipelines.frames.options import STDIN
from pipelines.frames.video_writer import VideoWriter, open_video, video_suffix
from pipelines.outputs import one_writer
from pipelines.progress import progress_bar
from pipelines.reconstruct.hidden_region import Occlusions
from pipelines.reconstruct.options import ReconstructOptions
from pipelines.reconstruct.reconstruct import SIDE, check_written, open_model
from pipelines.sources.images import BadImage
from saliency.files import remove_leftovers, write_text_atomically

_GREY = 128
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
    seconds: float = 0.0

    def facts(self, stall_timeout: float) -> dict[str, str]:
        """Lines of text by title."""
        facts = {"completed": f"{self.frames} frames in {self.file}, {self.frames / self.seconds:.3g} a second"}
        facts |= {"latency": f"{self.latency} frames"} | faults_in_words(self.faults, stall_timeout)
        return facts | {name: f"{value:.4g}" for name, value in self.means.items()}


def reconstruct_video(options: ReconstructOptions, *, quiet: bool = True) -> VideoReconstruction:
    """Complete a stream. UserError for what can't be opened or does not fit; nothing is written then."""
    started = time.monotonic()
    with user_errors():
        stream = options.live
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out} is a file; give a folder")
    model, gate = open_model(options.run, options.device)
    live = Live(stream)
    masks = _companion("--mask", options.mask, live, masks=True)
    truth = _companion("--truth", options.truth, live, masks=False)
    name = stream_name(options.input)
    suffix = video_suffix(lossless=options.lossless)
    check_written(options, [f"{name}{suffix}", f"{name}{SIDE}{suffix}"], [])
    found = VideoReconstruction(options.out / f"{name}{suffix}")
    recoverer = stream_recoverer(
        model, blend=options.blend, precision=usable_precision(options.precision, options.device)
    )
    found.latency = recoverer.latency
    figures = Figures()
    with ExitStack() as stack:
        stack.callback(live.close)
        occlusions = Occlusions(options, model, gate, _in_order(masks))
        given = _given(live, occlusions, truth, itself=options.truth is not None)
        writers: list[VideoWriter] = []
        for frame, completed in _completed(recoverer, progress_bar(given, unit="frames", quiet=quiet)):
            if not writers:
                files = (found.file, found.file.with_stem(f"{name}{SIDE}"))
                stack.enter_context(one_writer(options.out, name=name))
                remove_leftovers(options.out, {file.name for file in files} | {_REPORT}, deep=False)
                writers = [stack.enter_context(open_video(file, live.fps, lossless=options.lossless)) for file in files]
            figures.add(frame, completed)
            _write(writers, frame, completed)
            found.frames += 1
    found.means, found.faults = figures.means(), dict(live.faults.shown())
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
            near = _around(frame.hidden, SSIM_REACH)  # a fraction of the cost, the same figures
            for name, measure in (("psnr", psnr), ("ssim", ssim)):
                value = measure(completed[None][near], frame.truth[None][near], hidden[near])
                self._count(name, float(value[0]))
            self._count("seam_of_truth", float(seam(frame.truth[None], hidden)[0]))

    def means(self) -> dict[str, float]:
        """What there is, by name."""
        return {name: total / count for name, (total, count) in self._sums.items()}

    def _count(self, name: str, value: float) -> None:
        if not math.isnan(value):
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value, count + 1


def _companion(option: str, place: Path | None, live: Live, *, masks: bool) -> Companion | None:
    if place is None or (not masks and str(place) == live.options.input):
        return None
    return Companion(option, place, live, masks=masks)


def _around(hidden: Tensor, margin: int) -> tuple[Any, slice, slice]:
    """The smallest box that holds all that is hidden, bool [H, W], and a margin; to index the last two dimensions."""
    sides = []
    for axis in (1, 0):
        there = torch.nonzero(hidden.any(axis))[:, 0]
        sides.append(slice(max(int(there[0]) - margin, 0), int(there[-1]) + margin + 1))
    return (..., sides[0], sides[1])


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


def _write(writers: Sequence[VideoWriter], frame: Frame, completed: Tensor) -> None:
    shown = [frame.pixels.masked_fill(frame.hidden, _GREY), completed]
    shown += [] if frame.truth is None else [frame.truth]
    for writer, picture in zip(writers, (completed, torch.cat(shown, dim=2)), strict=True):
        writer.write(picture.permute(1, 2, 0).numpy())


def _pixels(array: NDArray[np.uint8]) -> Tensor:
    """uint8 [3, H, W]."""
    return torch.from_numpy(np.array(array)).permute(2, 0, 1)
