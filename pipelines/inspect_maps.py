"""``inspect``: look at a maps folder, a run or a source before trusting it.

Where the source of the maps has true masks, the maps are judged by the pointing game, beside two controls: a centre
prior and the maps that another image's caption gives.
"""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipelines.build_saliency import DEFAULT_CLIP
from pipelines.errors import UserError, user_errors
from pipelines.images import BadImage, decode_rgb
from pipelines.plots import contact_sheet, overlay
from pipelines.runs import CONFIG, RunFolder
from pipelines.samples import Source
from pipelines.sources import StreamSource, open_source
from saliency.manifest import NAME as MANIFEST
from saliency.manifest import read_manifest
from saliency.maps import Box, fit_grid
from saliency.methods import saliency_maps
from saliency.quality import centre_prior, other_captions, pointing_hits
from saliency.table import SaliencyTable, shard_files
from saliency.towers import DEMO_CLIP, Tower, load_tower

_BATCH = 64


def inspect(
    what: str, *, source: str | None = None, gallery: Path | None = None, limit: int = 500, device: str = "cpu"
) -> dict[str, Any]:
    """Describe what ``what`` is: a maps folder, a run folder or a source; returns {title: value} as plain values.

    ``source`` says where the maps' images are now, if not where they were; ``gallery`` is a PNG to draw; ``limit``
    bounds how many pairs are judged. Raises UserError.
    """
    folder = Path(what)
    if folder.is_dir() and ((folder / MANIFEST).exists() or shard_files(folder)):
        return _inspect_maps(folder, source, gallery, limit, device)
    if folder.is_dir() and (folder / CONFIG).exists() and (folder / "checkpoints").exists():
        return _inspect_run(folder)
    return _inspect_source(what, gallery)


def _inspect_maps(
    folder: Path, source_name: str | None, gallery: Path | None, limit: int, device: str
) -> dict[str, Any]:
    with user_errors():
        table, manifest = SaliencyTable(folder), read_manifest(folder)
    made = table.metadata
    strengths = table.strengths
    facts: dict[str, Any] = {
        "maps": len(table),
        "grid": f"{table.grid}×{table.grid}",
        "clip": " ".join(str(made[key]) for key in ("clip", "pretrained") if made[key]),
        "method": f"{made['method']} at {made['layer']}",
    }
    if manifest:
        facts["pairs"] = f"{manifest.taken} in = {manifest.written} written + {manifest.rejected} rejected"
    if len(table):
        scores = table.clip_scores
        facts["cos(image, caption)"] = f"{scores.mean():.3f} ± {scores.std():.3f}"
        facts["empty maps"] = f"{int((strengths <= 0).sum())} ({(strengths <= 0).mean():.1%})"
    source = _source_of_maps(manifest.origin if manifest else {}, source_name)
    if source is None or not len(table):
        facts["images"] = "not at hand: give --source to draw a gallery or judge the maps"
        return facts
    rows = table.join(source.keys, source.captions)
    pairs = np.flatnonzero(rows >= 0)
    if not len(pairs):
        raise UserError(f"not one pair of {source.name} has a map in {folder}: these maps are of another source")
    if source.has_masks:
        facts |= _judge(source, table, rows, pairs[:limit], manifest.origin if manifest else {}, device)
    if gallery:
        draw_gallery(gallery, source, table, rows, pairs[:12])
        facts["gallery"] = str(gallery)
    return facts


def _source_of_maps(origin: dict[str, Any], name: str | None) -> Source | None:
    """The pairs the maps were made of; None if they are not known or not there any more."""
    if name is None and "source" not in origin:
        return None
    options = {key: origin.get(key) for key in ("split", "image_column", "caption_column", "limit")}
    try:
        source = open_source(name or origin["source"], captions=origin.get("captions", "first"), **options)
    except UserError:
        if name is not None:
            raise
        return None
    return None if isinstance(source, StreamSource) else source


