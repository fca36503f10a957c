"""``reconstruct``: pictures whose occluded regions a masked autoencoder fills in.

For every picture ``NAME.png`` is the completed one and ``NAME-side.png`` shows it beside what was given; where two
pictures would come to one name, each keeps its suffix as well: ``NAME.jpg.png``. A picture of a subfolder goes to a
subfolder of the same name. Nothing that is read is written over.
All pixels outside the occlusion are kept to the bit. ``report.json`` says what was done, and how near the truth it came
where that is known. A picture that can't be read, or whose mask does not fit, is recorded in ``rejected.jsonl``;
nothing half-written has a final name.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.evaluation.image_quality import psnr, ssim
from mae.mask_learners.gate import Gate, load_gate
from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder
from mae.recovery.completion import complete, seam
from mae.training.checkpoints import gate_file, load_model
from pipelines.commandline.machine import usable_precision
from pipelines.errors import UserError, user_errors
from pipelines.outputs import check_apart, one_writer
from pipelines.progress import progress_bar
from pipelines.reconstruct.hidden_region import Occlusions
from pipelines.reconstruct.options import ReconstructOptions
from pipelines.run_folder import REJECTED
from pipelines.sources.folders import pictures_below, without_masks
from pipelines.sources.images import BadImage, decode_rgb
from pipelines.sources.source import read_file
from saliency.files import remove_leftovers, write_atomically, write_text_atomically

SIDE = "-side"
"""What follows the name of a picture, or of a video, that shows the completed one beside what was given."""

_GREY = 128


@dataclass(frozen=True)
class Reconstruction:
    """What came of it: a line of figures for every picture, and (name, reason) of those that could not be done."""

    pictures: list[dict[str, Any]]
    rejected: list[tuple[str, str]]

    def means(self) -> dict[str, float]:
        """The mean of every figure over the pictures that have it."""
        columns: dict[str, list[float]] = {}
        for line in self.pictures:
            for name, value in line.items():
                if isinstance(value, float):
                    columns.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in columns.items()}

    def facts(self, out: Path) -> dict[str, str]:
        """Lines of text by title; ``out`` is where everything was written."""
        facts = {"completed": f"{len(self.pictures)} pictures in {out}"}
        if self.rejected:
            name, reason = self.rejected[0]
            facts["rejected"] = f"{len(self.rejected)}, first: {name}: {reason}; all are in {out / REJECTED}"
        return facts | {name: f"{value:.4g}" for name, value in self.means().items()}


def reconstruct(options: ReconstructOptions, *, quiet: bool = True) -> Reconstruction:
    """Complete an image, or every image of a folder. UserError for what can't be opened, or if none could be done."""
    model, occlusions = _open(options)
    files = picture_files(options)
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out} is a file; give a folder")
    names = output_names(files)
    check_written(options, [f"{name}{end}" for name in names for end in (".png", f"{SIDE}.png")], files.values())
    with one_writer(options.out):
        written = {f"{PurePosixPath(name).name}{end}.png" for name in names for end in ("", SIDE)}
        remove_leftovers(options.out, written | {REJECTED, "report.json"}, deep=any("/" in name for name in names))
        return _reconstruct(options, model, occlusions, list(zip(files.items(), names, strict=True)), quiet)


def _reconstruct(
    options: ReconstructOptions,
    model: MaskedAutoencoder,
    occlusions: Occlusions,
    files: list[tuple[tuple[str, Path], str]],
    quiet: bool,
) -> Reconstruction:
    done, rejected = [], []
    for (given, file), name in progress_bar(files, unit="images", quiet=quiet):
        try:
            line, pictures = _complete_file(given, file, name, options, model, occlusions)
        except (BadImage, OSError) as error:
            rejected.append((given, str(error)))
            continue
        for path, pixels in pictures.items():  # an error of the disk is no fault of the picture
            _write(path, pixels)
        done.append(line)
    if rejected and not done:
        raise UserError(f"{rejected[0][0]}: {rejected[0][1]}" + (", and so on" if len(rejected) > 1 else ""))
    found = Reconstruction(done, rejected)
    lines = "".join(json.dumps({"name": name, "reason": reason}) + "\n" for name, reason in rejected)
    write_text_atomically(options.out / REJECTED, lines)
    report = {"model": str(options.run), "means": found.means(), "pictures": done, "rejected": len(rejected)}
    write_text_atomically(options.out / "report.json", json.dumps(report, indent=1) + "\n")
    return found


def open_model(run: Path, device: str) -> tuple[MaskedAutoencoder, Gate | None]:
    """The model of a run and its gate, if it has one. UserError."""
    with user_errors():
        model = load_model(run).to(device)
        file = gate_file(run)
        return model, None if file is None else load_gate(file)


