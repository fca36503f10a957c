"""The saliency table on disk: its schema, its shards, and the join of maps to images.

A maps folder holds ``data/train-00000-of-000NN.parquet`` (schema version 1, one row a pair), ``rejected/`` (JSON
lines: the pairs that failed and why) and ``manifest.json`` (settings, per-shard counts). :class:`SaliencyTable`
reads it: keys are joined at once for all images, maps are read from a memory-mapped copy made on first use, so 3 M
rows open in seconds and a look-up costs well under 2 µs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from saliency.files import write_atomically
from saliency.maps import FULL, Box, dequantise
from saliency.table.imported import without_clip
from saliency.table.manifest import NAME, part_manifests, read_manifest
from saliency.table.memory_map import BOXES, COLUMNS, MAPS, RANGES, open_copy
from saliency.table.rows import pair_hashes
from saliency.table.shard import ShardFile, schema, write_rows


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


def write_shard(
    path: Path,
    rows: Sequence[Row],
    stored: NDArray[np.uint8],
    vmin: NDArray[np.float32],
    scale: NDArray[np.float32],
    metadata: dict[str, Any],
) -> None:
    """Write one shard atomically. stored: uint8 [n, G, G], or [n, K, G, G] where ``metadata`` has K slots; vmin and
    scale: float32 [n]; see ``maps.quantise``."""
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
    write_atomically(path, lambda file: write_rows(file, table))


def shard_files(folder: Path) -> list[Path]:
    """The table's Parquet files in order."""
    return sorted((folder / "data").glob("train-*.parquet"))


