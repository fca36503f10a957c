"""The pictures of ``--protocol occlusion``: curves of accuracy and recovery, and a sheet of occluded test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mae.recover import interpolate, recover
from pipelines.encoders import Encoder, open_encoder
from pipelines.evaluate_options import EvaluateOptions
from pipelines.occlusion import curves_of, occluded
from pipelines.plots import contact_sheet
from pipelines.views import InOrder, Views, load_views

if TYPE_CHECKING:
    from pipelines.panel import Panel

CURVES, SHEET = "occlusion.png", "occluded.png"

_SHOWN = (0.25, 0.5)
_IMAGES = 6


def draw_occlusion(folder: Path, panel: Panel, result: Mapping[str, Any], options: EvaluateOptions) -> None:
    """``occlusion.png`` and ``occluded.png`` in ``folder``, of a finished evaluation."""
    rows = [row for row in result["rows"] if "occlusion_curves" in row]
    draw_curves(folder / CURVES, rows, chance=result["chance"])
    encoder = open_encoder(options.run, pool=options.pool, device=options.device, seed=options.all_seeds()[0])
    columns = occluded_sheet(panel, encoder, options)
    if columns:
        contact_sheet(folder / SHEET, columns, title="What all encoders see")


def draw_curves(path: Path, rows: Sequence[Mapping[str, Any]], *, chance: float | None = None) -> None:
    """A panel an occluder: accuracy against the share that is hidden, with 95 % intervals, a line an encoder.

    Below, where models filled in what was hidden, their PSNR, and that of the neighbours' mean colour, dotted.
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
        axes[1][0].set_ylabel("PSNR in the hidden region, dB\n(dotted: mean of neighbours)", fontsize=8)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, [name.replace("$", r"\$") for name in names], loc="outside lower center", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def occluded_sheet(panel: Panel, encoder: Encoder, options: EvaluateOptions) -> dict[str, list[Any]]:
    """Columns of a contact sheet of the first test images: whole, and by each occluder at two shares, and filled in."""
    assert panel.occlusion is not None
    part = panel.occlusion.test
    count = min(_IMAGES, len(part))
    batch = next(iter(load_views(Views(part.source, encoder.size, augment=False), InOrder(count, count), workers=0)))
    if not len(batch.images):
        return {}
    occluders = panel.occlusion.occluders(encoder, options.all_seeds()[0])
    filling, columns = occluders.filling(batch), {"image": _pictures(batch.images)}
    for kind in tuple(options.occluder) or occluders.kinds:
        occluder = occluders.draw(kind, batch)
        for share in _SHOWN:
            columns[f"{kind} {share:.0%}"] = _pictures(occluded(batch, occluder, share, filling))
        if encoder.autoencoder is not None:
            device = encoder.autoencoder.pos_embed.device
            region = occluder.region(_SHOWN[-1], encoder.size)
            filled = recover(encoder.autoencoder, batch.images.to(device), region.to(device)).cpu()
            columns[f"{kind}\nfilled in"] = _pictures(filled)
            columns[f"{kind}\nneighbours"] = _pictures(
                interpolate(batch.images, region, encoder.autoencoder.patch_size)
            )
    return columns


def _pictures(images: torch.Tensor) -> list[Any]:
    return [image.permute(1, 2, 0).numpy() for image in images]


def _accuracy_line(axis: Any, shares: Sequence[float], curve: Mapping[str, Any], name: str, colour: str) -> None:
    low, high = (100 * np.asarray(curve["accuracy_ends"], np.float64)).T
    (line,) = axis.plot(shares, [100 * value for value in curve["accuracy"]], "o-", markersize=3, color=colour)
    line.set_label(name)
    axis.fill_between(shares, low, high, color=colour, alpha=0.15, linewidth=0)


def _recovery_lines(axis: Any, shares: Sequence[float], recovery: Mapping[str, Any], colour: str) -> None:
    for who, style in (("model", "-"), ("neighbours", ":")):
        values = [np.nan if value is None else value for value in recovery[f"{who}_psnr"]]
        axis.plot(shares, values, style, color=colour if who == "model" else "grey", linewidth=1.3)