def _open(options: ReconstructOptions) -> tuple[MaskedAutoencoder, Occlusions]:
    model, gate = open_model(options.run, options.device)
    if isinstance(model, VideoMaskedAutoencoder):
        raise UserError(f"{options.run} is a model of video: give a video, or a folder of frames and --as-video")
    if options.truth is not None and not options.truth.exists():
        raise UserError(f"--truth {options.truth} does not exist")
    return model, Occlusions(options, model, gate)


def picture_files(options: Any) -> dict[str, Path]:
    """The pictures that a command reads, by name: its ``input``, or the first ``limit`` in that folder. UserError.

    Names are relative to the folder, as keys are: ``cats/1.jpg``. A picture in a subfolder that the command writes to,
    or that holds its masks or truths, is none of them.
    """
    path = Path(options.input)
    if path.is_dir():
        apart = (getattr(options, each, None) for each in ("out", "mask", "truth"))
        names = without_masks(pictures_below(path, apart))[0]
        if not names:
            raise UserError(f"{path} holds no pictures, nor do its subfolders")
        return {name: path / name for name in names[: options.limit]}
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a picture, a folder of pictures, a video or - for raw frames")
    return {path.name: path}


def output_names(files: Iterable[str]) -> list[str]:
    """A name for what is made of each file, without a suffix: its own, with its suffix where others would clash."""
    given = list(files)
    stems = [os.path.splitext(name)[0] for name in given]  # noqa: PTH122
    names = list(stems)
    while True:
        made = Counter(f"{name}{end}".casefold() for name in names for end in ("", SIDE))
        clash = [i for i, name in enumerate(names) if max(made[f"{name}{end}".casefold()] for end in ("", SIDE)) > 1]
        for i in clash:
            names[i] = given[i] if names[i] == stems[i] else f"{names[i]}~"
        if not clash:
            return names


def check_written(options: ReconstructOptions, names: Iterable[str], read: Iterable[Path]) -> None:
    """UserError if one of the files to be written into ``--out`` is one of those that are read."""
    places = [options.mask, options.truth, Path(options.input)]
    check_apart(options.out, (place for place in places if place is not None and place.is_dir()))
    files = {place.resolve() for place in (*places, *read) if place is not None and place.is_file()}
    for name in names:
        if (options.out / name).resolve() in files:
            raise UserError(
                f"--out {options.out}: {name} would be written over a file that is read; give another folder"
            )


def _complete_file(
    given: str, file: Path, name: str, options: ReconstructOptions, model: MaskedAutoencoder, occlusions: Occlusions
) -> tuple[dict[str, Any], dict[Path, Tensor]]:
    """What the report says of a file, and the pictures to write, uint8 [3, H, W]; BadImage or OSError."""
    pixels = _pixels(file)
    hidden = occlusions.hidden(given, pixels)
    truth = _truth(given, options.truth, pixels)
    asked = {"blend": options.blend, "precision": usable_precision(options.precision, options.device)}
    completed = complete(model, pixels[None], hidden[None], **asked)[0].cpu()  # type: ignore[arg-type]
    line: dict[str, Any] = {"name": given, "file": f"{name}.png", "size": [pixels.shape[2], pixels.shape[1]]}
    line |= {"hidden": float(hidden.float().mean()), "seam": float(seam(completed[None], hidden[None])[0])}
    if truth is not None:
        line |= {
            figure: float(measure(completed[None], truth[None], hidden[None])[0])
            for figure, measure in (("psnr", psnr), ("ssim", ssim))
        }
        line["seam_of_truth"] = float(seam(truth[None], hidden[None])[0])
    shown = [pixels.masked_fill(hidden, _GREY), completed, *([] if truth is None else [truth])]
    line = {key: None if isinstance(value, float) and value != value else value for key, value in line.items()}
    return line, {
        options.out / f"{name}.png": completed,
        options.out / f"{name}{SIDE}.png": torch.cat(shown, dim=2),
    }


def _pixels(file: Path) -> Tensor:
    """uint8 [3, H, W]; BadImage."""
    return torch.from_numpy(np.asarray(decode_rgb(read_file(str(file)))).copy()).permute(2, 0, 1)


def _truth(name: str, place: Path | None, pixels: Tensor) -> Tensor | None:
    """The unoccluded picture; BadImage if it is missing or of another size."""
    if place is None:
        return None
    source = place / name if place.is_dir() else place
    if not source.is_file():
        raise BadImage(f"there is no picture of that name in {place}")
    truth = _pixels(source)
    if truth.shape != pixels.shape:
        raise BadImage("the true picture has another size")
    return truth


def _write(path: Path, pixels: Tensor) -> None:
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    buffer = io.BytesIO()  # Pillow, writing to a disk, does not say why it can't
    image.save(buffer, "PNG")
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))
