"""What ``evaluate --protocol occlusion`` makes of a batch, and curves of what it measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae.evaluation.image_quality import psnr, ssim
from mae.evaluation.occluders import Occluder, cover
from mae.models.vit import MaskedAutoencoder
from mae.recovery.recover import interpolate, nearest_in_time, recover
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.results.outcome import Measured
from pipelines.views.image_views import ViewBatch
from saliency.quality import bootstrap_intervals

Predict = Callable[[Tensor], Tensor]
MODEL, NEIGHBOURS, NEAREST_FRAME = "model", "neighbours", "nearest_frame"
"""Who filled in: the model, the mean colour of visible pixels nearby, or, of clips, the pixel that is seen in its place
in the nearest frame.
"""


def occluded(batch: ViewBatch, occluder: Occluder, share: float, filling: Tensor) -> Tensor:
    """The images of a batch, a share of each hidden: uint8 [B, 3, H, W], of clips [B, 3, T, H, W]."""
    size = size_of(batch)
    content = occluder.content(share, size)
    return cover(batch.images, occluder.region(share, size), filling if content is None else content)


def size_of(batch: ViewBatch) -> tuple[int, int]:
    """Height and width of a batch's images or clips."""
    return batch.images.shape[-2], batch.images.shape[-1]


def filled_in(model: MaskedAutoencoder, images: Tensor, region: Tensor) -> dict[str, Tensor]:
    """By who filled them in, the images uint8 [B, 3, H, W], or clips [B, 3, T, H, W], whose ``region`` was hidden."""
    filled = {
        MODEL: recover(model, images, region).cpu(),
        NEIGHBOURS: interpolate(images, region, model.patch_size),
    }
    if images.ndim == 5:
        filled[NEAREST_FRAME] = nearest_in_time(images, region, model.patch_size)
    return filled


def right_about(encoder: Encoder, predict: Predict, images: Tensor, labels: Tensor) -> Tensor:
    """1 where the probe is right, int64 [B], on the encoder's device, as ``labels`` are."""
    return (predict(encoder.features(images)) == labels).long()


def recovery(
    encoder: Encoder, batch: ViewBatch, occluder: Occluder, shares: Sequence[float], most: int
) -> dict[str, list[list[float | None]]]:
    """PSNR and SSIM in the hidden region of a batch's images among the first ``most``: rows images, columns shares."""
    model = encoder.autoencoder
    chosen = torch.from_numpy(batch.indices < most)
    if model is None or not chosen.any():
        return {}
    images, columns = batch.images[chosen], dict[str, list[Tensor]]()
    for share in shares:
        region = occluder.region(share, size_of(batch))[chosen]
        for who, pictures in filled_in(model, images, region).items():
            columns.setdefault(f"{who}/psnr", []).append(psnr(pictures, images, region))
            columns.setdefault(f"{who}/ssim", []).append(ssim(pictures, images, region))
    rows = {name: torch.stack(values, dim=1).tolist() for name, values in columns.items()}
    return {name: [[None if x != x else x for x in row] for row in found] for name, found in rows.items()}


def occlusion_row(
    found: Sequence[Measured], first: Sequence[Measured] | None, shares: Sequence[float], seed: int
) -> dict[str, Any]:
    """The row of an encoder, from what each seed gave; ``first`` is the first row's, if that is another.

    ``occlusion`` is the mean over occluders of their areas, ``occlusion_interval`` half of its bootstrap interval over
    images; ``occlusion_curves`` has for each occluder accuracies by share, area, and both their intervals.
    """
    kinds = [name for name in found[0].figures if "/" not in name]
    areas = _areas(found, kinds, shares)
    low, high = bootstrap_intervals(areas, seed=seed)
    curves = {}
    for number, kind in enumerate(kinds):
        right = np.mean([each.array(kind) for each in found], axis=0)  # [n, shares]
        ends = bootstrap_intervals(right, seed=seed)
        curves[kind] = {
            "area": float(areas[:, number].mean()),
            "area_ends": [float(low[number]), float(high[number])],
            "accuracy": right.mean(0).tolist(),
            "accuracy_ends": ends.T.tolist(),
            **_recovered(found[0], kind),
        }
    row = {
        "occlusion": float(areas[:, -1].mean()),
        "occlusion_interval": float(high[-1] - low[-1]) / 2,
        "occlusion_ends": [float(low[-1]), float(high[-1])],
        "occlusion_shares": list(shares),
        "occlusion_curves": curves,
    }
    others = None if first is None else _areas(first, kinds, shares)
    if others is not None and others.shape == areas.shape:
        low, high = bootstrap_intervals(areas - others, seed=seed)
        row["occlusion_minus_first"] = {
            kind: {"area": float(value), "ends": [float(low[number]), float(high[number])]}
            for number, (kind, value) in enumerate(zip((*kinds, "mean"), (areas - others).mean(0), strict=True))
        }
    return row


def area_under(accuracy: NDArray[np.float64], shares: Sequence[float]) -> NDArray[np.float64]:
    """The area under curves [n, shares] by the trapezoidal rule over the range of the shares, [n]; of one share, it."""
    if len(shares) == 1:
        return accuracy[:, 0]
    steps = np.diff(np.asarray(shares, np.float64))
    return np.asarray(((accuracy[:, 1:] + accuracy[:, :-1]) / 2) @ steps / steps.sum())


def _areas(found: Sequence[Measured], kinds: Sequence[str], shares: Sequence[float]) -> NDArray[np.float64]:
    """Every image's area for each occluder and their mean, mean over seeds, [n, kinds + 1]."""
    columns = [np.mean([area_under(each.array(kind), shares) for each in found], axis=0) for kind in kinds]
    return np.stack([*columns, np.mean(columns, axis=0)], axis=1)


def _recovered(found: Measured, kind: str) -> dict[str, Any]:
    """Mean PSNR and SSIM by share, and over how many images; None where nothing is hidden."""
    recovery: dict[str, Any] = {}
    for name in found.figures:
        start = f"recovery/{kind}/"
        if name.startswith(start):
            values = found.array(name)
            means = [float(column.mean()) if np.isfinite(column).all() else None for column in values.T]
            recovery[name.removeprefix(start).replace("/", "_")] = means
            recovery["images"] = len(values)
    return {"recovery": recovery} if recovery else {}


def curves_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """By occluder and encoder, what the plots need."""
    kinds = rows[0]["occlusion_curves"]
    return {kind: {row["encoder"]: row["occlusion_curves"][kind] for row in rows} for kind in kinds}
