"""Pictures: contact sheets, overlays and curves, written as PNG."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saliency.files import remove_leftovers, write_atomically

Picture = NDArray[np.uint8] | NDArray[np.float32]
"""RGB uint8 [H, W, 3], or a map float32 [H, W] that is drawn in colours from its minimum to its maximum."""


def contact_sheet(path: Path, columns: Mapping[str, Sequence[Picture | str]], *, title: str = "") -> None:
    """One row a sample, one column a kind, all of the same length.

    A text cell is wrapped, line by line, and ends in an ellipsis where there is more of it than fits.
    """
    plt = _pyplot()
    names, count = list(columns), len(next(iter(columns.values())))
    figure, axes = plt.subplots(count, len(names), figsize=(1.6 * len(names), 1.62 * count + 0.5), squeeze=False)
    for column, name in enumerate(names):
        axes[0][column].set_title(name, fontsize=9, parse_math=False)
        for row, cell in enumerate(columns[name]):
            axis = axes[row][column]
            axis.set_axis_off()
            if isinstance(cell, str):
                # as plain text: a caption with two dollar signs is no formula
                style = {"ha": "center", "va": "center", "fontsize": 8, "parse_math": False}
                axis.text(0.5, 0.5, _wrapped(cell), transform=axis.transAxes, **style)
            elif cell.ndim == 2:
                axis.imshow(cell, cmap="magma", vmin=float(cell.min()), vmax=max(float(cell.max()), 1e-12))
            else:
                axis.imshow(cell)
            axis.set_adjustable("datalim")  # the cell is a square whatever the picture is, so titles stand in line
            axis.set_box_aspect(1)
    height = figure.get_size_inches()[1]
    if title:
        figure.suptitle(title, fontsize=10, y=1 - 0.12 / height, va="top", parse_math=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # captions come in every script
        figure.tight_layout(pad=0.3, rect=(0, 0, 1, 1 - 0.35 / height if title else 1))
        _save(figure, path)


def _wrapped(text: str, width: int = 22, most: int = 7) -> str:
    """A text in at most ``most`` lines of ``width`` characters."""
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, width)]
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1][: width - 2] + " …"]
    return "\n".join(lines)


def overlay(image: NDArray[np.uint8], saliency: NDArray[Any]) -> NDArray[np.uint8]:
    """A map [h, w] laid over its RGB image [H, W, 3] in colours; where the map is low the image stays dark."""
    height, width = image.shape[:2]
    heat = in_colours(_enlarge(saliency, height, width))
    return np.asarray(np.clip(0.45 * image + 0.6 * heat, 0, 255), np.uint8)


def in_colours(saliency: NDArray[np.float32]) -> NDArray[np.float64]:
    """A map [H, W] ≥ 0 in colours up to its peak, RGB from 0 to 255, [H, W, 3]."""
    import matplotlib

    peak = saliency.max()
    return np.asarray(matplotlib.colormaps["magma"](saliency / peak if peak > 0 else saliency)[..., :3] * 255)


def grey_out(
    image: NDArray[np.uint8], hidden: NDArray[np.bool_], colour: tuple[int, int, int] = (128, 128, 128)
) -> NDArray[np.uint8]:
    """An RGB image [H, W, 3] whose hidden patches (bool [h, w]) are grey, or of another colour."""
    rows, columns = image.shape[0] // hidden.shape[0], image.shape[1] // hidden.shape[1]
    large = np.kron(hidden, np.ones((rows, columns), bool))
    return np.where(large[..., None], np.asarray(colour, np.uint8), image)


def loss_curve(
    path: Path,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str = "Loss",
    unit: str = "loss on hidden patches",
) -> None:
    """Loss against step for each named (steps, losses); faint the raw values, clear their running mean."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(6, 3.6))
    for name, (steps, losses) in curves.items():
        values = np.asarray(losses, np.float64)
        window = max(1, len(values) // 50)
        smooth = np.convolve(values, np.ones(window) / window, "valid")
        (line,) = axis.plot(steps, values, alpha=0.25, linewidth=0.8)
        axis.plot(list(steps)[window - 1 :], smooth, color=line.get_color(), label=name)
    axis.set_xlabel("step")
    axis.set_ylabel(unit)
    axis.set_title(title)
    axis.legend()
    axis.grid(alpha=0.3)
    figure.tight_layout()
    _save(figure, path)


def lines(
    path: Path, x: Sequence[float], series: Mapping[str, Sequence[float]], *, title: str, unit: str, axis: str = "step"
) -> None:
    """Each series of values of one ``unit`` against x, with its points."""
    plt = _pyplot()
    figure, plot = plt.subplots(figsize=(6, 3.6))
    for name, values in series.items():
        plot.plot(x, values, marker="o", markersize=4, label=name)
    plot.set_xlabel(axis)
    plot.set_ylabel(unit)
    plot.set_title(title)
    plot.legend()
    plot.grid(alpha=0.3)
    figure.tight_layout()
    _save(figure, path)


def line_panels(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]], *, title: str, axis: str, unit: str
) -> None:
    """Two panels a row by their titles, each with series of values of one ``unit`` at equal steps from 0 to 1."""
    plt = _pyplot()
    rows = (len(panels) + 1) // 2
    figure, axes = plt.subplots(rows, 2, figsize=(10, 3.4 * rows + 0.6), sharex=True, sharey=True, squeeze=False)
    for plot, (name, series) in zip(axes.flat, panels.items(), strict=False):
        for label, values in series.items():
            plot.plot(np.linspace(0, 1, len(values)), values, marker="o", markersize=3, label=label)
        plot.set_title(name, fontsize=10)
        plot.grid(alpha=0.3)
    for plot in axes[-1]:
        plot.set_xlabel(axis)
    for plot in axes[:, 0]:
        plot.set_ylabel(unit)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout(rect=(0, 0.3 / (3.4 * rows + 0.6), 1, 1))
    _save(figure, path)


