"""What a run's gate calls important: its scores judged against true masks, checkpoint by checkpoint, and drawn.

Images are squashed to the model's size, so that the scores cover them as maps do, and are judged as maps are
(:mod:`pipelines.inspect.map_scores`): a score is the sigmoid of a patch's logit. Nothing is hidden at random here: the
pictures show the patches that the gate counts as important, of which a pretraining hides a share.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mae.mask_learners import GATE_FILE
from mae.mask_learners.gate import Gate, important_counts, important_patches, load_gate
from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder
from mae.pixels import normalise
from mae.training.checkpoints import list_checkpoints, load_model
from pipelines.errors import UserError, user_errors
from pipelines.inspect.galleries import PAGE
from pipelines.inspect.map_scores import evenly_spaced, score_arrays
from pipelines.inspect.map_verdict import CENTRE, MAPS, MapScores
from pipelines.plots import contact_sheet, grey_out, lines, overlay
from pipelines.run_folder import RunFolder
from pipelines.sources.images import BadImage, decode_rgb
from pipelines.sources.source import Source
from pipelines.views.geometry import View, view_image

_BATCH = 64


def inspect_gate(
    run: RunFolder, source: Source, *, gallery: Path | None, gallery_size: int, limit: int, device: str
) -> tuple[dict[str, str], dict[str, Any], MapScores | None]:
    """Facts as text and as numbers, and the map_scores of the newest gate where the source has masks.

    At most ``limit`` images are scored, evenly spaced; with masks every kept checkpoint is judged, and the curve
    goes beside the ``gallery``. Raises UserError for a run without a gate.
    """
    checkpoints = [folder for folder in list_checkpoints(run.folder) if (folder / GATE_FILE).exists()]
    if not checkpoints:
        raise UserError(f"{run.folder} has no gate: it was not pretrained with --masking gate")
    with user_errors():
        models = [(folder.name, load_gate(folder / GATE_FILE), load_model(folder)) for folder in checkpoints]
    model = models[-1][2]
    shown, pixels = _read(source, model.image_size, limit)
    scores = _scores(models[-1][1], model, pixels, device)
    facts, numbers = _describe(models[-1][1], scores, _area(run))
    map_scores = None
    if source.has_masks:
        curve = {}
        for name, gate, weights in models:
            found = score_arrays(_maps(_scores(gate, weights, pixels, device), weights), _masks(source, shown))
            if found.figures:
                map_scores = curve[int(name.removeprefix("step-"))] = replace(found, no_shuffle="")
        facts |= {f"AUC at step {step}": _beside_centre(found) for step, found in curve.items()}
        numbers["auc"] = {step: found.figures[MAPS]["auc"].mean for step, found in curve.items()}
        if gallery and len(curve) > 1:
            _draw_curve(gallery.with_stem(f"{gallery.stem}-auc"), curve)
    if gallery:
        _draw(gallery, model, pixels[:gallery_size], scores[:gallery_size], run)
        facts["gallery"], numbers["gallery"] = str(gallery), [str(gallery)]
    return facts, numbers, map_scores


def _read(source: Source, size: tuple[int, int], limit: int) -> tuple[NDArray[np.int64], torch.Tensor]:
    """The pairs that can be read, and their images squashed to a size, uint8 [n, 3, H, W]; each image once."""
    rows = np.arange(len(source)) if source.rows is None else source.rows
    first = np.unique(rows, return_index=True)[1]
    good, pixels = [], []
    for pair in evenly_spaced(np.sort(first), limit).tolist():
        try:
            pixels.append(view_image(decode_rgb(source.read_image(pair)), View(), size))
        except (BadImage, OSError):
            continue
        good.append(pair)
    if not good:
        raise UserError(f"no image of {source.name} can be read")
    return np.asarray(good, np.int64), torch.from_numpy(np.stack(pixels))


@torch.no_grad()
def _scores(gate: Gate, model: MaskedAutoencoder, pixels: torch.Tensor, device: str) -> torch.Tensor:
    """Logits [n, h·w]; of a gate of video, the mean over the slots of a clip that stands still."""
    gate, model = gate.to(device), model.to(device)
    parts = []
    for part in torch.split(pixels, _BATCH):
        images = normalise(part.to(device))
        if isinstance(model, VideoMaskedAutoencoder):
            images = images[:, :, None].expand(-1, -1, model.frames, -1, -1)
        logits = gate.scores(model, images)
        parts.append(logits.view(len(part), -1, model.grid[-2] * model.grid[-1]).mean(1).cpu())
    return torch.cat(parts)


def _maps(logits: torch.Tensor, model: MaskedAutoencoder) -> NDArray[np.float32]:
    maps: NDArray[np.float32] = torch.sigmoid(logits.double()).reshape(-1, *model.grid[-2:]).float().numpy()
    return maps


def _masks(source: Source, pairs: Sequence[int] | NDArray[np.int64]) -> Iterator[NDArray[np.bool_] | None]:
    for pair in pairs:
        try:
            yield source.read_mask(int(pair))
        except (BadImage, OSError):
            yield None


def _describe(gate: Gate, logits: torch.Tensor, area: Sequence[float]) -> tuple[dict[str, str], dict[str, Any]]:
    parameters, (low, high) = gate.size, area
    above = float((logits > 0).float().mean())
    counted = float(important_counts(logits, (low, high)).float().mean() / logits.shape[1])
    spread = float(logits.std(1).mean())
    facts = {
        "gate": f"{parameters / 1e6:.2f} M parameters, {_reading(gate)}",
        "important": f"{counted:.1%} of the patches ({above:.1%} have a logit above 0; {low:g} to {high:g} count)",
        "spread of an image's logits": f"{spread:.2f} (deviation)",
    }
    return facts, {"gate_parameters": parameters, "above_zero": above, "important": counted, "spread": spread}


def _reading(gate: Gate) -> str:
    if gate.reader is not None:
        return f"reads a momentum encoder behind block {len(gate.reader.blocks)}"
    return f"reads patch embeddings, {'sees' if gate.positions else 'does not see'} places"


def _area(run: RunFolder) -> tuple[float, float]:
    """The least and greatest share of patches that the run's gate calls important. UserError."""
    objective = run.config()["masking"].get("objective", {})
    if "area" not in objective:
        raise UserError(f"{run.folder} has no gate: its masking is {run.config()['masking']['strategy']}")
    low, high = objective["area"]
    return low, high


