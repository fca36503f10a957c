"""The pictures of ``--protocol occlusion``: curves of accuracy and recovery, and a sheet of occluded test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mae.evaluation.occluders import Occluder
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.protocols.occluders import Occluders
from pipelines.evaluate.protocols.occlusion_curves import (
    MODEL,
    NEAREST_FRAME,
    NEIGHBOURS,
    curves_of,
    filled_in,
    occluded,
    size_of,
)
from pipelines.plots import contact_sheet, save_figure
from pipelines.views.image_views import InOrder, ViewBatch, load_views

CURVES, SHEET = "occlusion.png", "occluded.png"

_SHOWN = (0.25, 0.5)
_IMAGES = 6
_CLIPS, _FRAMES = 2, 3
_STYLES = {MODEL: "-", NEIGHBOURS: ":", NEAREST_FRAME: "--"}


def draw_occlusion(
    folder: Path, result: Mapping[str, Any], encoder: Encoder, occluders: Occluders, kinds: Sequence[str]
) -> None:
    """``occlusion.png`` and ``occluded.png`` in ``folder``, of a finished evaluation by its first row's encoder."""
    rows = [row for row in result["rows"] if "occlusion_curves" in row]
    draw_curves(folder / CURVES, rows, chance=result["chance"])
    columns = occluded_sheet(encoder, occluders, kinds)
    if columns:
        contact_sheet(folder / SHEET, columns, title="What all encoders see")


def draw_curves(path: Path, rows: Sequence[Mapping[str, Any]], *, chance: float | None = None) -> None:
    """A panel an occluder: accuracy against the share that is hidden, with 95 % intervals, a line an encoder.

    Below, where models filled in what was hidden, their PSNR, and that of the neighbours' mean colour, dotted, and of
    the nearest frame, dashed.
    """
    from matplotlib.figure import Figure

    curves = curves_of(rows)
    filled = any("recovery" in curve for by_encoder in curves.values() for curve in by_encoder.values())
    figure = Figure(figsize=(1 + 2.9 * len(curves), 3.6 + 2.6 * filled), layout="constrained")
    axes = figure.subplots(1 + filled, len(curves), squeeze=False, sharex=True, sharey="row")
    shares = [100 * share for share in rows[0]["occlusion_shares"]]
    for column, (kind, by_encoder) in enumerate(curves.items()):
        for number, (name, curve) in enumerate(by_encoder.items()):
            _accuracy_line(axes[0][column], shares, curve, name, f"C{number}")
            if "recovery" in curve:
                _recovery_lines(axes[1][column], shares, curve["recovery"], f"C{number}")
        if chance is not None:
            axes[0][column].axhline(100 * chance, color="grey", linestyle=":", linewidth=1)
        axes[0][column].set_title(kind, fontsize=10)
        axes[-1][column].set_xlabel("hidden, %", fontsize=9)
        for axis in axes[:, column]:
            axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("accuracy, %")
    if filled:
        others = "dotted: mean of neighbours" + (", dashed: nearest frame" if _has_frames(curves) else "")
        axes[1][0].set_ylabel(f"PSNR in the hidden region, dB\n({others})", fontsize=8)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, [name.replace("$", r"\$") for name in names], loc="outside lower center", fontsize=8)
    save_figure(figure, path)


def occluded_sheet(encoder: Encoder, occluders: Occluders, kinds: Sequence[str]) -> dict[str, list[Any]]:
    """Columns of a contact sheet of the first test images: whole, and by each occluder at two shares, and filled in.

    Clips have a row an occluder, and three frames in columns.
    """
    part = occluders.part
    count = min(_IMAGES if part.clip is None else _CLIPS, len(part))
    batch = next(iter(load_views(part.views(encoder.size), InOrder(count, count), workers=0)))
    if not len(batch.images):
        return {}
    drawn, filling = {kind: occluders.draw(kind, batch) for kind in kinds}, occluders.filling(batch)
    return (_image_columns if part.clip is None else _clip_columns)(batch, drawn, filling, encoder)


def _image_columns(
    batch: ViewBatch, occluders: Mapping[str, Occluder], filling: torch.Tensor, encoder: Encoder
) -> dict[str, list[Any]]:
    """A row an image, a column an occluder and share."""
    columns = {"image": _pictures(batch.images)}
    for kind, occluder in occluders.items():
        for share in _SHOWN:
            columns[f"{kind} {share:.0%}"] = _pictures(occluded(batch, occluder, share, filling))
        for who, filled in _filled(batch, occluder, encoder).items():
            columns[f"{kind}\n{who}"] = _pictures(filled)
    return columns


def _clip_columns(
    batch: ViewBatch, occluders: Mapping[str, Occluder], filling: torch.Tensor, encoder: Encoder
) -> dict[str, list[Any]]:
    """A row a clip and occluder, a column a frame of what is seen at the larger share, and of what is filled in."""
    frames = np.unique(np.linspace(0, batch.images.shape[2] - 1, _FRAMES).round().astype(int))
    rows: list[tuple[str, Mapping[str, torch.Tensor]]] = [("clip", {"": batch.images})]
    for kind, occluder in occluders.items():
        seen = {"": occluded(batch, occluder, _SHOWN[-1], filling), **_filled(batch, occluder, encoder)}
        rows.append((f"{kind} {_SHOWN[-1]:.0%}", seen))
    whats = dict.fromkeys(what for _, shown in rows for what in shown)
    columns: dict[str, list[Any]] = {" ": [name for _ in batch.images for name, _ in rows]}
    for what in whats:
        for frame in frames:
            columns[f"{what}\nframe {frame}".strip()] = [
                shown[what][clip, :, frame].permute(1, 2, 0).numpy() if what in shown else ""
                for clip in range(len(batch.images))
                for _, shown in rows
            ]
    return columns


def _filled(batch: ViewBatch, occluder: Occluder, encoder: Encoder) -> dict[str, torch.Tensor]:
    """By who it is, what the larger share hides filled in; nothing where the encoder has no decoder."""
    if encoder.autoencoder is None:
        return {}
    filled = filled_in(encoder.autoencoder, batch.images, occluder.region(_SHOWN[-1], size_of(batch)))
    return {"filled in" if who == MODEL else who.replace("_", " "): pictures for who, pictures in filled.items()}


def _pictures(images: torch.Tensor) -> list[Any]:
    return [image.permute(1, 2, 0).numpy() for image in images]


def _has_frames(curves: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> bool:
    each = (curve.get("recovery", {}) for by_encoder in curves.values() for curve in by_encoder.values())
    return any(f"{NEAREST_FRAME}_psnr" in recovery for recovery in each)


def _accuracy_line(axis: Any, shares: Sequence[float], curve: Mapping[str, Any], name: str, colour: str) -> None:
    low, high = (100 * np.asarray(curve["accuracy_ends"], np.float64)).T
    (line,) = axis.plot(shares, [100 * value for value in curve["accuracy"]], "o-", markersize=3, color=colour)
    line.set_label(name)
    axis.fill_between(shares, low, high, color=colour, alpha=0.15, linewidth=0)


def _recovery_lines(axis: Any, shares: Sequence[float], recovery: Mapping[str, Any], colour: str) -> None:
    for who, style in _STYLES.items():
        values = [np.nan if value is None else value for value in recovery.get(f"{who}_psnr", ())]
        if values:
            axis.plot(shares, values, style, color=colour if who == MODEL else "grey", linewidth=1.3)
