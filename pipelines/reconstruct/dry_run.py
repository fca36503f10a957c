"""``reconstruct --dry-run``: what would be read, filled in and written, after some seconds of the work itself.

What it says of images, frames and time is the same for every command that reads them with a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.commandline.machine import usable_precision
from pipelines.errors import UserError
from pipelines.estimates import peak_memory, room, sample, shown_size, shown_total, since_began
from pipelines.frames.live import folder_frames
from pipelines.frames.options import STDIN, is_stream
from pipelines.frames.video_writer import video_suffix
from pipelines.reconstruct.options import ReconstructOptions
from pipelines.reconstruct.reconstruct import SIDE, check_written, open_model, output_names, picture_files, reconstruct
from pipelines.reconstruct.reconstruct_video import reconstruct_video, stream_name
from pipelines.sources.images import BadImage
from pipelines.sources.video.video_file import VideoFile


def dry_run(options: ReconstructOptions) -> dict[str, str]:
    """{what: how it is}, after some seconds of the work in a temporary folder. Raises UserError as the command does."""
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out} is a file; give a folder")
    stream = is_stream(options.input, as_video=options.as_video)
    files = {} if stream else picture_files(options)
    names = [stream_name(options.input)] if stream else output_names(files)
    suffix = video_suffix(lossless=options.lossless) if stream else ".png"
    check_written(options, [f"{name}{end}{suffix}" for name in names for end in ("", SIDE)], files.values())

    def work(count: int, folder: Path) -> None:
        (reconstruct_video if stream else reconstruct)(replace(options, out=folder / "out", limit=count), quiet=True)

    return foretell(options, work)


def foretell(options: Any, work: Callable[[int, Path], Any]) -> dict[str, str]:
    """{what: how it is} of a command whose ``work`` does the first images or frames into a folder. UserError.

    ``options`` are of a command that reads images or frames: ``run``, ``input``, ``out``, ``limit`` and the like.
    """
    given = _given(options)
    model, _ = open_model(options.run, options.device)
    opened = since_began()
    found = sample(work, given.count)
    known = given.count is not None
    size = "×".join(map(str, model.image_size))
    parameters = sum(each.numel() for each in model.parameters()) / 1e6
    precision = usable_precision(options.precision, options.device)
    return {
        "input": f"{options.input}: {given.words}",
        "model": f"{options.run}, {parameters:.3g} M parameters, {size} px, {precision} on {options.device}",
        "measured": f"the first {found.units} {given.unit}",
        "speed": f"{1 / found.each:.3g} {given.unit}/s",
        "time": shown_total(opened + found.start, found.work(given.count or 0))
        if known
        else "unknown: a stream may never end",
        "memory": peak_memory(options.device),
        "to write": (f"about {shown_size(found.written(given.count or 0))} in " if known else "")
        + f"{options.out} ({shown_size(found.bytes_each)} for each of the {given.unit}), {room(options.out)}",
    }


@dataclass(frozen=True)
class _Given:
    """What there is to read."""

    count: int | None
    """None of a stream without an end that is known."""
    unit: str
    words: str


def _given(options: Any) -> _Given:
    """UserError for what can be read only once, or not at all."""
    path, limit = Path(options.input), options.limit
    if options.input == STDIN or path.is_fifo():
        raise UserError(f"--dry-run reads the input several times, and {options.input} can be read once: give a file")
    if not is_stream(options.input, as_video=options.as_video):
        files = picture_files(options)
        size = sum(file.stat().st_size for file in files.values())
        return _Given(len(files), "images", f"{len(files)} images, {shown_size(size)}")
    if path.is_dir():
        count = len(folder_frames(path)[:limit])
        return _Given(count, "frames", f"{count} frames")
    if "://" in options.input:
        return _Given(limit, "frames", "a stream" if limit is None else f"{limit} frames of a stream")
    if not path.exists():
        raise UserError(f"{path} does not exist")
    try:
        times = VideoFile(path).times
    except BadImage as error:
        raise UserError(f"{path} is not a video that can be read ({error})") from error
    seconds = float(times[-1] - times[0]) * len(times) / max(len(times) - 1, 1)
    count = len(times) if options.fps is None or not seconds else max(1, round(seconds * options.fps))
    count = count if limit is None else min(count, limit)
    return _Given(count, "frames", f"{count} frames, {shown_size(path.stat().st_size)}")