def _judge(
    source: Source,
    table: SaliencyTable,
    rows: NDArray[np.int64],
    pairs: NDArray[np.int64],
    origin: dict[str, Any],
    device: str,
) -> dict[str, Any]:
    """The pointing game of the maps, of a centre prior, and of the maps that other captions give."""
    masks = {int(i): source.read_mask(int(i)) for i in pairs}
    judged = np.asarray([i for i in pairs if (mask := masks[int(i)]) is not None and mask.any()], np.int64)
    if not len(judged):
        return {"pointing game": "no pair has a true mask"}
    truth = [mask for i in judged if (mask := masks[int(i)]) is not None]
    facts: dict[str, Any] = {"judged pairs": len(judged)}
    hits = pointing_hits(table.raw_maps(rows[judged]), truth)
    facts["pointing game"] = _with_interval(hits)
    prior = np.broadcast_to(centre_prior((table.grid, table.grid)), (len(judged), table.grid, table.grid))
    facts["… centre prior"] = _with_interval(pointing_hits(prior, truth))
    tower = _tower_of(table, origin, device)
    if isinstance(tower, str):
        facts["… another caption"] = tower
        return facts
    captions = other_captions([source.caption(int(i)) or "" for i in judged])
    facts["… another caption"] = _with_interval(
        pointing_hits(_maps_for(source, judged, captions, table, tower, rows), truth)
    )
    return facts


def _with_interval(hits: NDArray[np.float64]) -> str:
    """Mean and half width of its 95 % interval."""
    return f"{hits.mean():.3f} ± {1.96 * hits.std() / np.sqrt(len(hits)):.3f}"


def _tower_of(table: SaliencyTable, origin: dict[str, Any], device: str) -> Tower | str:
    """The model the maps were made with, or a line that says why there is none."""
    clip = f"local-dir:{DEMO_CLIP}" if table.metadata["clip"] == "demo" else table.metadata["clip"]
    try:
        tower = load_tower(
            clip, table.metadata["pretrained"] or origin.get("pretrained") or DEFAULT_CLIP[1], device=device
        )
    except ValueError as error:
        return f"not judged: {error}"
    if tower.weights_sha256 != table.metadata["weights_sha256"]:
        return f"not judged: the weights of {clip} are not those the maps were made with"
    return tower


