"""The saliency table on disk: its schema, its shards, and the join of maps to images.

A maps folder holds ``data/train-00000-of-000NN.parquet`` (schema version 1, one row a pair), ``rejected/`` (JSON
lines: the pairs that failed and why) and ``manifest.json`` (settings, per-shard counts). :class:`SaliencyTable`
reads it: keys are joined at once for all images, maps are read from a memory-mapped copy made on first use, so 3 M
rows open in seconds and a look-up costs well under 2 µs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from saliency.files import write_atomically
from saliency.maps import FULL, Box, dequantise
from saliency.table.manifest import NAME, part_manifests

SCHEMA_VERSION = 1
METADATA_KEY = b"saliency_mae"
ROW_GROUP = 4096
_CACHE_LAYOUT = 1  # another number when the files of the memory-mapped copy change
_COPY = re.compile("[0-9a-f]{16}")  # the name of a memory-mapped copy
_SEPARATOR = "\x1f"  # joins key and caption; a control character no key holds


@dataclass(frozen=True)
class Row:
    """One pair's map and where it came from; the columns of the table but ``saliency``, ``vmin`` and ``scale``."""

    key: str
    url: str | None
    caption: str
    image_sha256: str
    width: int
    height: int
    crop_box: Box
    clip_score: float


def schema(grid: int, metadata: dict[str, Any]) -> pa.Schema:
    """The table's Arrow schema for maps of ``grid`` × ``grid`` cells, carrying ``metadata`` as JSON."""
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("crop_box", pa.list_(pa.float32(), 4), nullable=False),
        pa.field("saliency", pa.list_(pa.uint8(), grid * grid), nullable=False),
        pa.field("vmin", pa.float32(), nullable=False),
        pa.field("scale", pa.float32(), nullable=False),
        pa.field("clip_score", pa.float32(), nullable=False),
    ]
    return pa.schema(fields, {METADATA_KEY: json.dumps(metadata, sort_keys=True).encode()})


def write_shard(
    path: Path,
    rows: Sequence[Row],
    stored: NDArray[np.uint8],
    vmin: NDArray[np.float32],
    scale: NDArray[np.float32],
    metadata: dict[str, Any],
) -> None:
    """Write one shard atomically. stored: uint8 [n, G, G]; vmin and scale: float32 [n]; see ``maps.quantise``."""
    shape = schema(int(metadata["grid"]), metadata)
    columns: dict[str, Any] = {
        name: pa.array([getattr(row, name) for row in rows], shape.field(name).type)
        for name in ("key", "url", "caption", "image_sha256", "width", "height", "clip_score")
    }
    boxes = np.asarray([row.crop_box for row in rows], np.float32).reshape(-1)
    columns["crop_box"] = pa.FixedSizeListArray.from_arrays(pa.array(boxes, pa.float32()), 4)
    cells = pa.array(np.ascontiguousarray(stored).reshape(-1), pa.uint8())
    columns["saliency"] = pa.FixedSizeListArray.from_arrays(cells, shape.field("saliency").type.list_size)
    columns["vmin"], columns["scale"] = pa.array(vmin, pa.float32()), pa.array(scale, pa.float32())
    table = pa.Table.from_arrays([columns[name] for name in shape.names], schema=shape)
    write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd", row_group_size=ROW_GROUP))


def shard_files(folder: Path) -> list[Path]:
    """The table's Parquet files in order."""
    return sorted((folder / "data").glob("train-*.parquet"))


