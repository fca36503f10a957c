"""``export-maps``: every map of a maps folder as a file of its own, for whoever reads pictures or arrays.

``index.jsonl`` has a line for each: ``file``, ``key``, ``caption``, ``vmin``, ``scale``, ``crop_box`` and the image's
``width`` and ``height``; ``made_with.json`` says how the maps were made. ``import-maps --from`` the folder gives the
maps back. All names are settled before the first file is written, each file appears whole, and the index is the last.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.errors import UserError, user_errors
from pipelines.export_maps.file_names import file_names
from pipelines.export_maps.options import ExportMapsOptions
from pipelines.hub import find_maps
from pipelines.outputs import INDEX, MADE_WITH, check_apart, one_writer
from pipelines.progress import progress_bar
from pipelines.sources.folders import files_below
from saliency.files import remove_leftovers, write_atomically, write_text_atomically
from saliency.maps import dequantise
from saliency.table.shard import ShardFile
from saliency.table.table import whole_table

_COLUMNS = ("key", "caption", "width", "height", "crop_box", "vmin", "scale")


def export_maps(options: ExportMapsOptions, *, quiet: bool = False) -> int:
    """Write the maps as files; returns how many. UserError for what is no finished table, or a folder that is not new.

    What a killed run has left is written again.
    """
    folder = find_maps(options.maps)
    check_apart(options.out, [folder])
    with user_errors():
        shards = whole_table(folder)
        keys = [row["key"] for row in _rows(shards, ("key",))]
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out} is a file; give a new folder")
    names = file_names(keys, f".{options.to}", (INDEX, MADE_WITH))
    with one_writer(options.out), user_errors():
        _check_new(options.out, {*names, MADE_WITH})
        remove_leftovers(options.out)
        _write(shards, names, options, quiet=quiet)
        write_text_atomically(options.out / MADE_WITH, json.dumps(shards[0].metadata, indent=1, sort_keys=True) + "\n")
        write_atomically(options.out / INDEX, lambda file: file.writelines(_index(shards, names)))
    return len(names)


def _check_new(out: Path, ours: set[str]) -> None:
    """UserError if the folder holds what this export would not write, or an export that is done."""
    if not out.exists():
        return
    stranger = next((name for name in files_below(str(out)) if name not in ours), None)
    if stranger is not None:
        raise UserError(f"--out {out} is not an empty folder (found {stranger}); give a new one")


def _write(shards: list[ShardFile], names: list[str], options: ExportMapsOptions, *, quiet: bool) -> None:
    encode = _ENCODERS[options.to]
    with closing(progress_bar(total=len(names), unit="maps", name="files", quiet=quiet)) as bar:
        for name, row in zip(names, _rows(shards, ("saliency", "vmin", "scale")), strict=True):
            stored = np.asarray(row["saliency"], np.uint8).reshape(shards[0].slots, shards[0].grid, shards[0].grid)
            stored = stored[0] if len(stored) == 1 else stored
            data = encode(stored, row["vmin"], row["scale"])
            write_atomically(options.out / name, lambda file, data=data: file.write(data))  # type: ignore[misc]
            bar.update(1)


def _rows(shards: list[ShardFile], columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        for batch in shard.batches(list(columns), size=256):
            yield from batch.to_pylist()


def _index(shards: list[ShardFile], names: list[str]) -> Iterator[bytes]:
    for name, row in zip(names, _rows(shards, _COLUMNS), strict=True):
        yield (json.dumps({"file": name} | row, ensure_ascii=False) + "\n").encode()


def _png(stored: NDArray[np.uint8], vmin: float, scale: float) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.hstack(list(stored)) if stored.ndim == 3 else stored).save(buffer, "PNG")  # slots side by side
    return buffer.getvalue()


def _npy(stored: NDArray[np.uint8], vmin: float, scale: float) -> bytes:
    buffer = io.BytesIO()
    ranges = np.asarray([vmin], np.float32), np.asarray([scale], np.float32)
    np.save(buffer, dequantise(stored[None], *ranges)[0], allow_pickle=False)
    return buffer.getvalue()


_ENCODERS: dict[str, Callable[[NDArray[np.uint8], float, float], bytes]] = {"png": _png, "npy": _npy}
