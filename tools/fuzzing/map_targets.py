"""Maps of others as inputs of ``import-maps``, and what is held of their readers: a map for a key, or a reason."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.import_maps.import_maps import import_maps
from pipelines.import_maps.map_files import decode_map
from pipelines.import_maps.options import ImportOptions
from pipelines.import_maps.reader import on_grid
from tools.fuzzing.worker import Lost

_RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
_GRID = 4


def map_files() -> list[bytes]:
    """PNG of several depths, NPY of several types and NPZ."""
    found = []
    for picture in (_RAMP, _RAMP.astype(np.uint16) * 257, _RAMP > 90, np.stack([_RAMP] * 3, -1)):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        found.append(buffer.getvalue())
    for array in (_RAMP, _RAMP / 7, np.asfortranarray(_RAMP.astype(">f2")), _RAMP[None] > 90):
        buffer = io.BytesIO()
        np.save(buffer, array)
        found.append(buffer.getvalue())
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, a=_RAMP)
        found.append(buffer.getvalue())
    return found


def read_map_file(data: bytes, _: Path) -> None:
    """A map of finite values ≥ 0 on the grid, or a reason."""
    found = on_grid(decode_map(data).values, _GRID)
    if found.shape != (_GRID, _GRID) or not np.isfinite(found).all() or found.min() < 0:
        raise Lost("a map that no table holds")


def salicons() -> list[bytes]:
    """Fixations in SALICON's form."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 32, "height": 24} for i in range(2)]
    notes = [{"image_id": i % 2, "id": i, "fixations": [[1, 2], [24, 32]]} for i in range(3)]
    return [json.dumps({"images": images, "annotations": notes}).encode()]


def gazes() -> list[bytes]:
    """Tables of fixations with commas, weighted and not."""
    rows = "".join(f"{i % 2}.png,{i},{2 * i}\n" for i in range(6))
    return [f"image,x,y\n{rows}".encode(), f"key,x,y,weight\n{rows.replace(chr(10), ',2' + chr(10))}".encode()]


def heatmap_tables() -> list[bytes]:
    """Parquet tables of lists, nested lists and files, with and without captions, ranges and boxes."""
    keys = ["0.png", "1.png"]
    tables = (
        {"key": keys, "heatmap": [[0.0, 1.0, 2.0, 3.0]] * 2, "caption": ["picture 0", None]},
        {"key": keys, "map": [[[1.0, 2.0], [3.0, 4.0]]] * 2},
        {"key": keys, "saliency": [[0, 255, 3, 4]] * 2, "vmin": [0.0, 1.0], "scale": [1.0, 2.0]},
        {"key": keys, "heatmap": [[0.0]] * 2, "crop_box": [[0.0, 0.0, 1.0, 1.0]] * 2},
        {"key": keys, "file": ["0.png", "lost.npy"]},
    )
    found = []
    for table in tables:
        buffer = io.BytesIO()
        pq.write_table(pa.table(table), buffer, compression="none")
        found.append(buffer.getvalue())
    return found


def read_salicon(data: bytes, folder: Path) -> None:
    """A JSON of fixations for two images."""
    _import(data, folder, "f.json")


def read_gaze(data: bytes, folder: Path) -> None:
    """A table of fixations for two images."""
    _import(data, folder, "f.csv", units="pixels")


def read_heatmaps(data: bytes, folder: Path) -> None:
    """A table of maps for two images."""
    _import(data, folder, "f.parquet", map_column=_map_column(data))


def _map_column(data: bytes) -> str | None:
    return next((name for name in ("heatmap", "map", "saliency", "file") if name.encode() in data), None)


def _import(data: bytes, folder: Path, name: str, **options: str | None) -> None:
    """Every pair has a map or a reason."""
    import shutil

    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "photos").mkdir(exist_ok=True)
    for i in range(2):
        Image.new("RGB", (32, 24), (90 * i, 20, 30)).save(folder / "photos" / f"{i}.png")
        (folder / "photos" / f"{i}.txt").write_text(f"picture {i}")
    (folder / name).write_bytes(data)
    asked = ImportOptions(
        str(folder / "photos"), str(folder / name), folder / "out", grid=_GRID, max_rejected=1.0, workers=1, **options
    )
    manifest = import_maps(asked, quiet=True)
    if manifest.taken != 2:
        raise Lost(f"{manifest.taken} pairs of 2 images")
