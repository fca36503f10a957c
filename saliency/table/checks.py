"""What can be wrong with a maps folder, found without its images and before anyone trains on it.

``check_table`` looks at everything and stops at nothing: the manifest, the files it lists and their hashes, the schema
and settings that the shards share, counts, rejected pairs, duplicates, and every value of every row. It reads a batch
at a time and keeps 32 bytes a row, writes nothing, and says what it found in one line a check.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from saliency.table.manifest import NAME, Manifest, part_manifests, read_manifest
from saliency.table.rows import hashes_of, later_occurrences, pair_hashes, read_rows
from saliency.table.table import METADATA_KEY, SCHEMA_VERSION, schema, shard_files

PUBLISHED = "published"
"""In a manifest's origin: the table is a published copy, which leaves ``rejected/`` out."""

_NUMBERED = re.compile(r"train-(\d{5})-of-(\d{5})\.parquet")
_BATCH = 4096
_ROUNDING = 1e-4  # a cosine of float32 vectors may pass 1 by this


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: whether all is well, and what was found, in one line."""

    name: str
    passed: bool
    found: str


@dataclass
class TableReport:
    """What ``check_table`` found, and what it learned on the way.

    ``files`` are the shards that can be read and have the right schema; ``pairs`` and ``keys`` hold a 16-byte hash of
    each of their rows, in file order (see ``rows.pair_hashes``).
    """

    folder: Path
    manifest: Manifest | None = None
    checks: list[Check] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    pairs: pa.Array = field(default_factory=lambda: hashes_of(b""))
    keys: pa.Array = field(default_factory=lambda: hashes_of(b""))

    @property
    def failures(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.passed]


@dataclass
class _Scan:
    """What reading every shard once brings: problems by check, and figures for those without any."""

    problems: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    rows: dict[str, int] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    metadata: dict[str, Any] | None = None
    grid: int = 0
    pairs: list[bytes] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    empty: int = 0
    size: int = 0


def check_table(folder: Path, *, step: Callable[[int], object] = lambda _: None) -> TableReport:
    """Look at all of a maps folder; ``step`` is told of every so many bytes of its shards that are done."""
    report = TableReport(folder)
    scan = _Scan()
    try:
        report.manifest = read_manifest(folder)
    except (ValueError, OSError) as error:
        scan.problems["manifest"].append(f"{NAME} can't be read: {error}")
    files = shard_files(folder)
    for path in files:
        _scan_shard(path, report.manifest, scan)
        step(path.stat().st_size)
    report.files = scan.files
    report.pairs, report.keys = hashes_of(b"".join(scan.pairs)), hashes_of(b"".join(scan.keys))
    _look_at_manifest(folder, report.manifest, scan)
    _look_at_files(folder, files, report.manifest, scan)
    _look_at_counts(report.manifest, scan)
    _look_at_rejected(folder, report.manifest, scan)
    _look_at_duplicates(report, scan)
    report.checks = list(_verdicts(report, scan))
    return report


def _scan_shard(path: Path, manifest: Manifest | None, scan: _Scan) -> None:
    scan.size += path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    listed = {shard.file: shard.sha256 for shard in manifest.shards} if manifest else {}
    if listed.get(path.name, digest) != digest:
        scan.problems["sha256"].append(f"{path.name} is not the file that was written: its sha256 is {digest[:12]}…")
    known = len(scan.pairs)
    try:
        file_schema = pq.read_schema(path)
        if not _look_at_schema(path, file_schema, scan):
            return
        _look_at_settings(path, file_schema, manifest, scan)
        for batch in pq.ParquetFile(path).iter_batches(batch_size=_BATCH):
            _look_at_rows(path, batch, scan)
    except (pa.ArrowException, OSError) as error:
        scan.problems["Parquet"].append(f"{path.name} can't be read: {' '.join(str(error).split())}")
        del scan.pairs[known:], scan.keys[known:]  # rows are numbered over the readable shards
        return
    scan.files.append(path)


def _look_at_schema(path: Path, found: pa.Schema, scan: _Scan) -> bool:
    """Whether the rows of this shard can be looked at."""
    raw = (found.metadata or {}).get(METADATA_KEY)
    try:
        metadata = json.loads(raw) if raw else {}
        version, grid = metadata.get("schema_version"), int(metadata.get("grid", 0))
    except (ValueError, TypeError, AttributeError):
        metadata, version, grid = {}, None, 0
    if version != SCHEMA_VERSION or grid < 1:
        what = f"schema version {version}, not {SCHEMA_VERSION}" if metadata else "no saliency_mae metadata"
        scan.problems["schema"].append(f"{path.name} has {what}")
        return False
    right = schema(grid, {})
    if found.remove_metadata().equals(right.remove_metadata()):
        scan.grid = grid
        return True
    names = [item.name for item in right if item.name not in found.names or not found.field(item.name).equals(item)]
    names += sorted(set(found.names) - set(right.names))
    scan.problems["schema"].append(f"{path.name} differs from version 1 in {', '.join(names) or 'the columns order'}")
    return False


def _look_at_settings(path: Path, found: pa.Schema, manifest: Manifest | None, scan: _Scan) -> None:
    metadata: dict[str, Any] = json.loads(found.metadata[METADATA_KEY])
    first = scan.metadata = metadata if scan.metadata is None else scan.metadata
    wanted = {name: manifest.settings.get(name) for name in metadata} if manifest else first
    names = sorted(metadata.keys() | first.keys())
    differing = [name for name in names if not metadata.get(name) == wanted.get(name) == first.get(name)]
    if differing:
        scan.problems["settings"].append(f"{path.name} was made with other settings: {', '.join(differing)}")


def _look_at_rows(path: Path, batch: pa.RecordBatch, scan: _Scan) -> None:
    first = scan.rows.get(path.name, 0)
    scan.rows[path.name] = first + len(batch)
    scan.pairs.append(pair_hashes(batch["key"], batch["caption"]).buffers()[1].to_pybytes())
    scan.keys.append(pair_hashes(batch["key"]).buffers()[1].to_pybytes())
    scan.empty += int((np.asarray(batch["vmin"]) + np.asarray(batch["scale"]) <= 0).sum())
    for what, wrong in _wrong_values(batch):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            key = batch["key"][row].as_py()
            scan.problems["values"].append(f"{what} in row {first + row} of {path.name} (key {key!r})")


def _wrong_values(batch: pa.RecordBatch) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Everything that a row can have wrong, and which rows have it, bool [n]."""
    box = np.asarray(batch["crop_box"].flatten()).reshape(-1, 4)
    inside = (box >= 0).all(1) & (box <= 1).all(1) & (box[:, 0] < box[:, 2]) & (box[:, 1] < box[:, 3])
    yield "crop_box is no box in [0, 1]", ~inside
    vmin, scale = np.asarray(batch["vmin"]), np.asarray(batch["scale"])
    yield "vmin is not finite", ~np.isfinite(vmin)
    yield "scale is negative or not finite", ~(np.isfinite(scale) & (scale >= 0))
    yield "clip_score is outside [−1, 1]", ~(np.abs(np.asarray(batch["clip_score"])) <= 1 + _ROUNDING)
    yield "width or height is not positive", (np.asarray(batch["width"]) < 1) | (np.asarray(batch["height"]) < 1)
    yield "image_sha256 is no sha256", ~np.asarray(pc.match_substring_regex(batch["image_sha256"], "^[0-9a-f]{64}$"))
    peaks = np.asarray(batch["saliency"].flatten()).reshape(len(batch), -1).max(1, initial=0)
    yield "the map does not reach 255", (scale > 0) & (peaks != 255)
    yield "a flat map (scale 0) is not stored as zeros", (scale == 0) & (peaks != 0)


