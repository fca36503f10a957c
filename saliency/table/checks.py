"""What can be wrong with a maps folder, found without its images and before anyone trains on it.

``check_table`` looks at everything and stops at nothing: the manifest, the files it lists and their hashes, the schema
and settings that the shards share, counts, rejected pairs, duplicates, and every value of every row. It reads a batch
at a time and keeps 16 bytes a row, writes nothing, and says what it found in one line a check.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from saliency.files import open_regular, parse_json
from saliency.table.manifest import APPEND, NAME, Manifest, part_manifests, read_manifest
from saliency.table.rows import hashes_of, later_occurrences, pair_hashes, read_rows
from saliency.table.shard import ShardError, ShardFile, reading, version_of, wrong_values
from saliency.table.table import shard_files

PUBLISHED = "published"
"""In a manifest's origin: the table is a published copy, which leaves ``rejected/`` out."""

_NUMBERED = re.compile(r"train-(\d{5})-of-(\d{5})\.parquet")
_BATCH = 4096
_LONGEST_LINE = 1 << 26  # bytes of a rejected pair


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: whether all is well, and what was found, in one line."""

    name: str
    passed: bool
    found: str


@dataclass
class TableReport:
    """What ``check_table`` found, and what it learned on the way.

    ``files`` are the shards that can be read and have the right schema; ``pairs`` holds a 16-byte hash of each of
    their rows, in file order (see ``rows.pair_hashes``).
    """

    folder: Path
    manifest: Manifest | None = None
    checks: list[Check] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    pairs: pa.Array = field(default_factory=lambda: hashes_of(b""))

    @cached_property
    def keys(self) -> pa.Array:
        """A hash of every row's key, in file order, read once more. ShardError."""
        hashes = (pair_hashes(batch["key"]) for path in self.files for batch in ShardFile(path).batches(["key"]))
        return pa.concat_arrays([hashes_of(b""), *hashes])

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
    slots: int = 1
    pairs: list[bytes] = field(default_factory=list)
    empty: int = 0
    size: int = 0


def check_table(folder: Path, *, step: Callable[[int], object] = lambda _: None) -> TableReport:
    """Look at all of a maps folder; ``step`` is told of every so many bytes of its shards that are done."""
    report = TableReport(folder)
    scan = _Scan()
    try:
        report.manifest = read_manifest(folder)
    except ValueError as error:
        scan.problems["manifest"].append(f"{NAME} can't be read: {error}")
    files = shard_files(folder)
    for path in files:
        before = scan.size
        _scan_shard(path, report.manifest, scan)
        step(scan.size - before)
    report.files = scan.files
    report.pairs = hashes_of(b"".join(scan.pairs))
    _look_at_manifest(folder, report.manifest, scan)
    _look_at_files(folder, files, report.manifest, scan)
    _look_at_counts(report.manifest, scan)
    _look_at_rejected(folder, report.manifest, scan)
    _look_at_duplicates(report, scan)
    report.checks = list(_verdicts(report, scan))
    return report


def _scan_shard(path: Path, manifest: Manifest | None, scan: _Scan) -> None:
    known = len(scan.pairs)
    try:
        with reading(path), open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            scan.size += path.stat().st_size
        listed = {shard.file: shard.sha256 for shard in manifest.shards} if manifest else {}
        if listed.get(path.name, digest) != digest:
            told = f"{path.name} is not the file that was written: its sha256 is {digest[:12]}…"
            scan.problems["sha256"].append(told)
        shard = ShardFile(path)
        scan.grid, scan.slots = shard.grid, shard.slots
        _look_at_settings(shard, manifest, scan)
        for batch in shard.batches(size=_BATCH):
            _look_at_rows(path, batch, scan)
    except ShardError as error:
        scan.problems[error.check].append(f"{path.name} {error.what}")
        del scan.pairs[known:]  # rows are numbered over the readable shards
        return
    scan.files.append(path)