class SaliencyTable:
    """A finished maps folder, opened for reading. Rows are numbered in file order.

    ``grid`` is the maps' side in cells, ``metadata`` how they were made. Raises ValueError, one clear line, for a
    folder that is no table, is unfinished, or mixes settings.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._files = shard_files(self.folder)
        if not self._files:
            raise ValueError(
                f"{self.folder} holds no saliency maps (data/train-*.parquet); make them with build-saliency"
            )
        manifest = self.folder / NAME
        if not manifest.exists() and part_manifests(self.folder):
            raise ValueError(f"{self.folder} holds parts of a job array; when all are done, run mae-cli merge on it")
        if not manifest.exists():
            _check_names(self.folder, self._files)
        if manifest.exists() and not json.loads(manifest.read_text())["complete"]:
            raise ValueError(f"{self.folder} is unfinished; run the same build-saliency command again to finish it")
        self.metadata = _shared_metadata(self._files)
        self.grid = int(self.metadata["grid"])
        self._cache = _open_cache(self.folder, self._files, self.grid)
        self._columns = pa.ipc.open_file(pa.memory_map(str(self._cache / "columns.arrow"))).read_all()
        count = len(self._columns)
        shape = (count, self.grid, self.grid)
        self._maps: NDArray[np.uint8] = _map_array(self._cache / "saliency.u8", np.uint8, shape)
        self._boxes: NDArray[np.float32] = _map_array(self._cache / "boxes.f32", np.float32, (count, 4))
        self._ranges: NDArray[np.float32] = _map_array(self._cache / "ranges.f32", np.float32, (count, 2))

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def keys(self) -> pa.ChunkedArray:
        """Every row's key."""
        return self._columns["key"]

    @property
    def captions(self) -> pa.ChunkedArray:
        """Every row's caption."""
        return self._columns["caption"]

    @property
    def clip_scores(self) -> NDArray[np.float32]:
        """Every row's cos(image, caption), [n]."""
        return np.asarray(self._columns["clip_score"], np.float32)

    @property
    def strengths(self) -> NDArray[np.float32]:
        """Every row's peak raw saliency, [n]; 0 for an empty map."""
        peaks: NDArray[np.float32] = self._ranges[:, 0] + self._ranges[:, 1]
        return peaks

    def join(self, keys: pa.Array, captions: pa.Array | None = None) -> NDArray[np.int64]:
        """The row of each (key, caption), or of the first row with that key where ``captions`` is None; −1 if none.

        What has none is looked for once more by what it looks like: macOS writes é in two characters (NFD).
        """
        wanted, known = keys.cast(pa.string()), self.keys
        if captions is not None:
            wanted = pc.binary_join_element_wise(wanted, captions.cast(pa.string()), _SEPARATOR)
            known = pc.binary_join_element_wise(known, self.captions, _SEPARATOR)
        found = np.array(pc.fill_null(pc.index_in(wanted, value_set=known, skip_nulls=True), -1), np.int64)
        missing = np.flatnonzero(found < 0)
        if len(missing) and len(self):
            wanted, known = (pc.utf8_normalize(texts, "NFC") for texts in (wanted.take(pa.array(missing)), known))
            found[missing] = pc.fill_null(pc.index_in(wanted, value_set=known, skip_nulls=True), -1)
        return found

    def maps(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The stored maps of some rows, uint8 [n, G, G]; a row of −1 gives a flat map of zeros."""
        stored = self._maps[np.maximum(rows, 0)] if len(self) else np.zeros((len(rows), self.grid, self.grid), np.uint8)
        stored[rows < 0] = 0
        return stored

    def raw_maps(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The raw maps of some rows, float32 [n, G, G]; zeros for a row of −1."""
        ranges = self._ranges[np.maximum(rows, 0)] if len(self) else np.zeros((len(rows), 2), np.float32)
        ranges[rows < 0] = 0
        return dequantise(self.maps(rows), ranges[:, 0], ranges[:, 1])

    def boxes(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The part of the image each row's map covers, float32 [n, 4]; the whole image for a row of −1."""
        boxes = self._boxes[np.maximum(rows, 0)] if len(self) else np.zeros((len(rows), 4), np.float32)
        boxes[rows < 0] = FULL
        return boxes


def _check_names(folder: Path, files: list[Path]) -> None:
    """ValueError if the shards of a table without a manifest are not, by their names, all of them."""
    wanted = [f"train-{number:05d}-of-{len(files):05d}.parquet" for number in range(len(files))]
    if [path.name for path in files] != wanted:
        raise ValueError(
            f"{folder} has no {NAME}, and its {len(files)} files ({files[0].name}, …) are not a whole table; "
            "copy what is missing, or finish the build"
        )


def _shared_metadata(files: list[Path]) -> dict[str, Any]:
    first: dict[str, Any] | None = None
    for path in files:
        try:
            raw = (pq.read_schema(path).metadata or {}).get(METADATA_KEY)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} can't be read as Parquet: {error}") from error
        if raw is None:
            raise ValueError(f"{path} is not a saliency table: it carries no {METADATA_KEY.decode()} metadata")
        metadata: dict[str, Any] = json.loads(raw)
        if metadata["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"{path} has schema version {metadata['schema_version']}; this release reads {SCHEMA_VERSION}"
            )
        if first is not None and metadata != first:
            differing = sorted(name for name in first if metadata.get(name) != first[name])
            raise ValueError(f"{path} was made with other settings than {files[0].name}: {', '.join(differing)}")
        first = metadata
    assert first is not None
    return first


def _map_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> Any:
    return np.memmap(path, dtype, "r", shape=shape) if shape[0] else np.zeros(shape, dtype)


def _open_cache(folder: Path, files: list[Path], grid: int) -> Path:
    """The memory-mapped copy, made on first use beside the table.

    In the user's cache if that place is read-only, or if its files are links into another program's cache, such as a
    snapshot of the Hub's, which is not ours to add to.
    """
    state = "".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}\n" for path in files)
    name = hashlib.sha256(f"{_CACHE_LAYOUT}\n{folder.resolve()}\n{state}".encode()).hexdigest()[:16]
    user = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "saliency-mae"
    for parent in (folder / ".cache", user):
        if (parent / name).is_dir():
            return parent / name
    borrowed = any(path.is_symlink() for path in files) or folder.resolve().parent.name == "snapshots"
    parent = folder / ".cache" if os.access(folder, os.W_OK) and not borrowed else user
    parent.mkdir(parents=True, exist_ok=True)
    temporary = parent / f".tmp-{os.getpid()}-{name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        _write_cache(temporary, files, grid)
        temporary.replace(parent / name)
    except OSError:
        if not (parent / name).is_dir():  # else another process was first, and its copy is as good
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for stale in parent.iterdir():
        # `hf download --local-dir` keeps its own notes in the same place
        if parent == folder / ".cache" and stale.name != name and _COPY.fullmatch(stale.name):
            shutil.rmtree(stale, ignore_errors=True)
    return parent / name


def _write_cache(target: Path, files: list[Path], grid: int) -> None:
    names = ["key", "caption", "clip_score"]
    columns = pa.schema([schema(grid, {}).field(name) for name in names])
    with (
        (target / "saliency.u8").open("wb") as maps,
        (target / "boxes.f32").open("wb") as boxes,
        (target / "ranges.f32").open("wb") as ranges,
        pa.OSFile(str(target / "columns.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, columns) as writer,
    ):
        for path in files:
            for batch in pq.ParquetFile(path).iter_batches(columns=[*names, "saliency", "crop_box", "vmin", "scale"]):
                maps.write(batch.column("saliency").flatten().to_numpy().data)
                boxes.write(batch.column("crop_box").flatten().to_numpy().data)
                pair = [batch.column(name).to_numpy() for name in ("vmin", "scale")]
                ranges.write(np.ascontiguousarray(np.stack(pair, axis=1)).data)
                writer.write_batch(batch.select(names).cast(columns))