def bars(
    path: Path, table: Mapping[str, Mapping[str, float]], *, title: str, unit: str, chance: float | None = None
) -> None:
    """Groups of bars: {group: {series: value}}."""
    plt = _pyplot()
    groups, series = list(table), list(next(iter(table.values())))
    figure, axis = plt.subplots(figsize=(1.4 + 1.1 * len(groups) * max(1, len(series) / 2), 3.6))
    width = 0.8 / len(series)
    for number, name in enumerate(series):
        offsets = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * width
        drawn = axis.bar(offsets, [table[group][name] for group in groups], width, label=name)
        axis.bar_label(drawn, fmt="%.1f", fontsize=8)
    if chance is not None:
        axis.axhline(chance, color="grey", linestyle=":", linewidth=1, label="chance")
    axis.set_xticks(range(len(groups)), groups)
    axis.set_ylabel(unit)
    axis.set_title(title)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=len(series) + 1, frameon=False)
    figure.tight_layout()
    _save(figure, path)


def confusion_matrices(
    path: Path, matrices: Mapping[str, Sequence[Sequence[int]]], names: Sequence[str], *, title: str = ""
) -> None:
    """A confusion matrix beside another, true classes down and predicted ones across, as shares of each true class.

    Up to 12 classes have their shares written out, and up to 40 their names.
    """
    plt = _pyplot()
    count = len(names)
    side = min(max(2.2 + 0.42 * count, 3.4), 11.0)
    figure, axes = plt.subplots(1, len(matrices), figsize=(side * len(matrices), side), squeeze=False)
    for axis, (name, matrix) in zip(axes[0], matrices.items(), strict=True):
        counts = np.asarray(matrix, np.float64)
        totals = counts.sum(1, keepdims=True)
        shares = 100 * counts / np.maximum(totals, 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        right = 100 * np.trace(counts) / counts.sum()
        axis.set_title(f"{name}, {right:.1f} % right", fontsize=9, parse_math=False)
        axis.set_xlabel("taken for", fontsize=8)
        axis.set_ylabel("is", fontsize=8)
        labels = [_short(each) for each in names] if count <= 40 else []
        axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
        axis.set_yticks(range(len(labels)), labels, fontsize=7)
        for row, column in np.argwhere(shares >= 0.5) if count <= 12 else []:
            colour = "white" if shares[row, column] > 50 else "black"
            axis.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    if title:
        figure.suptitle(f"{title}: % of each true class", fontsize=10, parse_math=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.15 / side))
    _save(figure, path)


def _short(text: str, most: int = 16) -> str:
    """A class's name, cut where it is long, with dollar signs that are no formula."""
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return cut.replace("$", r"\$")


def _enlarge(values: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    if values.shape == (height, width):
        return np.asarray(values, np.float32)
    import torch

    tensor = torch.tensor(values, dtype=torch.float32)[None, None]
    return np.asarray(torch.nn.functional.interpolate(tensor, size=(height, width), mode="bilinear")[0, 0])


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format of the file's ending, PNG if it has none. The file appears whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format=path.suffix[1:] or "png")
    remove_leftovers(path.parent, {path.name}, deep=False)
    write_atomically(path, lambda file: file.write(picture.getbuffer()))


def _save(figure: Any, path: Path) -> None:
    save_figure(figure, path)
    _pyplot().close(figure)