def _look_at_manifest(folder: Path, manifest: Manifest | None, scan: _Scan) -> None:
    problems = scan.problems["manifest"]
    if parts := part_manifests(folder):
        problems.append(f"{len(parts)} parts of a job array are not merged; when all are done, run mae-cli merge")
    if manifest is None:
        if not problems:
            problems.append(f"there is no {NAME}: files and counts can't be compared with what was written")
    elif not manifest.complete:
        problems.append("the build is unfinished; run the same build-saliency command again to finish it")


def _look_at_files(folder: Path, files: list[Path], manifest: Manifest | None, scan: _Scan) -> None:
    problems = scan.problems["files"]
    leftovers = [path for path in folder.rglob(".tmp-*") if ".cache" not in path.relative_to(folder).parts]
    problems += [f"{path.relative_to(folder)} is left over from a run that was killed" for path in leftovers]
    names = [path.name for path in files]
    listed = [shard.file for shard in manifest.shards] if manifest else names
    problems += [f"{name} is missing" for name in sorted(set(listed) - set(names))]
    problems += [f"{name} is not in the manifest" for name in sorted(set(names) - set(listed))]
    expected = {f"train-{number:05d}-of-{len(listed):05d}.parquet" for number in range(len(listed))}
    problems += [f"{name} is not one of {len(listed)} numbered shards" for name in sorted(set(listed) - expected)]
    strangers = [path.name for path in (folder / "data").glob("*") if path.name not in names]
    problems += [f"data/{name} is no shard" for name in sorted(strangers) if not name.startswith(".")]
    if not files:
        problems.append("there are no shards (data/train-*.parquet)")


