"""``demo --video``: a masked autoencoder of video from nothing to recovering what is occluded, in minutes on two cores.

Moving scenes → pretraining on clips of them → a block is laid over unseen ones, standing still or moving, and filled in
as ``reconstruct`` does it → the completed videos, the same beside what was given and what is true, a contact sheet and
a table beside what needs no model. One seed and a small model: it shows that the line works, and how far that goes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mae.checkpoints import load_model
from mae.video import VideoMaskedAutoencoder
from pipelines.errors import UserError
from pipelines.plots import contact_sheet, loss_curve
from pipelines.pretrain import pretrain
from pipelines.pretrain_options import PretrainOptions
from pipelines.recovered_clips import BLOCKS, METHODS, HiddenClip, fill_in, hidden_clips, judge
from pipelines.runs import RunFolder
from pipelines.samples import Source
from pipelines.sources import open_source
from pipelines.video_file import require_av
from pipelines.video_writer import open_video
from saliency.files import write_text_atomically

TRAINED_ON = "shapes-video:3000,size=48,frames=24"
JUDGED_ON = "shapes-video:40,split=test,size=48,frames=24"
TRAINING: dict[str, Any] = {
    "frames": 8,
    "frame_stride": 1,  # as `reconstruct` meets the frames
    "masking": "random",  # of space and time, so that looking into other frames is learned, and learned early
    "mask_ratio": 0.75,
    "model": "mini",
    "image_size": (48,),
    "patch_size": 8,
    "norm_pix": False,
    "batch_size": 8,  # many small steps: what comes after the mean colour comes with their number
    "blr": 0.048,
    "epochs": 10,
}

_SHOWN = 6
"""Clips of each kind in the videos; the first two are in the contact sheet, too."""
_SHEET_CLIPS, _SHEET_FRAMES = 2, 8
_ENLARGED = 4
_FPS = Fraction(12)
_RUN = "video-run"


@dataclass(frozen=True)
class VideoDemoResult:
    """What the demo found: for each of BLOCKS, each of METHODS with its ``psnr``, ``ssim`` and in how many of the
    ``clips`` the model is nearer to the truth (``model_nearer``, by PSNR).
    """

    clips: int
    figures: dict[str, dict[str, dict[str, float]]]

    def table(self) -> list[list[str]]:
        """A heading and a row for each of METHODS."""
        heading = ["hidden pixels filled in by"]
        for words in BLOCKS.values():
            heading += [f"{words}: PSNR dB", "SSIM", "model nearer in"]
        rows = [heading]
        for method, words in METHODS.items():
            cells = [words]
            for block in BLOCKS:
                found = self.figures[block][method]
                nearer = "" if method == "model" else f"{found['model_nearer']:.0f} of {self.clips}"
                cells += [f"{found['psnr']:.2f}", f"{found['ssim']:.3f}", nearer]
            rows.append(cells)
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
    figures, columns = {}, _empty_sheet()
    for block in BLOCKS:
        figures[block] = _fill_in_all(source, block, model, out, columns, quiet=quiet)
    result = VideoDemoResult(len(source), figures)
    contact_sheet(out / "contact-sheet.png", columns, title="What a block hides of unseen scenes, filled in")
    metrics = RunFolder(run.folder).metrics()
    losses = {"mini": ([line["step"] for line in metrics], [line["loss"] for line in metrics])}
    loss_curve(out / "loss.png", losses, title="Pretraining loss")
    write_text_atomically(out / "recovery.json", json.dumps({"clips": result.clips, **figures}, indent=1) + "\n")
    write_text_atomically(out / "table.md", _markdown(result))
    return result


def _pretrain_options(out: Path, seed: int, device: str) -> PretrainOptions:
    resume = (out / "config.json").exists()
    return PretrainOptions(TRAINED_ON, out, keep=1, resume=resume, seed=seed, device=device, workers=0, **TRAINING)


def _fill_in_all(
    source: Source, block: str, model: VideoMaskedAutoencoder, out: Path, columns: dict[str, list[Any]], *, quiet: bool
) -> dict[str, dict[str, float]]:
    """Judges every clip of a source behind a block, writes the first ones as videos and adds some to the sheet."""
    found = []
    with open_video(out / f"{block}.mp4", _FPS) as alone, open_video(out / f"{block}-side.mp4", _FPS) as beside:
        clips = tqdm(hidden_clips(source, block), total=len(source), unit=" clips", disable=quiet)
        for number, clip in enumerate(clips):
            completed = fill_in(model, clip)
            found.append(judge(clip, completed))
            if number < _SHOWN:
                for shown in zip(clip.given(), completed["model"], clip.frames, strict=True):
                    alone.write(_picture(shown[1]))
                    beside.write(_picture(torch.cat(shown, dim=2)))
            if number < _SHEET_CLIPS:
                _add_to_sheet(columns, clip, completed)
    means = {
        method: {name: float(np.mean([each[method][name] for each in found])) for name in ("psnr", "ssim")}
        for method in METHODS
    }
    for method, figures in means.items():
        figures["model_nearer"] = float(sum(each["model"]["psnr"] > each[method]["psnr"] for each in found))
    return means


def _empty_sheet() -> dict[str, list[Any]]:
    return {"": [], **{f"frame {number}": [] for number in range(_SHEET_FRAMES)}}


def _add_to_sheet(columns: dict[str, list[Any]], clip: HiddenClip, completed: dict[str, Tensor]) -> None:
    rows = {f"{clip.caption}: given": clip.given(), "the model": completed["model"]}
    rows |= {METHODS[name]: completed[name] for name in ("neighbours", "nearest")} | {"truth": clip.frames}
    columns[""] += rows
    moments = np.linspace(0, len(clip.frames) - 1, _SHEET_FRAMES).round().astype(int)
    for cells, moment in zip(list(columns.values())[1:], moments, strict=True):
        cells += [frames[int(moment)].permute(1, 2, 0).numpy() for frames in rows.values()]


def _picture(frame: Tensor) -> Any:
    """A frame uint8 [3, H, W] as a larger picture [h, w, 3]."""
    return frame.permute(1, 2, 0).numpy().repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1)


def _markdown(result: VideoDemoResult) -> str:
    heading, *rows = result.table()
    lines = [f"| {' | '.join(cells)} |" for cells in (heading, ["---"] * len(heading), *rows)]
    note = f"Hidden pixels alone, means over {result.clips} unseen scenes ({JUDGED_ON}); one seed."
    return "\n".join([*lines, "", note]) + "\n"


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(text, flush=True)
