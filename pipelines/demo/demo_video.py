"""``demo --video``: a masked autoencoder of video from nothing to recovering what is occluded, in minutes on two cores.

Moving scenes → pretraining on clips of them → a block is laid over unseen ones, standing still or moving, and filled in
as ``reconstruct`` does it → the completed videos, the same beside what was given and what is true, a contact sheet and
a table beside what needs no model → a block that comes in is found without a mask, as ``reconstruct --find`` does it.
One seed and a small model: it shows that the line works, and how far that goes.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mae.models.video import VideoMaskedAutoencoder
from mae.training.checkpoints import load_model
from pipelines.demo.recovered_clips import (
    BLOCKS,
    ENTERING,
    METHODS,
    HiddenClip,
    fill_in,
    find,
    hidden_clips,
    judge,
)
from pipelines.errors import UserError
from pipelines.frames.video_writer import open_video
from pipelines.plots import contact_sheet, loss_curve
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.pretrain import pretrain
from pipelines.progress import progress_bar
from pipelines.run_folder import RunFolder
from pipelines.sources.open_source import open_source
from pipelines.sources.source import Source
from pipelines.sources.video.video_stream import require_av
from saliency.files import write_text_atomically

TRAINED_ON = "shapes-video:3000,size=32,frames=24,objects=1"
JUDGED_ON = "shapes-video:40,split=unseen,size=32,frames=24,objects=1"  # the settings were chosen on others
TRAINING: dict[str, Any] = {
    "frames": 8,
    "frame_stride": 1,  # as `reconstruct` meets the frames
    "masking": "random",  # of space and time, so that looking into other frames is learned, and learned early
    "mask_ratio": 0.85,  # with 0.75 it relies more on other frames, and knows less where none helps
    "model": "mini",
    "image_size": (32,),
    "patch_size": 4,  # a hidden patch is then little more than its colour, which is learned first
    "norm_pix": False,
    "batch_size": 8,  # many small steps: what comes after the mean colour comes with their number
    "blr": 0.048,
    "epochs": 8,
}

_SHOWN = 6
"""Clips of each kind in the videos; one of each is in the contact sheet, too."""
_SHEET_FRAMES = 8
_FOUND_ON_SHEET = 3
"""Clips on the sheet of what was found."""
_ON_SHEET = ("model", "neighbours", "nearest")
_ENLARGED = 6
_FPS = Fraction(12)
_RUN = "video-run"


@dataclass(frozen=True)
class VideoDemoResult:
    """What the demo found: for each of BLOCKS, each of METHODS with its ``psnr``, ``ssim`` and in how many of the
    ``clips`` the model is nearer to the truth (``model_nearer``, by PSNR).
    """

    clips: int
    figures: dict[str, dict[str, dict[str, float]]]
    found_iou: float
    """IoU of the found mask of a block that comes in with the true one, the mean over some clips."""

    def table(self) -> list[list[str]]:
        """A heading, and for each of BLOCKS a row for each of METHODS."""
        rows = [["hidden by a", "filled in by", "PSNR dB", "SSIM", "model nearer in"]]
        for block, methods in self.figures.items():
            for method, found in methods.items():
                nearer = "" if method == "model" else f"{found['model_nearer']:.0f} of {self.clips}"
                figures = [f"{found['psnr']:.2f}", f"{found['ssim']:.3f}", nearer]
                rows.append([BLOCKS[block] if method == "model" else "", METHODS[method], *figures])
        return rows


def run_video_demo(out: Path, *, seed: int = 0, device: str = "cpu", quiet: bool = False) -> VideoDemoResult:
    """Run everything into ``out``; a stopped demo goes on where it was. UserError for a folder of another kind."""
    require_av()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _RUN).exists())):
        raise UserError(f"--out {out} is not empty and holds no video demo; give an empty folder")
    _say(f"1/2  pretraining on {TRAINED_ON}", quiet)
    run = pretrain(_pretrain_options(out / _RUN, seed, device), quiet=quiet)
    model = load_model(out / _RUN).to(device)
    assert isinstance(model, VideoMaskedAutoencoder)
    _say(f"2/2  filling in what a block hides of {JUDGED_ON}", quiet)
    source = open_source(JUDGED_ON)
    assert isinstance(source, Source)
    figures: dict[str, Any] = {}
    columns: dict[str, list[Any]] = {}
    for block in BLOCKS:
        figures[block] = _fill_in_all(source, block, model, out, columns, quiet=quiet)
    result = VideoDemoResult(len(source), figures, _find_some(source, model, out))
    contact_sheet(out / "contact-sheet.png", columns, title="What a block hides of unseen scenes, filled in")
    metrics = RunFolder(run.folder).metrics()
    losses = {"random in space and time": ([line["step"] for line in metrics], [line["loss"] for line in metrics])}
    loss_curve(out / "loss.png", losses, title="Pretraining loss")
    write_text_atomically(
        out / "recovery.json",
        json.dumps({"clips": result.clips, "found_iou": result.found_iou, **figures}, indent=1) + "\n",
    )
    write_text_atomically(out / "table.md", _markdown(result))
    return result


def _pretrain_options(out: Path, seed: int, device: str) -> PretrainOptions:
    resume = (out / "config.json").exists()
    return PretrainOptions(TRAINED_ON, out, keep=1, resume=resume, seed=seed, device=device, workers=1, **TRAINING)


def _fill_in_all(
    source: Source, block: str, model: VideoMaskedAutoencoder, out: Path, columns: dict[str, list[Any]], *, quiet: bool
) -> dict[str, dict[str, float]]:
    """Judges every clip of a source behind a block, writes the first ones as videos and adds some to the sheet."""
    found = []
    with open_video(out / f"{block}.mp4", _FPS) as alone, open_video(out / f"{block}-side.mp4", _FPS) as beside:
        clips = progress_bar(hidden_clips(source, block), total=len(source), unit="clips", quiet=quiet)
        for number, clip in enumerate(clips):
            completed = fill_in(model, clip)
            found.append(judge(clip, completed))
            if number < _SHOWN:
                for shown in zip(clip.given(), completed["model"], clip.frames, strict=True):
                    alone.write(_picture(shown[1]))
                    beside.write(_picture(torch.cat(shown, dim=2)))
            if number == list(BLOCKS).index(block):  # another scene for each block
                _add_to_sheet(columns, clip, completed)
    means = {
        method: {name: float(np.mean([each[method][name] for each in found])) for name in ("psnr", "ssim")}
        for method in METHODS
    }
    for method, figures in means.items():
        figures["model_nearer"] = float(sum(each["model"]["psnr"] > each[method]["psnr"] for each in found))
    return means


def _find_some(source: Source, model: VideoMaskedAutoencoder, out: Path) -> float:
    """Finds a block that comes in over some clips, draws the first ones, and gives the mean IoU of the masks."""
    columns: dict[str, list[Any]] = {}
    overlaps = []
    for number, clip in enumerate(itertools.islice(hidden_clips(source, ENTERING), _SHOWN)):
        found, completed = find(model, clip)
        overlaps.append(float((found & clip.hidden).sum() / (found | clip.hidden).sum()))
        if number < _FOUND_ON_SHEET:
            red = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
            rows = {f"{clip.caption}: given": clip.given(), "found": torch.where(found[:, None], red, clip.given())}
            _add_rows(columns, rows | {"filled in there": completed, "truth": clip.frames}, start=len(found) // 3)
    contact_sheet(out / "found.png", columns, title="A block that comes in, found without a mask (red) and filled in")
    return float(np.mean(overlaps))


def _add_to_sheet(columns: dict[str, list[Any]], clip: HiddenClip, completed: dict[str, Tensor]) -> None:
    """A row each for what was given, what was filled in and what is true, at moments of the whole clip."""
    rows = {f"{clip.caption}: given": clip.given()} | {METHODS[name]: completed[name] for name in _ON_SHEET}
    rows["truth"] = clip.frames
    _add_rows(columns, rows)


def _add_rows(columns: dict[str, list[Any]], rows: dict[str, Tensor], *, start: int = 0) -> None:
    """Adds frames [T, 3, H, W] to a sheet, at moments from frame ``start`` on."""
    columns.setdefault("", []).extend(rows)
    count = len(next(iter(rows.values())))
    for moment in np.linspace(start, count - 1, _SHEET_FRAMES).round().astype(int).tolist():
        cells = columns.setdefault(f"frame {moment}", [])
        cells += [frames[moment].permute(1, 2, 0).numpy() for frames in rows.values()]


def _picture(frame: Tensor) -> Any:
    """A frame uint8 [3, H, W] as a larger picture [h, w, 3]."""
    return frame.permute(1, 2, 0).numpy().repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1)


def _markdown(result: VideoDemoResult) -> str:
    heading, *rows = result.table()
    lines = [f"| {' | '.join(cells)} |" for cells in (heading, ["---"] * len(heading), *rows)]
    note = f"Hidden pixels alone, means over {result.clips} unseen scenes ({JUDGED_ON}); one seed. "
    note += f"A block that comes in is found with an IoU of {result.found_iou:.2f} (mean of {_SHOWN} clips at most)."
    return "\n".join([*lines, "", note]) + "\n"


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(text, flush=True)


def print_recovery(result: VideoDemoResult, out: Path) -> None:
    """What was filled in of unseen clips by the model and by what needs none, and where the videos are."""
    heading, *rows = result.table()
    title = f"\nHidden pixels alone, means over {result.clips} unseen scenes"
    table = Table(*heading, box=None, padding=(0, 2, 0, 0), pad_edge=False, title=title, title_justify="left")
    for cells in rows:
        table.add_row(*cells)
    Console().print(table)
    print(f"A block that comes in is found without a mask: IoU {result.found_iou:.2f}, see found.png")
    print(f"Look at standing-side.mp4, moving-side.mp4 and contact-sheet.png in {out}; the table is in table.md")