class SaliencyTable:
    """A finished maps folder, opened for reading. Rows are numbered in file order.

    ``grid`` is the maps' side in cells, ``slots`` how many maps a row has, ``metadata`` how they were made. Raises
    ValueError, one clear line, for a folder that is no table, is unfinished, mixes settings, or holds a value that no
    map has.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        shards = whole_table(self.folder)
        self._files = [shard.path for shard in shards]
        self.metadata, self.grid, self.slots = shards[0].metadata, shards[0].grid, shards[0].slots
        self._cache = open_copy(self.folder, shards)
        self._columns = pa.ipc.open_file(pa.memory_map(str(self._cache / COLUMNS))).read_all()
        count = len(self._columns)
        shape = (count, self.slots, self.grid, self.grid)
        self._maps: NDArray[np.uint8] = _map_array(self._cache / MAPS, np.uint8, shape)
        self._boxes: NDArray[np.float32] = _map_array(self._cache / BOXES, np.float32, (count, 4))
        self._ranges: NDArray[np.float32] = _map_array(self._cache / RANGES, np.float32, (count, 2))

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
        """Every row's cos(image, caption), [n]; NaN where no CLIP compared them."""
        if without_clip(self.metadata):
            return np.full(len(self), np.nan, np.float32)
        return np.asarray(self._columns["clip_score"], np.float32)

    @property
    def strengths(self) -> NDArray[np.float32]:
        """Every row's peak raw saliency, [n]; 0 for an empty map."""
        peaks: NDArray[np.float32] = self._ranges[:, 0] + self._ranges[:, 1]
        return peaks

    def image_sizes(self) -> NDArray[np.int64]:
        """Width and height of each row's upright image, int64 [n, 2], read from the files at every call. ValueError."""
        names = ("width", "height")
        batches = [batch for path in self._files for batch in ShardFile(path).batches(names)]
        sizes = [np.stack([np.asarray(batch[name], np.int64) for name in names], axis=1) for batch in batches]
        found = np.concatenate([np.zeros((0, 2), np.int64), *sizes])
        if len(found) and found.min() < 1:
            raise ValueError(f"{self.folder} has a width or height that is not positive; mae-cli verify says where")
        return found

    def join(self, keys: pa.Array, captions: pa.Array | None = None) -> NDArray[np.int64]:
        """The row of each (key, caption), or of the first row with that key where ``captions`` is None; −1 if none.

        What has none is looked for once more by what it looks like: macOS writes é in two characters (NFD).
        """
        wanted, known = [keys], [self.keys]
        if captions is not None:
            wanted, known = [keys, captions], [self.keys, self.captions]
        pa.default_memory_pool().release_unused()  # what was read before keeps; millions of pairs need room
        found = _places(wanted, known)
        named = np.logical_and.reduce([np.asarray(pc.is_valid(column)) for column in wanted])
        found[~named] = -1
        missing = np.flatnonzero((found < 0) & named)
        if len(missing):
            left = [column.take(pa.array(missing)) for column in wanted]
            near = pc.is_in(_composed(self.keys), value_set=_composed(left[0]))
            places = _places(left, [column.filter(near) for column in known], composed=True)
            found[missing] = np.append(np.flatnonzero(near), -1)[places]
        return found

    def maps(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The stored maps of some rows, uint8 [n, G, G]; a row of −1 gives a flat map of zeros.

        Of a clip with a map for each slot it is the middle one's, in which the middle frame lies.
        """
        return self.slot_maps(rows)[:, (self.slots - 1) // 2]

    def slot_maps(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The stored maps of all slots of some rows, uint8 [n, K, G, G]; zeros for a row of −1."""
        shape = (len(rows), self.slots, self.grid, self.grid)
        stored = self._maps[np.maximum(rows, 0)] if len(self) else np.zeros(shape, np.uint8)
        stored[rows < 0] = 0
        return stored

    def raw_maps(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The raw maps of some rows, float32 [n, G, G], as :meth:`maps`; zeros for a row of −1."""
        return dequantise(self.maps(rows), *self._ranges_of(rows))

    def raw_slot_maps(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The raw maps of all slots of some rows, float32 [n, K, G, G]; zeros for a row of −1."""
        return dequantise(self.slot_maps(rows), *self._ranges_of(rows))

    def _ranges_of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        ranges = self._ranges[np.maximum(rows, 0)] if len(self) else np.zeros((len(rows), 2), np.float32)
        ranges[rows < 0] = 0
        return ranges[:, 0], ranges[:, 1]

    def boxes(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The part of the image each row's map covers, float32 [n, 4]; the whole image for a row of −1."""
        boxes = self._boxes[np.maximum(rows, 0)] if len(self) else np.zeros((len(rows), 4), np.float32)
        boxes[rows < 0] = FULL
        return boxes


def whole_table(folder: Path) -> list[ShardFile]:
    """The shards of a finished maps folder, in order; ValueError, one clear line, as :class:`SaliencyTable` raises."""
    files = shard_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no saliency maps (data/train-*.parquet); make them with build-saliency")
    manifest = folder / NAME
    if not manifest.exists() and part_manifests(folder):
        raise ValueError(f"{folder} holds parts of a job array; when all are done, run mae-cli merge on it")
    if not manifest.exists():
        _check_names(folder, files)
    elif not (known := read_manifest(folder)) or not known.complete:
        raise ValueError(f"{folder} is unfinished; run the command that began it again to finish it")
    shards = [ShardFile(path) for path in files]
    _check_settings(shards)
    return shards


def _places(wanted: list[Any], known: list[Any], *, composed: bool = False) -> NDArray[np.int64]:
    """Where each wanted pair, or key, first stands among the known ones, int64 [n]; −1 where it does not."""
    hashes, value_set = (pair_hashes(*columns, composed=composed) for columns in (wanted, known))
    return np.array(pc.fill_null(pc.index_in(hashes, value_set=value_set), -1), np.int64)


def _composed(texts: Any) -> Any:
    return pc.utf8_normalize(texts.cast(pa.string()), "NFC")


def _check_names(folder: Path, files: list[Path]) -> None:
    """ValueError if the shards of a table without a manifest are not, by their names, all of them."""
    wanted = [f"train-{number:05d}-of-{len(files):05d}.parquet" for number in range(len(files))]
    if [path.name for path in files] != wanted:
        raise ValueError(
            f"{folder} has no {NAME}, and its {len(files)} files ({files[0].name}, …) are not a complete table; "
            "copy what is missing, or finish the build"
        )


def _check_settings(shards: list[ShardFile]) -> None:
    """ValueError if some shards were made with other settings than the first."""
    first = shards[0].metadata
    for shard in shards:
        if shard.metadata != first:
            names = sorted(first.keys() | shard.metadata.keys())
            differing = [name for name in names if shard.metadata.get(name) != first.get(name)]
            raise ValueError(
                f"{shard.path} was made with other settings than {shards[0].path.name}: {', '.join(differing)}"
            )


def _map_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> Any:
    return np.memmap(path, dtype, "r", shape=shape) if shape[0] else np.zeros(shape, dtype)