def _look_at_counts(manifest: Manifest | None, scan: _Scan) -> None:
    # pairs in = written + rejected holds for whatever read_manifest returns
    for shard in manifest.shards if manifest else []:
        if shard.file in scan.rows and scan.rows[shard.file] != shard.written:
            scan.problems["counts"].append(
                f"{shard.file} has {scan.rows[shard.file]} rows, the manifest says {shard.written}"
            )


def _look_at_rejected(folder: Path, manifest: Manifest | None, scan: _Scan) -> None:
    if manifest is None or manifest.origin.get(PUBLISHED):
        return
    problems, known = scan.problems["rejected"], set()
    for shard in manifest.shards:
        # while a stream is read its length is unknown, and the names of its rejects stay without it
        stems = {shard.file.removesuffix(".parquet"), shard.file.split("-of-")[0].removesuffix(".parquet")}
        paths = [path for stem in stems if (path := folder / "rejected" / f"{stem}.jsonl").exists()]
        known |= {path.name for path in paths}
        count = 0
        for path in paths:
            lines = path.read_text().splitlines()
            count += len(lines)
            if not all(_is_reject(line) for line in lines):
                problems.append(f"rejected/{path.name} has a line without key and reason")
        if count != shard.rejected:
            problems.append(f"{shard.file}: {shard.rejected} pairs were rejected, but rejected/ lists {count}")
    strangers = sorted({path.name for path in (folder / "rejected").glob("*.jsonl")} - known)
    problems += [f"rejected/{name} belongs to no shard" for name in strangers]


def _is_reject(line: str) -> bool:
    try:
        content = json.loads(line)
    except ValueError:
        return False
    return isinstance(content, dict) and {"key", "reason"} <= content.keys()


def rejected_pairs(folder: Path) -> pa.Array:
    """A hash of every pair that the build rejected, see ``rows.pair_hashes``; unreadable lines are left out."""
    lines = [line for path in sorted((folder / "rejected").glob("*.jsonl")) for line in path.read_text().splitlines()]
    pairs = [json.loads(line) for line in lines if _is_reject(line)]
    keys, captions = ([pair.get(name) for pair in pairs] for name in ("key", "caption"))
    return pair_hashes(pa.array(keys, pa.string()), pa.array(captions, pa.string()))


def _look_at_duplicates(report: TableReport, scan: _Scan) -> None:
    later = later_occurrences(report.pairs)
    if len(later):
        first = read_rows(report.files, later[:1], ["key", "caption"]).to_pylist()[0]
        scan.problems["duplicates"].append(
            f"{len(later)} rows repeat the key and caption of an earlier one, first: {first['key']!r}"
        )


def _verdicts(report: TableReport, scan: _Scan) -> Iterator[Check]:
    """The checks in the order they are shown; what is found where there is no problem is a figure."""
    manifest, rows = report.manifest, sum(scan.rows.values())
    fine = {
        "manifest": "complete",
        "files": f"{len(scan.rows)} shard{'s' * (len(scan.rows) != 1)}, {scan.size / 1e6:.3g} MB",
        "sha256": "every file is the one that was written" if manifest else "nothing to compare with",
        "Parquet": "every row can be read",
        "schema": f"version {SCHEMA_VERSION}, {scan.grid}×{scan.grid} cells",
        "settings": "the same in every shard" + (" and in the manifest" if manifest else ""),
        "counts": f"{manifest.taken} in = {manifest.written} written + {manifest.rejected} rejected"
        if manifest
        else f"{rows} rows",
        "rejected": _rejected_line(manifest),
        "duplicates": "no key and caption twice",
        "values": f"{rows} rows in range; {scan.empty} maps ({scan.empty / max(rows, 1):.1%}) are empty",
    }
    for name, found in fine.items():
        problems = scan.problems.get(name, [])
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        yield Check(name, not problems, problems[0] + more if problems else found)


def _rejected_line(manifest: Manifest | None) -> str:
    if manifest is None:
        return "nothing to compare with"
    if manifest.origin.get(PUBLISHED):
        return "left out when the table was published"
    return f"all {manifest.rejected} with their reasons" if manifest.rejected else "none"