def _look_at_settings(shard: ShardFile, manifest: Manifest | None, scan: _Scan) -> None:
    metadata = shard.metadata
    first = scan.metadata = metadata if scan.metadata is None else scan.metadata
    wanted = {name: manifest.settings.get(name) for name in metadata} if manifest else first
    names = sorted(metadata.keys() | first.keys())
    differing = [name for name in names if not metadata.get(name) == wanted.get(name) == first.get(name)]
    if differing:
        scan.problems["settings"].append(f"{shard.path.name} was made with other settings: {', '.join(differing)}")


def _look_at_rows(path: Path, batch: pa.RecordBatch, scan: _Scan) -> None:
    first = scan.rows.get(path.name, 0)
    scan.rows[path.name] = first + len(batch)
    scan.pairs.append(pair_hashes(batch["key"], batch["caption"]).buffers()[1].to_pybytes())
    scan.empty += int((np.asarray(batch["vmin"]) + np.asarray(batch["scale"]) <= 0).sum())
    for what, wrong in wrong_values(batch):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            key = batch["key"][row].as_py()
            scan.problems["values"].append(f"{what} in row {first + row} of {path.name} (key {key!r})")


def _look_at_manifest(folder: Path, manifest: Manifest | None, scan: _Scan) -> None:
    problems = scan.problems["manifest"]
    if parts := part_manifests(folder):
        problems.append(f"{len(parts)} parts of a job array are not merged; when all are done, run mae-cli merge")
    if manifest is None:
        if not problems:
            problems.append(f"there is no {NAME}: files and counts can't be compared with what was written")
    elif not manifest.complete:
        problems.append("the build is unfinished; run the command that began it again to finish it")


def _look_at_files(folder: Path, files: list[Path], manifest: Manifest | None, scan: _Scan) -> None:
    problems = scan.problems["files"]
    own = {".cache", APPEND}  # what is written there becomes part of the table later, or never
    leftovers = [path for path in folder.rglob(".tmp-*") if own.isdisjoint(path.relative_to(folder).parts)]
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
            rejects = list(_rejects(path, problems))
            count += len(rejects)
            if not all(rejects):
                problems.append(f"rejected/{path.name} has a line without key and reason")
        if count != shard.rejected:
            problems.append(f"{shard.file}: {shard.rejected} pairs were rejected, but rejected/ lists {count}")
    strangers = sorted({path.name for path in (folder / "rejected").glob("*.jsonl")} - known)
    problems += [f"rejected/{name} belongs to no shard" for name in strangers]


def _rejects(path: Path, problems: list[str]) -> Iterator[tuple[str, str] | None]:
    """(key, caption) of each line of a file of rejected pairs, None for a line that is no such pair.

    A file that can't be read is one of the ``problems``. Lines end where JSON lines do: other signs that break lines
    may stand in a caption.
    """
    try:
        with open_regular(path) as file:
            while line := file.readline(_LONGEST_LINE):
                yield _reject(line)
    except OSError as error:
        problems.append(f"rejected/{path.name} can't be read: {error.strerror or error}")


def _reject(line: bytes) -> tuple[str, str] | None:
    try:
        pair = parse_json(line.decode())
        key, caption, reason = pair["key"], pair.get("caption") or "", pair["reason"]
        for text in (key, caption, reason):
            text.encode()
    except (ValueError, LookupError, TypeError, AttributeError):  # of another shape, or no UTF-8
        return None
    return key, caption


def rejected_pairs(folder: Path, *, by_key: bool = False, composed: bool = False) -> pa.Array:
    """A hash of every pair that the build rejected, or of its key alone; unreadable lines are left out.

    See ``rows.pair_hashes``.
    """
    found = (_rejects(path, []) for path in sorted((folder / "rejected").glob("*.jsonl")))
    pairs = [pair for rejects in found for pair in rejects if pair]
    keys, captions = zip(*pairs, strict=True) if pairs else ((), ())
    texts = None if by_key else pa.array(captions, pa.string())
    return pair_hashes(pa.array(keys, pa.string()), texts, composed=composed)


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
        "schema": f"version {version_of(scan.slots)['schema_version']}, {scan.grid}×{scan.grid} cells"
        + (f" in {scan.slots} slots" if scan.slots > 1 else ""),
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