def _beside_centre(found: MapScores) -> str:
    gate, centre = found.figures[MAPS]["auc"], found.figures[CENTRE]["auc"]
    return f"{gate}, centre prior {centre}, difference {found.differences[CENTRE]['auc'].signed()}"


def _draw(path: Path, model: MaskedAutoencoder, pixels: torch.Tensor, logits: torch.Tensor, run: RunFolder) -> None:
    low, high = _area(run)
    important = important_patches(logits, torch.zeros_like(logits), (low, high))
    cells = important.reshape(-1, *model.grid[-2:]).numpy()
    for page, start in enumerate(range(0, len(pixels), PAGE)):
        columns: dict[str, list[Any]] = collections.defaultdict(list)
        for image, score, chosen in zip(
            pixels[start : start + PAGE], _maps(logits[start : start + PAGE], model), cells[start:], strict=False
        ):
            picture = image.permute(1, 2, 0).numpy()
            columns["image"].append(picture)
            columns["score"].append(score)
            columns["score over image"].append(overlay(picture, score - score.min()))
            columns["important"].append(grey_out(picture, ~chosen))
        contact_sheet(path if not page else path.with_stem(f"{path.stem}-{page + 1}"), columns)


def _draw_curve(path: Path, curve: dict[int, MapScores]) -> None:
    steps = list(curve)
    series = {
        "gate": [curve[step].figures[MAPS]["auc"].mean for step in steps],
        "centre prior": [curve[step].figures[CENTRE]["auc"].mean for step in steps],
    }
    lines(path, steps, series, title="Gate's scores against true masks", unit="AUC")