def _maps_for(
    source: Source,
    pairs: NDArray[np.int64],
    captions: list[str],
    table: SaliencyTable,
    tower: Tower,
    rows: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Raw maps float32 [n, G, G] of some pairs' images under other captions, as the table's own were made."""
    boxes = table.boxes(rows[pairs])
    parts = []
    for start in range(0, len(pairs), _BATCH):
        chosen = slice(start, start + _BATCH)
        pixels = []
        for i, box in zip(pairs[chosen], boxes[chosen], strict=True):
            x0, y0, x1, y1 = (float(value) for value in box)
            seen: Box = (x0, y0, x1, y1)
            pixels.append(tower.squash(decode_rgb(source.read_image(int(i))), seen))
        raw, _ = saliency_maps(
            tower,
            torch.from_numpy(np.stack(pixels)),
            tower.encode_texts(captions[chosen]),
            method=table.metadata["method"],
        )
        parts.append(fit_grid(raw, table.grid).cpu().numpy())
    return np.concatenate(parts)


def draw_gallery(
    path: Path, source: Source, table: SaliencyTable, rows: NDArray[np.int64], pairs: NDArray[np.int64]
) -> None:
    """A contact sheet of some pairs: image, caption, map over image, map, and the true mask where there is one."""
    columns: dict[str, list[Any]] = collections.defaultdict(list)
    for i in pairs:
        try:
            image = decode_rgb(source.read_image(int(i)))
        except (BadImage, OSError):
            continue
        image.thumbnail((256, 256), Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
        values = table.maps(rows[[i]])[0]
        columns["image"].append(pixels)
        columns["caption"].append(source.caption(int(i)) or "")
        columns["map over image"].append(
            overlay(pixels, _on_whole_image(values, table.boxes(rows[[i]])[0], pixels.shape[:2]))
        )
        columns["map"].append(values.astype(np.float32))
        if source.has_masks:
            mask = source.read_mask(int(i))
            columns["true mask"].append(mask.astype(np.float32) if mask is not None else "none")
    if not columns:
        raise UserError("no image of the gallery can be read")
    contact_sheet(path, columns)


def _on_whole_image(values: NDArray[np.uint8], box: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """A map laid where it belongs on its image, [H, W]; zero where the map does not reach."""
    x0, y0, x1, y1 = np.rint(box * np.asarray([shape[1], shape[0], shape[1], shape[0]])).astype(int)
    whole = np.zeros(shape, np.float32)
    resized = Image.fromarray(values).resize((max(x1 - x0, 1), max(y1 - y0, 1)), Image.Resampling.BILINEAR)
    whole[y0:y1, x0:x1] = np.asarray(resized)[: y1 - y0, : x1 - x0]
    return whole


def _inspect_run(folder: Path) -> dict[str, Any]:
    run = RunFolder(folder)
    config, metrics = run.config(), run.metrics()
    options = config["options"]
    facts: dict[str, Any] = {
        "model": f"{options['model']}, {config['parameters'] / 1e6:.1f} M parameters",
        "grid": "×".join(str(side) for side in config["grid"]),
        "source": f"{options['source']} ({config['images']} images)",
        "masking": config["masking"]["strategy"] + f", mask ratio {config['masking']['mask_ratio']:g}",
        "steps": f"{metrics[-1]['step'] if metrics else 0} of {config['steps']}",
    }
    if config["masking"]["strategy"] not in ("random", "block"):
        facts["salient ratio"] = f"{config['masking']['salient_ratio']:g} of {config['masking']['salient_of']}"
    if metrics:
        recent = [line["loss"] for line in metrics[-50:]]
        facts["loss"] = (
            f"{metrics[0]['loss']:.4f} at the start, {np.mean(recent):.4f} over the last {len(recent)} steps"
        )
        speeds = [line["images_per_second"] for line in metrics if "images_per_second" in line]
        facts["speed"] = f"{np.median(speeds):.0f} images/s (median)" if speeds else "unknown"
    return facts


def _inspect_source(what: str, gallery: Path | None) -> dict[str, Any]:
    source = open_source(what)
    if isinstance(source, StreamSource):
        return {"source": what, "kind": "a Hub dataset, read as a stream"}
    facts: dict[str, Any] = {"source": what, "pairs": len(source)}
    facts["captions"] = "none"
    if source.captions is not None:
        facts["captions"] = f"{len(source) - source.captions.null_count} of {len(source)}, first: {source.caption(0)}"
    if source.labels is not None:
        facts["classes"] = len(np.unique(source.labels[source.labels >= 0]))
    facts["true masks"] = "yes" if source.has_masks else "no"
    facts["first keys"] = ", ".join(source.keys.slice(0, 3).to_pylist())
    facts |= {f"warning {number}": text for number, text in enumerate(source.warnings, 1)}
    sizes, bad = collections.Counter[tuple[int, int]](), []
    for i in range(min(len(source), 200)):
        try:
            sizes[decode_rgb(source.read_image(i)).size] += 1
        except (BadImage, OSError) as error:
            bad.append(f"{source.keys[i].as_py()}: {error}")
    shown = ", ".join(f"{w}×{h} ({count})" for (w, h), count in sizes.most_common(3))
    facts["sizes of the first 200"] = shown or "none can be read"
    if bad:
        facts["unreadable of the first 200"] = f"{len(bad)}, first: {bad[0]}"
    if gallery:
        _draw_source(gallery, source)
        facts["gallery"] = str(gallery)
    return facts


def _draw_source(path: Path, source: Source) -> None:
    columns: dict[str, list[Any]] = collections.defaultdict(list)
    for i in range(min(len(source), 12)):
        try:
            image = decode_rgb(source.read_image(i))
        except (BadImage, OSError):
            continue
        image.thumbnail((256, 256), Image.Resampling.BICUBIC)
        columns["image"].append(np.asarray(image))
        columns["caption"].append(source.caption(i) or "no caption")
    if not columns:
        raise UserError("no image of the gallery can be read")
    contact_sheet(path, columns)
